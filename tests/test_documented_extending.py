"""docs/extending.md runs as it is written."""

import re
from pathlib import Path

import pytest
import torch

from modeling_sen import SEN_TINY, SENConfig, SENModel
from modeling_sen.neuron_registry import NEURON_ADAPTERS
from modeling_sen.recursive_association import DISTRIBUTE

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "extending.md").read_text(), re.DOTALL
)


@pytest.fixture
def names(monkeypatch):
    """What the page's code defines; what it registers is gone after the test."""
    for registry, name in ((NEURON_ADAPTERS, "vit"), (DISTRIBUTE, "gated")):
        monkeypatch.setitem(registry, name, None)
    found = {"__name__": "extending"}
    for block in BLOCKS:
        exec(block, found)
    return found


def test_a_type_a_variant_and_a_head_are_added(names, tmp_path):
    assert NEURON_ADAPTERS["vit"].folds_frames
    config = SENConfig.from_pretrained(SEN_TINY, distribute="gated")
    assert type(SENModel(config).blocks[0].distribution["image"]).__name__ == "GatedDistribution"
    sen = SENModel.from_pretrained(SEN_TINY)
    model = names["ClipClassifier"](names["ClipClassifierConfig"](sen_config=sen.config.to_dict())).eval()
    model.sen.load_state_dict(sen.state_dict())
    inputs = {"image_pixel_values": torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        logits = model(**inputs)["logits"]
        torch.testing.assert_close(logits, model.classifier(sen(**inputs).fused_embeds))
        model.save_pretrained(tmp_path)
        assert torch.equal(names["AutoModel"].from_pretrained(tmp_path)(**inputs)["logits"], logits)
