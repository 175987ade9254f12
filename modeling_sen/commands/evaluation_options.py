# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Options that `sen eval` and `sen fit` have in common."""

from pathlib import Path
from typing import Annotated

import typer

from modeling_sen.evaluation.protocols import DATASETS, PROTOCOLS

ProtocolName = Annotated[str, typer.Option("--protocol", help=f"One of {', '.join(PROTOCOLS)}.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help=f"Whose templates and Hub id: one of {', '.join(DATASETS)}.")
]
Root = Annotated[Path | None, typer.Option(help="Folder of the clips; DATA are list files then.")]
ClassNames = Annotated[
    list[Path] | None, typer.Option(help="File of class names (id,name), once or once for each DATA.")
]
Templates = Annotated[
    list[str] | None, typer.Option("--template", help="Text with {} for the label instead of the protocol's.")
]
Column = Annotated[
    str | None, typer.Option(help="Of labels or texts in a table, or the world's colour, shape, motion.")
]
BatchSize = Annotated[int, typer.Option(help="Clips that the model sees at once.", min=1)]
