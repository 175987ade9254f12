# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The example on a model card: code that loads and runs the model; it is run on a generated clip before a push."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_sen.hub_files import CheckpointError

REAL_LABELS = ["a dog running", "a person cooking"]
WORLD_LABELS = ["a red circle moving left", "a blue star shaking"]  # words in the vocabulary of sen-tiny's towers
# Source and edit prompt; of a model that was tuned on a clip, the clip's own prompt takes the place of the first.
REAL_PROMPTS = ("a person cooking", "a person cooking, watercolour painting")
WORLD_PROMPTS = ("a red circle moving left", "a blue circle moving left")

_RECOGNITION = """\
import modeling_sen
from transformers import pipeline

classify = pipeline("zero-shot-video-classification", model={location})
print(classify({clip}, candidate_labels={labels}))"""

_TRACKING = """\
import modeling_sen
from transformers import pipeline

track = pipeline("video-tracking", model={location})
tracked = track({clip}, query_points=[[20, 30], [40, 12]])
print(tracked.tracks.shape, tracked.visibility.mean())"""

_CHAT = """\
import modeling_sen
from transformers import pipeline

chat = pipeline("video-chat", model={location})
print(chat(video={clip}, question="what is in the video?")["answer"])"""

_EDITING = """\
import modeling_sen
from transformers import pipeline

edit = pipeline("video-editing", model={location})
edited = edit(
    {clip},
    source_prompt={source_prompt},
    edit_prompt={edit_prompt},
    num_inference_steps=20,
)
edited.save("edited.mp4")
print(edited.frames.shape)"""

_ENCODER = """\
from modeling_sen import SENEncoder

encoder = SENEncoder.from_pretrained({location})
print(encoder.encode({clip}).shape)"""

_HEAD = """\
from {module} import {name}
from modeling_sen import SENProcessor

model = {name}.from_pretrained({location})
processor = SENProcessor(model.base_model.config, model.base_model.neurons.base)
print(list(model(**processor(videos={clip}))))"""

_ADAPTER = """\
from {module} import {name}
from peft import PeftModel

model = PeftModel.from_pretrained({name}.from_pretrained({base}), {location})
print(model.peft_config["default"].peft_type)"""

_REMOTE_SEN = """\
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained({location}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({location}, trust_remote_code=True)
print(model(**processor(videos={clip})).fused_embeds.shape)"""

_REMOTE_HEAD = """\
from transformers import AutoModel

model = AutoModel.from_pretrained({location}, trust_remote_code=True)
print(model.config)"""

_REMOTE_TRACKING = """\
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained({location}, trust_remote_code=True)
frames = torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8)
print(model(frames, query_points=torch.tensor([[0.0, 20.0, 30.0]])).tracks.shape)"""

# Prepended to examples that must run without the package.
_HIDE_PACKAGE = """\
import importlib.abc, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_sen":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
"""


@dataclass(frozen=True)
class Task:
    """Task of a model type.

    Attributes:
        name: of the package's pipeline; a tag of the card.
        pipeline_tag: the nearest on the Hub's own list of tasks.
        example: lines of Python with `{location}`, `{clip}` and `{labels}`; of a head also `{module}` and `{name}`; of
            editing `{source_prompt}` and `{edit_prompt}`.
        remote_example: the same without the package, by code that travels with the checkpoint.
        install: the command that installs what the example needs.
    """

    name: str | None
    pipeline_tag: str
    example: str
    remote_example: str = _REMOTE_HEAD
    install: str = "pip install modeling-sen"


# Model type -> task; heads add entries.
TASKS: dict[str, Task] = {
    "sen": Task("zero-shot-video-classification", "video-classification", _RECOGNITION, _REMOTE_SEN),
    # The Hub's list has no point tracking; this is the task of models that detect and match points.
    "sen_tracking": Task(
        "video-tracking",
        "keypoint-detection",
        _TRACKING,
        _REMOTE_TRACKING,
        "pip install 'modeling-sen[tracking]'",
    ),
    "sen_chat": Task("video-chat", "video-text-to-text", _CHAT, install="pip install 'modeling-sen[chat]'"),
    "sen_editing": Task("video-editing", "video-to-video", _EDITING, install="pip install 'modeling-sen[editing]'"),
}
_EMBEDDING = Task(None, "feature-extraction", _ENCODER, _REMOTE_SEN)
_UNKNOWN_HEAD = Task(None, "feature-extraction", _HEAD)


