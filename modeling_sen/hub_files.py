# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Fetches a checkpoint's files from a folder, a Hub repository at a commit, or the towers included in the package.

Every load uses one [`HubSource`]. Hub errors are converted to one sentence that names the checkpoint.
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    hf_hub_download,
    is_offline_mode,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx
from safetensors import SafetensorError
from transformers.utils import logging
from transformers.utils.hub import resolve_revision

from .configuration_sen import NeuronSpec

# Arguments of `from_pretrained` that control how files are fetched.
FETCH_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download")


class CheckpointError(RuntimeError):
    """A checkpoint lacks weights, or does not fit the model that its configuration describes."""


class HubFileError(OSError):
    """A file that a repository has, or may have, could not be fetched; the message names repository and file."""


@cache
def family_classes() -> Mapping[str, Any]:
    """The package's own encoder classes by name, after registration with the Auto classes.

    Empty for remote code without the installed package.
    """
    try:
        from modeling_sen.families import register
    except ImportError:
        return {}
    return register()


@dataclass(frozen=True)
class HubSource:
    """Source of the files of one checkpoint.

    Attributes:
        location: a folder, or the id of a Hub repository.
        revision: commit, branch or tag of the repository.
        subfolder: subfolder of the repository.
        fetch: arguments of `from_pretrained` that control how files are fetched (`FETCH_ARGUMENTS`).
        trust_remote_code: whether code of the repository may run.
    """

    location: str
    revision: str | None = None
    subfolder: str = ""
    fetch: Mapping[str, Any] = field(default_factory=dict, repr=False)  # holds the token
    trust_remote_code: bool = False

    @classmethod
    def of(cls, location: Any, arguments: Mapping[str, Any]) -> "HubSource":
        """From the first argument of `from_pretrained` and its keyword arguments."""
        location, subfolder = str(location), arguments.get("subfolder") or ""
        if Path(location).is_dir():
            location, subfolder = str(Path(location, subfolder)), ""
        return cls(
            location,
            arguments.get("revision"),
            subfolder,
            {name: arguments[name] for name in FETCH_ARGUMENTS if name in arguments},
            bool(arguments.get("trust_remote_code")),
        )

    @classmethod
    def of_checkpoint(cls, name: str, arguments: Mapping[str, Any]) -> "HubSource":
        """As `of`, with the revision resolved to a commit.

        Raises:
            OSError: the folder does not exist, or the commit cannot be resolved.
        """
        if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise FileNotFoundError(f"{name}: no such checkpoint folder")
        source = cls.of(name, arguments).at_commit()
        return replace(source, revision=source.commit)

    @classmethod
    def of_neuron(
        cls, spec: NeuronSpec, base: "HubSource | None" = None, arguments: Mapping[str, Any] | None = None
    ) -> "HubSource":
        """Source of a neuron's tower.

        Args:
            spec: the neuron's specification.
            base: source of the SEN checkpoint, for relative hub ids.
            arguments: the neuron's own arguments of `from_pretrained`. `trust_remote_code` is never taken from `base`.

        Raises:
            OSError: a builtin tower is not installed, a relative hub id has no checkpoint, or a folder is missing.
        """
        family_classes()  # registers configurations that the tower may need
        source = cls.of(spec.hub_id, {"revision": spec.revision, **(arguments or {})})
        if spec.is_builtin:
            folder = _sen_tiny_folder() / spec.hub_id.removeprefix("builtin:")
            if not (folder / "config.json").is_file():
                raise OSError(
                    f"neuron {spec.name!r}: {spec.hub_id!r} is not among the towers shipped with the package modeling-sen "
                    f"(looked in {folder}); checkpoints for use without it are saved with include_neurons=True"
                )
            return replace(source, location=str(folder), revision=None)
        if spec.is_relative:
            if base is None:
                raise OSError(
                    f"neuron {spec.name!r}: {spec.hub_id!r} is relative to a checkpoint, but none was loaded"
                )
            subfolder = spec.hub_id.removeprefix("./").rstrip("/")
            if not Path(base.location).is_dir():
                fetch = {**base.fetch, **source.fetch}
                return replace(
                    source, location=base.location, revision=base.revision, subfolder=subfolder, fetch=fetch
                )
            folder = Path(base.location, subfolder)
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"neuron {spec.name!r}: the checkpoint {base.location} has no folder {subfolder!r}"
                )
            return replace(source, location=str(folder), revision=None)
        looks_like_a_path = spec.hub_id.startswith(("/", "~")) or spec.hub_id.count("/") > 1
        if looks_like_a_path and not Path(spec.hub_id).is_dir():
            raise FileNotFoundError(f"{spec.hub_id}: no such folder, from which neuron {spec.name!r} could be loaded")
        return source

    def at_commit(self) -> "HubSource":
        """The same source with `revision` resolved to a commit, so that all files of a load are of one commit."""
        fetch = {name: value for name, value in self.fetch.items() if name != "force_download"}
        return replace(self, revision=resolve_revision(self.location, self.revision, **fetch))

    @property
    def commit(self) -> str | None:
        """The commit of `revision` if it was resolved, else `revision` itself."""
        return getattr(self.revision, "resolved", self.revision)

    @property
    def files(self) -> dict[str, Any]:
        """Keyword arguments for `cached_file` and for loaders that run no remote code."""
        where = {"revision": self.revision, "subfolder": self.subfolder}
        return {**{name: value for name, value in where.items() if value}, **self.fetch}

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""
        # Always given, because without it Transformers asks on the terminal whether to run a repository's code.
        return {**self.files, "trust_remote_code": self.trust_remote_code}

    def file(self, name: str, optional: bool = False) -> Path | None:
        """Path of a file of the checkpoint, which is downloaded if necessary.

        Args:
            name: name of the file, relative to the checkpoint.
            optional: whether to return `None` if the checkpoint has no such file.

        Raises:
            OSError: the checkpoint or, unless `optional`, the file does not exist; the Hub or the connection failed.
        """
        path = f"{self.subfolder}/{name}" if self.subfolder else name
        try:
            is_folder = Path(self.location).is_dir()
            found = Path(self.location, path) if is_folder else self._download(path)
        except LocalEntryNotFoundError:
            if not optional:
                raise
            return None
        if found is not None and found.is_file():
            return found
        if not optional:
            raise FileNotFoundError(f"{self.location}: the checkpoint has no file {path}")
        return None

    def _download(self, path: str) -> Path | None:
        """Path of a file of the repository; `None` if the repository has no such file. Failed downloads raise."""
        revision = self.commit or ""
        is_pinned = re.fullmatch("[0-9a-f]{40}", revision) and not self.fetch.get("force_download")
        try:
            if is_pinned:
                cached = try_to_load_from_cache(self.location, path, self.fetch.get("cache_dir"), revision)
                if cached is not None:  # a path, or a marker that this commit has no such file
                    return Path(cached) if isinstance(cached, str) else None
            return Path(hf_hub_download(self.location, path, revision=self.revision, **self.fetch))
        except RemoteEntryNotFoundError:
            return None
        except (OSError, ValueError, httpx.TransportError) as error:
            if _concerns_all_files(error):
                raise
            problem = _hub_problem(error) or " ".join(str(error).split())
            raise HubFileError(f"{self.location}: {path}: {problem}") from error

    def prefetch(self, *names: str) -> None:
        """Downloads those of the files that the checkpoint has, before a loader of Transformers needs them.

        Some loaders of Transformers treat a failed download as a missing file.

        Raises:
            OSError: as `file`.
        """
        for name in names:
            self.file(name, optional=True)

    def prefetch_model(self, arguments: Mapping[str, Any]) -> None:
        """`prefetch` of configuration and weights, unless the arguments of `from_pretrained` select other weights."""
        self.prefetch("config.json")
        others = arguments.get("variant") or arguments.get("gguf_file") or arguments.get("use_safetensors") is False
        if others or self.fetch.get("force_download"):  # the loader would download them again
            return
        if Path(self.location).is_dir() or self.file("model.safetensors", optional=True):
            return
        index = self.file("model.safetensors.index.json", optional=True)
        if index is not None:
            self.prefetch(*sorted(set(json.loads(index.read_text())["weight_map"].values())))


