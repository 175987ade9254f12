# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The model card of a SEN or a head, from `model_cards/template.md` and files in the checkpoint's folder.

These files are `train.yaml` and `trainer_state.json` of the run (for `best` and `last` of `sen train` one level up), results
of `sen eval` in `evaluation/`, and texts by the authors in `card/`, a Markdown file for each of `SECTIONS`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_sen.base_models import OWN_LICENCE, BaseModel, base_models
from modeling_sen.card_example import example, remote_example, task_of, tuning_of
from modeling_sen.card_results import results_table, shown_source
from modeling_sen.configuration_sen import SENConfig

# Sections to which `card/NAME.md`, and after it `card/NAME_*.md`, add text.
SECTIONS = ("introduction", "base_models", "training_data", "measured", "limits")
# Texts that identify generated, unchanged cards.
_STUBS = ("This model card has been automatically generated", "This model card has been generated automatically")
_MARK = re.compile(r"\n<!-- written by modeling-sen; sha1 of the text: (\w+) -->\s*$")
NO_TRAINING = "How it was trained is not recorded."
NO_MEASURES = "No measurements are recorded."
NO_LIMITS = "Those who trained it have recorded none."
PAPER = "[arXiv 2506.07576](https://arxiv.org/abs/2506.07576)"


def template_path() -> Path:
    """Path of the card's template: in the installed package, or beside it in the repository."""
    package = Path(__file__).parent
    return next(path for path in _template_places(package) if path.is_file())


def _template_places(package: Path) -> tuple[Path, ...]:
    return package / "model_cards" / "template.md", package.parent / "model_cards" / "template.md"


def model_card(
    model: Any,
    config: SENConfig,
    repo_id: str,
    about: Path | None = None,
    results: Sequence[EvalResult] = (),
    licence: str = OWN_LICENCE,
    fetch: Mapping[str, Any] | None = None,
    location: str | None = None,
    with_code: bool = False,
    ran: str = "",
    training: str | None = None,
    language_model: Mapping[str, Any] | None = None,
) -> ModelCard:
    """The card of a model.

    Args:
        model: any model with a SEN whose towers are loaded.
        config: the saved configuration of its SEN.
        repo_id: id of the repository.
        about: folder of the checkpoint, with the files listed above.
        results: measured results.
        licence: licence of the trained weights.
        fetch: arguments to fetch the cards of the encoders' repositories.
        location: the example's checkpoint, as a Python expression; default: `repo_id`.
        with_code: whether the repository contains the model's code.
        ran: a sentence about the versions with which the example was run.
        training: text about the training, instead of the text from `train.yaml`.
        language_model: saved location of the language model; default: that of the model.
    """
    location = location or f'"{repo_id}"'
    bases = base_models(model, config, fetch or {}, language_model)
    restricted = [base for base in bases if base.is_non_commercial]
    task = task_of(model)
    measured: dict[str, Any] = {"model_name": repo_id.split("/")[-1], "eval_results": list(results)} if results else {}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["sen", *filter(None, [task.name])],
        base_model=list(dict.fromkeys(base.hub_id for base in bases if base.hub_id)) or None,
        base_model_relation="adapter" if any(base.hub_id for base in bases) else None,
        **licence_metadata(licence, restricted),
        **measured,
    )
    words = words_beside(about)
    return filled(
        data,
        title=repo_id.split("/")[-1],
        introduction=joined(_introduction(model, bases), words["introduction"]),
        restricted=restriction(restricted, licence),
        install=task.install,
        snippet=example(model, location),
        remote_snippet=remote_example(model, location) if with_code else "",
        ran=ran,
        base_models=joined(_base_models(bases), words["base_models"]),
        trained=_trained(model, bases),
        training_data=joined(training or training_text(about), tuning_text(tuning_of(model)), words["training_data"])
        or NO_TRAINING,
        measured=joined(words["measured"], _measured(results)) or NO_MEASURES,
        limits=_limits(model, bases, words["limits"]),
    )


