"""A tiny SEN and a tiny chat model, built once; sessions do not change them."""

import pytest
from tiny_chat import make_chat_model, make_tiny_sen


@pytest.fixture(scope="session")
def tiny_sen(towers):
    return make_tiny_sen(towers)


@pytest.fixture(scope="session")
def tiny_chat(tiny_sen, tmp_path_factory):
    """(model, processor)"""
    return make_chat_model(tiny_sen, tmp_path_factory.mktemp("chat"))
