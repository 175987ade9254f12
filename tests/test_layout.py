"""Rules for the modules: allowed imports, import forms of files that are copied with a checkpoint, and file length.

A new module needs a line here: `GROUPS` assigns it to a group, `BELOW` lists the groups that a group may import from.
"""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

from transformers.dynamic_module_utils import get_relative_import_files

import sen_cli

ROOT = Path(__file__).resolve().parents[1]
# Folders of the package's modules; pipelines and conversion are installed as parts of the package.
SOURCES = {"": ROOT / "modeling_sen", "pipelines": ROOT / "pipelines", "conversion": ROOT / "conversion"}

OWN = {"modeling_sen", "pipelines", "conversion", "sen_cli", "recipes", "benchmarks", "tests"}

# Group -> its modules; a name that ends in a slash is a folder.
GROUPS = {
    "presets": {"presets", "templates"},
    "configuration": {"configuration_sen"},
    "files": {"whole_file"},
    "neuron": {
        "prompt_injection",
        "prompt_queries",
        "first_look",
        "neuron_registry",
        "tower_inputs",
        "neuron_by_rule",
        "hub_files",
        "neuron",
        "neuron_loading",
        "tower_weights",
        "neuron_bank",
        "sentence_layout",
        "text_reader",
    },
    "association": {"prompting", "recursive_association"},
    "model": {"pretrained_sen", "sen_outputs", "dense_features", "modeling_sen"},
    "inputs": {
        "media_source",
        "video_decoder",
        "frame_index",
        "frame_decoding",
        "frame_sampling",
        "frame_times",
        "video_io",
        "audio_io",
        "clip_inputs",
        "clip_sound",
        "frame_transform",
        "family_settings",
        "depth_estimation",
        "processing_sen",
    },
    "video files": {"sound_track", "write_video"},
    "world": {"world/"},
    "around the model": {
        "encoding",
        "explain",
        "cost",
        "text_tables",
        "base_models",
        "card_example",
        "card_results",
        "model_card",
        "adapter_card",
        "upload_files",
        "publishing",
        "training/",
        "evaluation/",
    },
    "heads": {
        *("point_features", "point_refiner", "point_network", "modeling_sen_tracking"),
        *("visual_tokens", "language_model", "configuration_sen_chat", "modeling_sen_chat"),
        *("chat_prompt", "video_windows", "window_reader", "processing_sen_chat"),
        *("window_features", "modeling_sen_editing"),
    },
    "families": {"families/"},
    "tracking": {"tracking/"},
    "chat": {"chat/"},
    "editing": {"editing/"},
    "conversion": {"conversion/"},
    "pipelines": {"pipelines/"},
    "commands": {"commands/"},
    "doors": {"__init__", "__main__", "auto"},
}

# Group -> the groups directly below it. A module may import from its own group and from all groups below it.
BELOW = {
    "presets": (),
    "configuration": ("presets",),
    "files": (),
    "neuron": ("configuration", "files"),
    "association": ("neuron",),
    "model": ("association",),
    "inputs": ("neuron",),  # not below the model, which never decodes files
    "video files": ("inputs",),
    "world": ("files",),
    "around the model": ("heads", "world", "chat", "tracking"),
    "heads": ("model", "inputs"),
    "tracking": ("heads", "video files"),
    "chat": ("heads",),
    "editing": ("around the model",),  # `sen tune` trains with its trainer
    "families": ("inputs",),  # models missing in Transformers that can become neurons
    "conversion": ("around the model", "families", "editing"),
    "pipelines": ("around the model", "tracking", "chat", "editing"),
    "commands": ("pipelines", "conversion"),  # no group imports them
    "doors": ("pipelines", "families"),  # they import everything that the package registers
}

# Exceptions, inside functions: (module, module of a higher group that it imports)
BACKWARDS = {
    (
        "configuration_sen",
        "modeling_sen.recursive_association",
    ),  # to check variants against the registries
    ("pretrained_sen", "modeling_sen.publishing"),  # the model's own `push_to_hub`
    ("hub_files", "modeling_sen.families"),  # to register tower types that Transformers lacks
    ("modeling_sen_tracking", "modeling_sen.tracking.track_clip"),  # not copied: not part of the network
    ("modeling_sen_tracking", "modeling_sen.tracking.stream"),
    ("modeling_sen_editing", "modeling_sen.editing.base_unet"),
    ("commands/push", "modeling_sen.auto"),  # loads models of any type
    ("commands/train", "modeling_sen.auto"),
    ("commands/chat", "modeling_sen.auto"),
    ("commands/edit", "modeling_sen.auto"),
    ("commands/tune", "modeling_sen.auto"),
    ("commands/track", "modeling_sen.auto"),  # loads a tracker of any type
    ("commands/evaluate_chat", "modeling_sen.auto"),  # loads a chat model of any type
    ("commands/evaluate_editing", "modeling_sen.auto"),
    ("commands/evaluate_tracking", "modeling_sen.auto"),  # loads a tracker of any type
}