# --- existing cards --------------------------------------------------------------------------------------------------


def marked(card: ModelCard) -> ModelCard:
    """Appends the SHA-1 of the text, by which a later push detects changes."""
    text = card.text.rstrip() + "\n"
    card.text = f"{text}\n<!-- written by modeling-sen; sha1 of the text: {_sha1(text)} -->\n"
    return card


def is_generated(text: str) -> bool:
    """Whether a card's text is generated and unchanged, so that it may be replaced."""
    mark = _MARK.search(text)
    if mark is None:
        return not text.strip() or any(stub in text for stub in _STUBS)
    return _sha1(text[: mark.start()]) == mark[1]


def keeping_text(card: ModelCard, existing: ModelCard) -> ModelCard:
    """The existing card with the metadata of the new one, and the tags of both."""
    tags = list(dict.fromkeys([*(existing.data.get("tags") or []), *(card.data.get("tags") or [])]))
    new = {name: value for name, value in card.data.__dict__.items() if value is not None}
    # Results of replaced weights are removed.
    existing.data.__dict__.update({"eval_results": None, "model_name": None, **new, "tags": tags})
    return existing


def _sha1(text: str) -> str:
    return hashlib.sha1(text.strip().encode()).hexdigest()


# --- sections --------------------------------------------------------------------------------------------------------


def filled(data: ModelCardData, **sections: str) -> ModelCard:
    return marked(ModelCard.from_template(data, template_path=str(template_path()), **sections))


def words_beside(about: Path | None) -> dict[str, str]:
    """Section -> text from `card/`."""
    found = dict.fromkeys(SECTIONS, "")
    for section in SECTIONS if about is not None else ():
        files = [about / "card" / f"{section}.md", *sorted((about / "card").glob(f"{section}_*.md"))]  # type: ignore[operator]
        found[section] = joined(*(file.read_text().strip() for file in files if file.is_file()))
    return found


def joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def licence_metadata(licence: str, restricted: Sequence[BaseModel]) -> dict[str, Any]:
    if not restricted:
        return {"license": licence}
    first = restricted[0]
    return {
        "license": "other",
        "license_name": str(first.licence),
        "license_link": _licence_link(first),
    }


def _licence_link(base: BaseModel) -> str:
    if base.hub_id:
        return f"https://huggingface.co/{base.hub_id}"
    creative_commons = re.fullmatch(r"cc-(by[a-z-]*)-(\d\.\d)", str(base.licence))
    return (
        "https://creativecommons.org/licenses/{}/{}/".format(*creative_commons.groups())
        if creative_commons
        else "LICENSE"
    )


def restriction(restricted: Sequence[BaseModel], licence: str) -> str:
    if not restricted:
        return ""
    names = ", ".join(
        f"`{base.name}` ({base.hub_id or 'a local folder'}) is under {base.licence}" for base in restricted
    )
    return f"{names}, and nothing here works without it. What was trained on top is under {licence}."


# Base models that are no neurons -> the folder with their copy.
_FOLDERS = {"language_model": "`language_model`", "unet": "`base`"}


def _introduction(model: Any, bases: Sequence[BaseModel]) -> str:
    neurons = [base.name for base in bases if base.name not in ("class_text", *_FOLDERS)]
    rounds = model.base_model.config.num_rounds
    what = "A Super Encoding Network (SEN)"
    if model.config.model_type != "sen":
        what = f"`{type(model).__name__}`, a head on a Super Encoding Network (SEN)"
    return (
        f"{what}: {len(neurons)} frozen {'encoder' if len(neurons) == 1 else 'encoders'} ({', '.join(neurons)}) and a small "
        f"trained block that associates them in {rounds} {'round' if rounds == 1 else 'rounds'}, after {PAPER}."
    )