def _sen_tiny_folder() -> Path:
    folder = Path(__file__).with_name("sen_tiny")
    if not folder.is_dir() and (package := importlib.util.find_spec("modeling_sen")) and package.origin:
        folder = Path(package.origin).with_name("sen_tiny")  # remote code beside an installed package
    return folder


def commit_folder(api: HfApi, repo_id: str, folder: str | Path, commit_message: str, **kwargs: Any) -> str:
    """Uploads the files of a folder in one commit; `HfApi.upload_folder` may make several and fail between them.

    Args:
        kwargs: of `HfApi.create_commit`: `revision`, `create_pr`, ...

    Returns:
        The URL of the commit.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    return api.create_commit(repo_id, operations, commit_message=commit_message, **kwargs)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences load reports, which list the weights outside a cut-out tower, and progress bars; missing weights raise."""
    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()


@contextmanager
def readable_weights(where: str) -> Iterator[None]:
    """Names the checkpoint in errors about a damaged file (OSError) or weights that do not fit ([`CheckpointError`])."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{where}: damaged safetensors file ({error}); save or download it again") from error
    except RuntimeError as error:
        raise CheckpointError(f"{where}: {error}") from error


def check_shapes(where: str, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Checks Transformers' list of weights whose shapes differ: (name, shape in the checkpoint, shape in the model).

    Raises:
        CheckpointError: there are any; names one, and both shapes.
    """
    if different := sorted((name, tuple(found), tuple(expected)) for name, found, expected in mismatched):
        name, found, expected = different[0]
        more = f", like {len(different) - 1} more weights" if len(different) > 1 else ""
        raise CheckpointError(f"{where}: {name} has shape {found}, expected {expected}{more}")


