# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pushes a model in memory, a checkpoint's folder or an adapter to the Hub with its card, in one commit.

Only the files needed to load the model are uploaded: no training states, embeddings or files with local paths.
"""

import os
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, is_offline_mode
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file
from transformers import AutoModel
from transformers.utils import logging

from modeling_sen.adapter_card import adapter_card, example_of, read_adapter
from modeling_sen.base_models import OWN_LICENCE
from modeling_sen.card_example import example, remote_example, run_example, task_of
from modeling_sen.card_results import eval_results, is_of_checkpoint, merged, read_results
from modeling_sen.configuration_sen import SENConfig
from modeling_sen.evaluation.clip_embeddings import model_sha1
from modeling_sen.hub_files import HubSource, commit_folder, naming_hub_errors
from modeling_sen.model_card import is_generated, keeping_text, model_card, training_text
from modeling_sen.modeling_sen import SENModel
from modeling_sen.processing_sen import SENProcessor
from modeling_sen.upload_files import (
    add_code,
    check_loads_elsewhere,
    copy_checkpoint,
    read_settings,
    saved_config,
    saved_language_model,
)

logger = logging.get_logger(__name__)

CARD = "README.md"
PROCESSOR = "processor_config.json"


@dataclass(frozen=True)
class Publication:
    """Files of a push.

    Attributes:
        repo_id: id of the repository.
        files: path in the repository -> size in bytes, including the card.
        card: text of the card.
        url: URL of the commit or pull request; `None` after a dry run.
    """

    repo_id: str
    files: dict[str, int]
    card: str
    url: str | None


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    with_code: bool = False,
    include_neurons: bool = False,
    licence: str = OWN_LICENCE,
    dry_run: bool = False,
    token: str | bool | None = None,
    **commit_arguments: Any,
) -> Publication:
    """Runs the card's example and then pushes a saved checkpoint, or an adapter saved by peft.

    Args:
        folder: folder with `config.json`, of a type registered with the Auto classes, or `adapter_config.json`; see
            `model_card` for further files that the card uses.
        repo_id: `ORGANISATION/NAME` of the repository; created if it does not exist.
        private: whether a new repository is private.
        with_code: whether to upload the model's code, so that it loads with `trust_remote_code=True` without the package.
        include_neurons: whether to upload towers and language model, so that the repository needs no others.
        licence: licence of the trained weights.
        dry_run: whether to do everything except the upload, without network.
        token: the Hub token.
        commit_arguments: of `HfApi.create_commit` (`revision`, `create_pr`, `commit_message`, ...).

    Raises:
        FileNotFoundError: no checkpoint in the folder.
        ValueError: the checkpoint would not load elsewhere, or results in `evaluation/` are of other weights.
        RuntimeError: the example fails.
        OSError: the Hub refuses or fails; the repository then has all files of this push, or none.
    """
    folder = Path(folder)
    if repo_id.count("/") != 1:
        raise ValueError(f"repository {repo_id!r}, expected ORGANISATION/NAME")
    if not dry_run and is_offline_mode():
        raise OSError(f"{repo_id}: offline mode (HF_HUB_OFFLINE=1) is on, in which nothing can be pushed")
    fetch = {"local_files_only": True} if dry_run else _fetch(token)
    existing = None if dry_run else _existing_card(repo_id, commit_arguments.get("revision"), token)
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name)
        if (folder / "adapter_config.json").is_file():
            what, card = "adapter", _stage_adapter(folder, staged, repo_id, licence, fetch)
        elif (folder / "config.json").is_file():
            how = (with_code, include_neurons)
            what, card = _stage_model(folder, staged, repo_id, licence, fetch, existing, *how)
        else:
            raise FileNotFoundError(f"{folder}: found no config.json, expected the folder of a saved model or adapter")
        card = _to_write(card, existing, repo_id)
        card.save(staged / CARD)
        url = None
        if not dry_run:
            with naming_hub_errors(repo_id):
                api = HfApi(token=token)
                api.create_repo(repo_id, private=private, exist_ok=True)
                arguments = {"commit_message": f"Upload {what}", **commit_arguments}
                url = str(commit_folder(api, repo_id, staged, **arguments))
        sizes = {
            path.relative_to(staged).as_posix(): path.stat().st_size for path in staged.rglob("*") if path.is_file()
        }
        return Publication(repo_id, dict(sorted(sizes.items())), str(card), url)


def add_card(
    model: Any,
    folder: Path,
    repo_id: str,
    api: HfApi,
    private: bool | None,
    revision: str | None,
    tags: list[str] | None,
) -> str:
    """Creates the repository of a saved model and writes the card to the model's folder, without running its example.

    Returns:
        The full id of the repository.

    Raises:
        ValueError: a tower or language model is a local folder.
        OSError: the Hub refuses or fails.
    """
    is_adapter = not (folder / "config.json").is_file()  # adapters of Transformers are saved without the model
    if is_adapter:
        settings = read_adapter(folder, type(model))
    else:
        check_loads_elsewhere(folder)
        if model.config.model_type == SENConfig.model_type and not (folder / PROCESSOR).is_file():
            SENProcessor(model.config).save_pretrained(folder)  # without it no pipeline loads the model
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    existing, fetch = _existing_card(repo_id, revision, api.token), _fetch(api.token)
    if is_adapter:
        card = adapter_card(settings, folder, repo_id, folder, fetch=fetch)
    else:
        about = _unchanged_source(model, folder)
        entries = card_entries(model, about, existing, strict=False)
        llm = saved_language_model(folder)
        card = model_card(model, saved_config(folder), repo_id, about, entries, fetch=fetch, language_model=llm)
    _add_tags(card, tags)
    _to_write(card, existing, repo_id).save(folder / CARD)
    return repo_id


def write_trainer_card(
    trainer: Any, *, checkpoint: Path | None = None, license: str | None = None, tags: Any = None, **kwargs: Any
) -> None:
    """`create_model_card` for a Transformers `Trainer` of a model with a SEN, or of a peft model around one.

    Args:
        trainer: the trainer; the card is written to its `output_dir`.
        checkpoint: folder to which the model was saved; default: `output_dir`.
        license, tags: licence and tags of the card.
        kwargs: further arguments of `Trainer.create_model_card`, which are ignored.
    """
    if not trainer.is_world_process_zero():
        return
    output = Path(trainer.args.output_dir)
    checkpoint, model = checkpoint or output, trainer.accelerator.unwrap_model(trainer.model)
    repo_id, licence = trainer.hub_model_id or output.resolve().name, license or OWN_LICENCE
    if (checkpoint / "adapter_config.json").is_file():
        card = adapter_card(read_adapter(checkpoint), checkpoint, repo_id, output, licence)
    else:
        own = {name: getattr(trainer.args, name) for name in ("learning_rate", "weight_decay", "seed")}
        settings = None if (output / "train.yaml").is_file() else own
        training = training_text(output, settings, asdict(trainer.state))
        named: dict[str, Any] = {
            "licence": licence,
            "training": training,
            "language_model": saved_language_model(checkpoint),
        }
        card = model_card(model, saved_config(checkpoint), repo_id, output, **named)
    _add_tags(card, tags)
    existing = None
    if trainer.hub_model_id is not None:
        existing = _existing_card(repo_id, trainer.args.hub_revision, trainer.args.hub_token)
    _to_write(card, existing, repo_id).save(output / CARD)


def card_entries(
    model: Any, folder: Path | None, existing: ModelCard | None = None, strict: bool = True
) -> list[EvalResult]:
    """Entries of a card's model-index: results of `sen eval` for these weights.

    Args:
        model: the model.
        folder: folder of the checkpoint, with results in `evaluation/`.
        existing: a card whose results for the same weights are kept.
        strict: whether results of other weights in the folder raise an error; otherwise they are left out.

    Raises:
        ValueError: results of other weights, if `strict`.
    """
    sha1, task = cache(lambda: model_sha1(model)), task_of(model)
    entries: list[EvalResult] = []
    for file, results in read_results(folder).items() if folder is not None else ():
        if results["model"]["sha1"] != sha1():
            if strict:
                raise ValueError(
                    f"{file}: found the sha1 {results['model']['sha1']} of the weights that were measured, expected the "
                    f"checkpoint's, {sha1()}; run `sen eval` again, or remove the file"
                )
        elif is_of_checkpoint(results):
            entries += eval_results(results, task.name, task.pipeline_tag)
        else:
            logger.warning(f"{file}: results of a fitted head, which are not those of the checkpoint, are left out")
    theirs = None if existing is None else existing.data.get("eval_results")
    return merged(entries, theirs, sha1()) if theirs else entries


# --- what is uploaded ------------------------------------------------------------------------------------------------


def _stage_model(
    folder: Path,
    staged: Path,
    repo_id: str,
    licence: str,
    fetch: dict[str, Any],
    existing: ModelCard | None,
    with_code: bool,
    include_neurons: bool,
) -> tuple[str, ModelCard]:
    """Copies the files to upload to `staged`; returns the name of the model's class, and the card."""
    kind: Any = SENModel if read_settings(folder)["model_type"] == SENConfig.model_type else AutoModel
    model = kind.from_pretrained(folder, **fetch)
    entries = card_entries(model, folder, existing)
    copy_checkpoint(folder, staged)
    if include_neurons:
        model.save_pretrained(staged, include_neurons=True)
    if model.config.model_type == SENConfig.model_type and not (staged / PROCESSOR).is_file():
        SENProcessor(model.config).save_pretrained(staged)
    check_loads_elsewhere(staged, with_code)
    if with_code or getattr(model.config, "auto_map", None):
        add_code(model, staged)
    offline = "local_files_only" in fetch
    run_example(example(model, repr(str(staged))), str(folder), offline)
    if with_code:
        run_example(remote_example(model, repr(str(staged))), str(folder), offline, without_package=True)
    ran = _ran_with("transformers", "torch")
    named: dict[str, Any] = {"with_code": with_code, "ran": ran, "language_model": saved_language_model(staged)}
    card = model_card(model, saved_config(staged), repo_id, folder, entries, licence, fetch, **named)
    return type(model).__name__, card