def _base_models(bases: Sequence[BaseModel]) -> str:
    rows = ["| neuron | is given | base model | commit | licence | parameters |", "|---|---|---|---|---|---|"]
    for base in bases:
        name = "not recorded"
        if base.is_builtin:
            name = f"a {'language model' if base.name == 'language_model' else 'tower'} of the package modeling-sen"
        elif base.is_beside and base.name == "unet":
            name = "[base](base), in this repository"
        elif base.hub_id:
            name = f"[{base.hub_id}](https://huggingface.co/{base.hub_id})"
        commit = f"`{base.revision[:12]}`" if base.revision else ""
        size = "?" if base.parameters is None else f"{base.parameters:,}"
        rows.append(f"| `{base.name}` | {base.sees} | {name} | {commit} | {base.licence or 'unknown'} | {size} |")
    beside = [base for base in bases if base.is_beside]
    text = "They are loaded from there, at these commits."
    if beside:
        which = "all of them" if len(beside) == len(bases) else ", ".join(base.name for base in beside)
        folders = {_FOLDERS.get(base.name, "`neuron_NAME`") for base in beside}
        text = f"This repository holds {which}, in {' and '.join(sorted(folders, reverse=True))}."
    elif all(base.is_builtin for base in bases):
        text = "They come with the package."
    return joined("\n".join(rows), text)


def _trained(model: Any, bases: Sequence[BaseModel]) -> str:
    config, own = model.base_model.config, sum(weight.numel() for weight in model.state_dict().values())
    total = f"{own:,} parameters"
    if all(base.parameters is not None for base in bases):
        everything = sum(weight.numel() for weight in model.parameters())
        total = f"{own:,} of {everything:,} parameters ({100 * own / everything:.2f} %)"
    kinds = {"sen": "association", "sen_chat": "association and projector", "sen_editing": "association"}
    what = kinds.get(model.config.model_type, "association and head")
    depth = {None: "the upper quarter", "all": "all"}.get(config.prompt_depth, f"the upper {config.prompt_depth}")
    again = (
        "no second look" if config.prompt == "none" else f"second look `{config.prompt}` through {depth} of its layers"
    )
    text = (
        f"{total} are the {what}, which was trained and is what `model.safetensors` holds: {config.num_rounds} rounds, "
        f"{config.num_prompt_tokens} prompt tokens for each neuron, {again}."
    )
    llm, bare = getattr(model, "language_model", None), next((b for b in bases if b.name == "language_model"), None)
    if llm is not None and bare is not None and (added := llm.num_parameters() - (bare.parameters or 0)):
        text += f" Adapters of the language model, {added:,} more parameters, are in `language_model_adapter`."
    if (adapter := getattr(model, "adapter", None)) is not None:
        text += f" The adapter of the diffusion model, {adapter.num_parameters():,} more parameters, is in `adapter`."
        if adapter.config.tuning is None:
            text += " It is tuned on each clip before the clip is edited."
    return text


def tuning_text(record: Mapping[str, Any] | None) -> str:
    """What an editing model's adapter was tuned on, see `tuning_record`."""
    if record is None:
        return ""
    if "converted_from" in record:
        return f"The adapter was tuned with {record['converted_from']}, and converted."
    height, width = record["frame_size"]
    return (
        f"The adapter was tuned on one clip, `{record['video']}`: {record['frames']} frames of {width} x {height}, with the "
        f"prompt {json.dumps(record['prompt'])}; {record['best_step']} steps (of {record['steps']} that were run), learning "
        f"rate {record['learning_rate']:g}, seed {record['seed']}."
    )