def task_of(model: Any) -> Task:
    """The model's entry of `TASKS`; a SEN without a text tower gets video embedding."""
    if model.config.model_type == "sen" and model.config.text_tower is None:
        return _EMBEDDING
    return TASKS.get(model.config.model_type, _UNKNOWN_HEAD)


def example(model: Any, location: str) -> str:
    """Python code that loads a model and runs it on `clip.mp4`.

    Args:
        model: the model.
        location: the repository or folder, as a Python expression.
    """
    return task_of(model).example.format(location=location, **_words(model))


def remote_example(model: Any, location: str) -> str:
    """As `example`, without the package, with remote code."""
    return task_of(model).remote_example.format(location=location, **_words(model))


def adapter_example(module: str, name: str, base: str, location: str) -> str:
    """Python code that loads an adapter and its base model; arguments are Python names and expressions."""
    return _ADAPTER.format(module=module, name=name, base=base, location=location)


def _words(model: Any) -> dict[str, str]:
    specs = model.base_model.config.neuron_specs
    modalities = {spec.modality for spec in specs}
    # A video file has frames and sound; other modalities need a dict.
    clip = '"clip.mp4"'
    if not modalities & {"image", "video", "audio"} and model.config.model_type != "sen_editing":
        modality = sorted(modalities)[0]
        clip = f'{{"{modality}": {"a dog barks" if modality == "text" else "clip.mp4"!r}}}'.replace("'", '"')
    is_of_world = any((spec.base_model or spec.hub_id).startswith("builtin:") for spec in specs)
    prompts = WORLD_PROMPTS if is_of_world else REAL_PROMPTS
    tuning = tuning_of(model)
    source_prompt = (tuning or {}).get("prompt", prompts[0])
    labels = str(WORLD_LABELS if is_of_world else REAL_LABELS).replace("'", '"')
    module = type(model).__module__
    package = "modeling_sen" if module == "modeling_sen.modeling_sen" else module
    return {
        "clip": clip,
        "labels": labels,
        "module": package,
        "name": type(model).__name__,
        "source_prompt": json.dumps(source_prompt),
        "edit_prompt": json.dumps(prompts[1]),
    }


def tuning_of(model: Any) -> dict[str, Any] | None:
    """The record of an editing model's tuning on one clip, `None` of other models and of one that was not tuned."""
    adapter = getattr(model, "adapter", None) if model.config.model_type == "sen_editing" else None
    return None if adapter is None else adapter.config.tuning


def run_example(code: str, where: str, offline: bool = False, without_package: bool = False) -> str:
    """Runs an example in a subprocess, in a folder with a generated `clip.mp4`.

    Args:
        code: the example.
        where: the checkpoint, for the error message.
        offline: whether to run without network.
        without_package: whether to hide the package, as if it were not installed.

    Returns:
        The example's output.

    Raises:
        RuntimeError: the example failed; the message has the last line of its error.
    """
    from modeling_sen.world.write import write_world

    environment = dict(os.environ)
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join([*filter(None, sys.path), *_folders_of_own_modules(code)])
    if without_package:
        code = _HIDE_PACKAGE + code
    with tempfile.TemporaryDirectory() as work:
        write_world(Path(work, "world"), "test", 1, num_objects=1)
        shutil.copy(Path(work, "world", "videos", "000000.mp4"), Path(work, "clip.mp4"))
        environment["HF_MODULES_CACHE"] = str(Path(work, "modules"))  # avoids cached copies of the code
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CheckpointError(f"{where}: the example of its card fails ({reason}); nothing was pushed")
    return done.stdout.strip()


def _folders_of_own_modules(code: str) -> list[str]:
    """Folders of the example's modules that this process imported by file name (`sen --import my_head.py`)."""
    names = re.findall(r"^from (\w+) import", code, re.MULTILINE)
    files = [getattr(sys.modules.get(name), "__file__", None) for name in names]
    return [os.path.dirname(os.path.abspath(file)) for file in files if file and not file.endswith("__init__.py")]


__all__ = ["TASKS", "Task", "adapter_example", "example", "remote_example", "run_example", "task_of", "tuning_of"]