def _stage_adapter(folder: Path, staged: Path, repo_id: str, licence: str, fetch: dict[str, Any]) -> ModelCard:
    settings = read_adapter(folder)
    copy_checkpoint(folder, staged)
    run_example(example_of(settings, repr(str(staged))), str(folder), "local_files_only" in fetch)
    return adapter_card(settings, staged, repo_id, folder, licence, fetch, _ran_with("transformers", "peft"))


def _ran_with(*packages: str) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("modeling-sen", *packages))
    return f"Before the upload this ran on a generated clip, with {versions}."


def _unchanged_source(model: Any, staged: Path) -> Path | None:
    """The folder that a model was loaded from, if its weights are unchanged; else `None`."""
    folder = Path(model.name_or_path)
    weights = [path / "model.safetensors" for path in (folder, staged)]
    if not model.name_or_path or not all(path.is_file() for path in weights):
        return None
    before, now = map(load_file, weights)
    same = before.keys() == now.keys() and all(before[name].equal(now[name]) for name in now)
    return folder if same else None


# --- the upload ------------------------------------------------------------------------------------------------------


def _existing_card(repo_id: str, revision: str | None, token: str | bool | None) -> ModelCard | None:
    """The repository's card; `None` if there is no card or no repository."""
    try:
        with naming_hub_errors(repo_id):
            path = HubSource(repo_id, revision, fetch=_fetch(token)).file(CARD, optional=True)
    except OSError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
            return None
        raise
    return None if path is None else ModelCard.load(path, ignore_metadata_errors=True)


def _to_write(card: ModelCard, existing: ModelCard | None, repo_id: str) -> ModelCard:
    """The new card, or the existing card with updated metadata if its text was written or changed by hand."""
    if existing is None or is_generated(existing.text):
        return card
    logger.warning(
        f"{repo_id}: its card was written or changed by hand; the text stays, its metadata is brought up to date"
    )
    return keeping_text(card, existing)


def _fetch(token: str | bool | None) -> dict[str, Any]:
    """Arguments to fetch files of repositories, see `FETCH_ARGUMENTS`."""
    return {} if token is None else {"token": token}


def _add_tags(card: ModelCard, tags: str | list[str] | None) -> None:
    given = [tags] if isinstance(tags, str) else tags or []
    card.data["tags"] = list(dict.fromkeys([*card.data["tags"], *given]))


__all__ = ["CARD", "Publication", "add_card", "card_entries", "push_folder", "write_trainer_card"]