def training_text(
    about: Path | None, settings: Mapping[str, Any] | None = None, state: Mapping[str, Any] | None = None
) -> str:
    """Text about a training run.

    Args:
        about: folder of the checkpoint; it or its parent may contain `train.yaml` and `trainer_state.json`.
        settings, state: content of these files, instead of reading them.
    """
    import yaml

    folders = [] if about is None else [about]
    if about is not None and (about.resolve().name in ("best", "last") or about.name.startswith("checkpoint-")):
        folders.append(about.resolve().parent)
    for folder in folders:
        if settings is None and (folder / "train.yaml").is_file():
            settings = yaml.safe_load((folder / "train.yaml").read_text())
        if state is None and (folder / "trainer_state.json").is_file():
            state = json.loads((folder / "trainer_state.json").read_text())
    lines = []
    if settings is not None and "train" in settings:
        lines.append(f"- clips: {_clips(settings, 'train')}")
        if settings.get("validation"):
            lines.append(f"- validation: {_clips(settings, 'validation')}")
        start = f"`{shown_source(settings['model'])}`"
        if settings.get("llm"):
            start = (
                f"the language model `{shown_source(settings['llm'])}` and the SEN `{shown_source(settings['sen'])}`"
            )
        preset = f" ({settings.get('preset') or 'align'})" if settings["task"] == "chat" else ""
        lines.append(f"- task: {settings['task']}{preset}, from {start}")
    if state is not None:
        batch = state.get("train_batch_size")
        lines.append(f"- {state['global_step']} steps" + (f" of {batch} clips in each process" if batch else ""))
    chosen = [
        name
        for name in ("learning_rate", "llm_learning_rate", "weight_decay", "seed")
        if settings and settings.get(name) is not None
    ]
    if chosen and settings:
        lines.append("- " + ", ".join(f"{name.replace('_', ' ')} {settings[name]}" for name in chosen))
    if state is not None and (measured := _validated(state)):
        lines.append(f"- on the validation clips: {measured}")
    return "\n".join(lines)


def _clips(settings: Mapping[str, Any], name: str) -> str:
    checksum = settings.get(f"{name}_sha256")
    return f"`{shown_source(settings[name])}`" + (f" (sha256 of clips and targets `{checksum}`)" if checksum else "")


def _validated(state: Mapping[str, Any]) -> str:
    """Validation metrics of the best step, or of the last."""
    rows = [row for row in state.get("log_history", []) if any(name.startswith("eval_") for name in row)]
    if not rows:
        return ""
    row = next((row for row in rows if row["step"] == state.get("best_global_step")), rows[-1])
    left_out = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    values = [
        f"{name.removeprefix('eval_')} {value:.4f}"
        for name, value in row.items()
        if name.startswith("eval_") and name not in left_out and isinstance(value, float)
    ]
    return f"{', '.join(values)} (step {row['step']})"


def _measured(results: Sequence[EvalResult]) -> str:
    if not results:
        return ""
    sums = sorted({(entry.dataset_args or {})["model_sha1"] for entry in results})
    text = (
        f"By `sen eval`, of configuration and weights with the sha1 `{'`, `'.join(sums)}`. The metadata of this card "
        "has the values with all digits."
    )
    return joined(results_table(results), text)


def _limits(model: Any, bases: Sequence[BaseModel], words: str) -> str:
    lines = []
    gate = getattr(model.base_model, "gate", None)
    # Heads on tokens do not train the gate.
    if gate is not None and not gate.any() and not model.base_model.config.dense_neurons:
        lines.append("- The association is untrained: its outputs are the mean of the frozen encoders'.")
    if any(base.hub_id for base in bases):
        lines.append("- Limits and biases of the base models are this model's too; their cards state them.")
    if tuning_of(model) is not None:
        lines.append("- The adapter is tuned on one clip, and is of use for edits of that clip.")
    if not words:
        lines.append(f"- {NO_LIMITS}" if lines else NO_LIMITS)
    return joined("\n".join(lines), words) if not words.startswith("- ") else "\n".join([*lines, words])


__all__ = [
    "NO_LIMITS",
    "NO_MEASURES",
    "NO_TRAINING",
    "PAPER",
    "SECTIONS",
    "filled",
    "is_generated",
    "joined",
    "keeping_text",
    "licence_metadata",
    "marked",
    "model_card",
    "restriction",
    "training_text",
    "tuning_text",
    "words_beside",
]
