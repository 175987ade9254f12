"""This process as a client of a small Hub: the tests are offline otherwise."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers.dynamic_module_utils
import transformers.utils.hub
from fake_hub import Hub
from huggingface_hub import close_session, constants


@contextmanager
def connected(hub: Hub, home: Path, token: str | None = None) -> Iterator[None]:
    """Hub calls of this process go to `hub`, with a cache of its own, and wait for no retry.

    Args:
        home: in place of `HF_HOME`.
        token: the one that a user has logged in with.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(transformers.utils.hub, "_hf_api", None)  # it remembers the Hub that it was made for
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(home / "modules"))
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        try:
            yield
        finally:
            close_session()
