# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Options shared by `sen eval` and `sen fit`."""

from pathlib import Path
from typing import Annotated

import typer

from modeling_sen.evaluation.protocols import DATASETS, PROTOCOLS

ProtocolName = Annotated[str, typer.Option("--protocol", help=f"One of {', '.join(PROTOCOLS)}.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help=f"Data set, for templates and Hub id: one of {', '.join(DATASETS)}.")
]
Root = Annotated[Path | None, typer.Option(help="Folder of the clips, if DATA are list files.")]
ClassNames = Annotated[
    list[Path] | None, typer.Option(help="File of class names (id,name), once for all or once for each DATA.")
]
Templates = Annotated[
    list[str] | None, typer.Option("--template", help="Text with {} for the label, instead of the protocol's.")
]
Column = Annotated[
    str | None, typer.Option(help="Column of labels or texts in a table; for world:..., colour, shape or motion.")
]
BatchSize = Annotated[int, typer.Option(help="Clips per forward pass.", min=1)]
