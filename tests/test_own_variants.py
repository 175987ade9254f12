"""A variant of a step registered in a user's file can be used in a configuration, a checkpoint and `sen --import`."""

import json
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from random_sen import SMALL

import sen_cli
from modeling_sen import SENConfig, SENModel, SENProcessor
from modeling_sen.recursive_association import DISTRIBUTE, INTEGRATE, PROMPT

SCRIPT = """
import torch
from torch import nn

from modeling_sen.recursive_association import DISTRIBUTE, INTEGRATE, PROMPT
from modeling_sen.prompting import TokenPrompts
from modeling_sen.recursive_association import LinearDistribution, MeanIntegration


class GatedDistribution(LinearDistribution):
    def __init__(self, config, spec, first):
        super().__init__(config, spec, first)
        self.gate = nn.Linear(config.hidden_size, config.num_prompt_tokens * config.bottleneck_size)

    def forward(self, knowledge, summary):
        gate = torch.sigmoid(self.gate(knowledge)).unflatten(-1, (self.num_tokens, -1))
        return gate * super().forward(knowledge, summary)


class LargestIntegration(MeanIntegration):
    def forward(self, states, present):
        return torch.stack(list(self.readers(states).values())).amax(0)


class LoudPrompts(TokenPrompts):
    def prompt_tokens(self, context):
        return 2 * super().prompt_tokens(context)


DISTRIBUTE["gated"], INTEGRATE["largest"], PROMPT["loud"] = GatedDistribution, LargestIntegration, LoudPrompts
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A file that registers three variants; the fixture removes them after the test."""
    for registry in (DISTRIBUTE, INTEGRATE, PROMPT):
        for name in ("gated", "largest", "loud"):
            monkeypatch.setitem(registry, name, None)
            monkeypatch.delitem(registry, name)
    path = tmp_path / "my_variants.py"
    path.write_text(SCRIPT)
    return path


OWN = {"distribute": "gated", "integrate": "largest", "prompt": "loud"}


def test_a_registered_variant_works_in_a_configuration_a_checkpoint_and_on_the_command_line(
    script, towers, clips, tmp_path, monkeypatch, capsys
):
    for step, variant in OWN.items():
        with pytest.raises(StrictDataclassError, match=f"{step} is '{variant}', expected one of "):
            SENConfig(neurons=[], **{step: variant})
    sen_cli.import_first(str(script))
    model = SENModel.from_neurons(
        [{"hub_id": towers["clip"], "num_frames": 2}], text_tower=towers["clip"], **SMALL, **OWN
    )
    assert type(model.blocks[0].distribution["image"]).__name__ == "GatedDistribution"
    assert model.blocks[0].distribution["image"].gate.weight.std() > 0  # initialised with the other weights
    model.gate.data.fill_(0.8)
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    SENProcessor(model.config).save_pretrained(tmp_path / "sen")
    loaded = SENModel.from_pretrained(tmp_path / "sen")
    pixels = {"image_pixel_values": torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        assert torch.equal(loaded(**pixels).fused_embeds, model(**pixels).fused_embeds)
    arguments = ["classify", str(clips[0]), "--labels", "a dog,a cat", "--json", "--model", str(tmp_path / "sen")]
    monkeypatch.setattr(sys, "argv", ["sen", "--import", str(script), *arguments])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert not stop.value.code
    (row,) = json.loads(capsys.readouterr().out)
    assert sum(score["score"] for score in row["scores"]) == pytest.approx(1)


def test_without_the_file_the_variant_is_named_in_the_error(script, towers, tmp_path, monkeypatch, capsys):
    sen_cli.import_first(str(script))
    model = SENModel.from_neurons([{"hub_id": towers["clip"]}], text_tower=towers["clip"], **SMALL, distribute="gated")
    model.save_pretrained(tmp_path / "sen", include_neurons=True)
    del DISTRIBUTE["gated"]
    monkeypatch.setattr(sys, "argv", ["sen", "info", str(tmp_path / "sen")])
    with pytest.raises(SystemExit) as stop:
        sen_cli.main()
    assert stop.value.code == 2
    assert "distribute is 'gated', expected one of sparse_mlp, mlp, linear" in capsys.readouterr().err