# Groups of files that Transformers copies with a checkpoint, so that it runs without the package.
TRAVELLING = {"configuration", "files", "neuron", "association", "model", "inputs", "heads"}
# (copied file, module of the package that it imports if the package is installed)
TRIED = {
    ("configuration_sen", "modeling_sen.presets"),
    ("pretrained_sen", "modeling_sen.publishing"),
    ("hub_files", "modeling_sen.families"),
    ("modeling_sen_tracking", "modeling_sen.tracking.track_clip"),
    ("modeling_sen_tracking", "modeling_sen.tracking.stream"),
    ("modeling_sen_editing", "modeling_sen.editing.base_unet"),
}

LONGEST = 400
LONGER = {"modeling_sen/modeling_sen.py": 420}


class Import(NamedTuple):
    """One import of a module of this repository, anywhere in a file.

    Attributes:
        module: dotted, from the root: `modeling_sen.world.scene`, also for relative imports.
        form: `"."` for `from .name`, `".."` for `from ..name`, `""` for an absolute import.
    """

    line: int
    module: str
    form: str


@cache
def package() -> dict[str, Path]:
    """The package's modules by name, such as `world/scene`, with their files."""
    found = {}
    for prefix, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            found["/".join([*filter(None, [prefix]), *path.relative_to(folder).with_suffix("").parts])] = path
    return found


@cache
def imports(path: Path) -> list[Import]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, "") for alias in node.names if alias.name.split(".")[0] in OWN]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append(Import(node.lineno, ".".join(filter(None, ["modeling_sen", node.module])), "." * node.level))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OWN:
            for alias in node.names:  # a module of a folder, or a name of a module
                inner = f"{node.module}.{alias.name}"
                found.append(Import(node.lineno, inner if name_of(inner) in package() else node.module, ""))
    return found


def name_of(dotted: str) -> str:
    """`modeling_sen.world.scene` -> `world/scene`; a folder or the package itself -> its `__init__`."""
    place = "/".join(dotted.split(".")[1:])
    folder = f"{place}/__init__".removeprefix("/")
    return folder if folder in package() else place


def group_of(name: str) -> str | None:
    for group, modules in GROUPS.items():
        if name in modules or any(module.endswith("/") and name.startswith(module) for module in modules):
            return group
    return None


def reach(group: str) -> set[str]:
    """The groups that modules of this group may import from."""
    return {group}.union(*(reach(below) for below in BELOW[group]))


def of_the_package(path: Path) -> list[Import]:
    return [each for each in imports(path) if each.module.split(".")[0] == "modeling_sen"]


def test_every_module_has_a_group():
    assert [name for name in package() if group_of(name) is None] == []
    assert set(BELOW) == set(GROUPS)


def test_modules_import_only_from_groups_below():
    backwards = [
        f"{name}, line {each.line}: {group_of(name)} imports {each.module}"
        for name, path in package().items()
        for each in of_the_package(path)
        if group_of(name)
        and group_of(name_of(each.module)) not in reach(group_of(name))
        and (name, each.module) not in BACKWARDS
    ]
    assert backwards == []


def test_only_commands_and_doors_import_pipelines_and_nothing_imports_commands():
    """A separate check, in case the table is changed by mistake."""
    assert {group for group in GROUPS if "pipelines" in reach(group)} == {"pipelines", "commands", "doors"}
    assert {group for group in GROUPS if "commands" in reach(group)} == {"commands"}


def test_verbs_do_not_import_each_other():
    """Code that two commands share belongs in a module that is not a command."""
    verbs = {entry.split(":")[0] for entry, _ in sen_cli.VERBS.values()}
    found = [
        f"{name}, line {each.line}: imports {each.module}"
        for name, path in package().items()
        for each in of_the_package(path)
        if each.module in verbs
    ]
    assert found == []


def test_the_package_imports_nothing_else_from_the_repository():
    found = [
        f"{name}, line {each.line}: imports {each.module}"
        for name, path in package().items()
        for each in imports(path)
        if each not in of_the_package(path) and (name, each.module) != ("__main__", "sen_cli")
    ]
    assert found == []


def test_travelling_files_import_by_from_dot_name_and_others_absolutely():
    """Transformers' copy of remote code follows only `from .name import x`."""
    found = []
    for name, path in package().items():
        for each in of_the_package(path):
            relative = each.form == "." and each.module.count(".") == 1
            right = relative if group_of(name) in TRAVELLING else each.form == ""
            if not right and (name, each.module) not in TRIED:
                found.append(f"{name}, line {each.line}: imports {each.module} by another form")
    assert found == []


def test_travelling_files_are_exactly_those_that_transformers_copies():
    first = [
        package()[name]
        for name in (
            "configuration_sen",
            "modeling_sen",
            "processing_sen",
            "modeling_sen_tracking",
            "modeling_sen_editing",
            "processing_sen_chat",
            "modeling_sen_chat",
        )
    ]
    copied = {Path(path).stem for one in first for path in (one, *get_relative_import_files(str(one)))}
    assert copied == {name for name in package() if group_of(name) in TRAVELLING}


def test_files_have_at_most_400_lines():
    folders = [ROOT / name for name in ("recipes", "benchmarks", "tests")]
    paths = [ROOT / "sen_cli.py", *package().values(), *(path for folder in folders for path in folder.rglob("*.py"))]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert {name: count for name, count in lines.items() if count > LONGER.get(name, LONGEST)} == {}
