"""The code in docs/extending.md runs."""

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


@pytest.fixture(scope="module")
def names():
    """The names that the page's code defines; the fixture removes the registered neuron and step afterwards."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for registry, name in ((NEURON_ADAPTERS, "vit"), (DISTRIBUTE, "gated")):
            monkeypatch.setitem(registry, name, None)
        found = {"__name__": "extending"}
        for block in BLOCKS:
            exec(block, found)
        yield found


def test_the_type_the_variant_and_the_head_of_the_page_work(names, tmp_path):
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


def test_the_head_on_dense_features_works(names, tmp_path):
    sen = SENModel.from_pretrained(SEN_TINY)
    inputs = {"image_pixel_values": torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        state = sen(**inputs).neuron_states["image"]
    model = names["patch_labeller"](sen).eval()
    logits = model(**inputs)["logits"]
    expected = model.classifier(state.last_hidden_state)
    assert torch.equal(logits, expected.reshape(2, *state.grid, 3))  # untrained, so the tokens are unchanged
    model(labels=torch.zeros(2, *state.grid, dtype=torch.long), **inputs)["loss"].backward()
    weight = model.sen.modulation["image"].weight
    with torch.no_grad():
        weight -= weight.grad
        trained = model(**inputs)["logits"]
        assert not torch.equal(trained, logits)
        model.save_pretrained(tmp_path)
        assert torch.equal(names["AutoModel"].from_pretrained(tmp_path)(**inputs)["logits"], trained)
        inside = SENModel.from_pretrained(tmp_path)
    assert torch.equal(inside.modulation["image"].weight, weight)
