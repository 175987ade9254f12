"""What tests of tracking share."""

import pytest
from transformers import AutoModel

import modeling_sen


@pytest.fixture(scope="session")
def tracker():
    """The tracker inside sen-tiny."""
    return AutoModel.from_pretrained(modeling_sen.SEN_TINY_TRACKING)
