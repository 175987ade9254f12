"""Connects this process to a small local Hub (other tests are offline), and lists the objects that can be pushed to it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.hf_api
import pytest
import transformers.dynamic_module_utils
import transformers.utils.hub
from fake_hub import Hub
from huggingface_hub import close_session, constants
from test_pretrained_sen import load_toy_head

from modeling_sen import SENModel, SENProcessor, publishing
from modeling_sen.pipelines.video_pipeline import VideoPipeline

# Tokens of a user with write access, of one with read access, and of an unknown user.
WRITER, READER, STRANGER = "hf_of_a_writer_secret", "hf_of_a_reader_secret", "hf_of_a_stranger_secret"


@contextmanager
def connected(hub: Hub, home: Path, token: str | None = None) -> Iterator[None]:
    """Redirects the Hub calls of this process to `hub`, with a separate cache and without waiting before retries.

    Args:
        home: replaces `HF_HOME`; temporary folders are created in `home/temporary`.
        token: the token of the logged-in user.
    """
    (home / "temporary").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)  # used by functions such as `file_exists`
        patch.setattr(transformers.utils.hub, "_hf_api", None)  # it caches the endpoint at its creation
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(home / "modules"))
        patch.setattr(tempfile, "tempdir", str(home / "temporary"))
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        try:
            yield
        finally:
            close_session()


class AnyPipeline(VideoPipeline):
    _forward = postprocess = None


def as_pipeline(model: SENModel) -> AnyPipeline:
    return AnyPipeline(model=model, processor=SENProcessor(model.config), device="cpu")


def as_toy_head(model: SENModel) -> Any:
    toy = load_toy_head()
    head = toy.ToyHead(toy.ToyConfig(sen_config=model.config.to_dict()))
    head.sen = model
    return head


@dataclass
class AsFolder:
    """Saves the model to a folder and pushes that, as `sen push` does; the example of its card is not run."""

    model: SENModel

    def push_to_hub(self, repo_id: str, include_neurons: bool = True, **arguments: Any) -> str | None:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(publishing, "run_example", lambda *_, **__: "")
            self.model.save_pretrained(folder)
            return publishing.push_folder(folder, repo_id, include_neurons=include_neurons, **arguments).url


# Name -> the object that is pushed for a SEN; each has `push_to_hub(repo_id, **arguments)`.
PUSHED: dict[str, Callable[[SENModel], Any]] = {
    "model": lambda model: model,
    "processor": lambda model: SENProcessor(model.config),
    "pipeline": as_pipeline,
    "toy head": as_toy_head,
    "folder": AsFolder,
}