@contextmanager
def naming_errors(what: str, or_else: str = "pass neuron_kwargs={NAME: {'token': ...}}") -> Iterator[None]:
    """Prefixes error messages with the name of the checkpoint; see `naming_hub_errors` for errors of the Hub."""
    try:
        yield
    except UnpicklingError as error:
        raise OSError(f"{what}: its weights file holds more than tensors, and is not read") from error
    except (OSError, ImportError, ValueError, RuntimeError, AssertionError, httpx.TransportError) as error:
        if problem := _hub_problem(error, f"log in with `hf auth login`, set HF_TOKEN, or {or_else}"):
            raise OSError(f"{what}: {problem}") from error
        kind = next((kind for kind in (OSError, ImportError, ValueError) if isinstance(error, kind)), CheckpointError)
        extra = " (or: pip install modeling-sen[pe])" if kind is ImportError and "timm" in str(error) else ""
        raise kind(f"{what}: {str(error).strip()}{extra}") from error


@contextmanager
def naming_hub_errors(what: str, or_else: str = "pass token=...") -> Iterator[None]:
    """Converts errors of the Hub to an OSError with one sentence; other errors are unchanged.

    Args:
        what: name of the loaded or pushed checkpoint.
        or_else: alternative to `hf auth login`, for errors about the token.
    """
    try:
        yield
    except HubFileError:
        raise
    except (OSError, ValueError, RuntimeError, httpx.TransportError) as error:
        problem = _hub_problem(error, f"log in with `hf auth login`, set HF_TOKEN, or {or_else}")
        if problem is None:
            raise
        raise OSError(f"{what}: {problem}") from error


def _concerns_all_files(error: Exception) -> bool:
    """Whether an error is about the repository, the token or the network, and not about a single file."""
    if isinstance(error, LocalEntryNotFoundError):
        return not isinstance(error.__cause__, HfHubHTTPError)  # offline, or no response
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)


def _hub_problem(error: BaseException | None, login: str = "") -> str | None:
    """Problem and remedy in one sentence, if the Hub caused the error; else `None`."""
    hub = constants.ENDPOINT
    while error is not None:
        if isinstance(error, HubFileError):
            return str(error)
        if isinstance(error, GatedRepoError):  # before its base class RepositoryNotFoundError
            return f"the repository is gated; accept its terms on its page at {hub}, and {login}"
        if isinstance(error, RevisionNotFoundError):
            return "the repository has no such branch, tag or commit"
        if isinstance(error, RepositoryNotFoundError):
            return f"no such repository at {hub}, or a private one; for that, {login}"
        if isinstance(error, LocalEntryNotFoundError) and not isinstance(error.__cause__, HfHubHTTPError):
            no_answer = f"nothing answers at {hub}"
            return (
                f"not in the cache, and {'offline mode (HF_HUB_OFFLINE=1) is on' if is_offline_mode() else no_answer}"
            )
        if isinstance(error, HfHubHTTPError) and not isinstance(error, RemoteEntryNotFoundError):
            status, message = error.response.status_code, error.server_message
            if status in (401, 403):
                return f"{hub} refuses the token ({message}); {login}"
            return f"{hub} answers {status} ({message}); try again later"
        if isinstance(error, httpx.TransportError):
            return f"the connection to {hub} broke ({error}); try again"
        error = error.__cause__
    return None


__all__ = [
    "FETCH_ARGUMENTS",
    "CheckpointError",
    "HubSource",
    "commit_folder",
    "naming_errors",
    "naming_hub_errors",
    "quiet_transformers",
    "readable_weights",
]
