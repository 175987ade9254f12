"""The code in docs/converting.md runs, on a tiny checkpoint."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from random_editing import make_unet, random_step, save_tuned, tuned_weights
from typer.main import get_command

from modeling_sen.commands.convert import convert

PAGE = (Path(__file__).parents[1] / "docs" / "converting.md").read_text()
NEURONS, EDITING = PAGE.split("## Tune-A-Video")


def run_code(text: str, **given: Any) -> dict[str, Any]:
    found = {"__name__": "converting", **given}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, found)
    return found


@pytest.fixture
def ran(towers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("imagebind").symlink_to(towers["imagebind"])
    Path("languagebind").symlink_to(towers["languagebind_thermal"])
    return run_code(NEURONS)


def test_the_code_of_the_page_gives_probabilities(ran):
    assert ran["probabilities"].shape == ran["scores"].shape == (1, 2)
    assert ran["probabilities"].sum().item() == pytest.approx(1)
    assert [spec.name for spec in ran["sen"].config.neuron_specs] == ["video", "audio", "imu"]
    assert all(spec.aligned for spec in ran["sen"].config.neuron_specs)
    # An untrained SEN is the mean of its aligned neurons; only one of them has input from this clip.
    text, vision = ran["embeds"].text_embeds, ran["embeds"].vision_embeds
    expected = (vision @ text.T / text.norm(dim=-1)).argmax()
    assert ran["scores"].argmax() == expected


def test_the_code_for_languagebind_gives_the_same_in_a_sen(ran):
    probabilities, scores = ran["thermal_probabilities"], ran["thermal_scores"]
    assert probabilities.shape == scores.shape == (1, 2)
    # A black image is the same at any size, so resizing rounds nothing.
    assert (probabilities - scores).abs().max() < 1e-4


def test_the_code_for_tune_a_video_predicts_the_same_twice(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    make_unet().save_pretrained("base/unet")
    save_tuned(tuned_weights(), "a-man-is-surfing")
    convert("tune-a-video", "./a-man-is-surfing", Path("surfing"), base="base")
    latents, timesteps, text_states = random_step()
    with torch.no_grad():
        found = run_code(EDITING, latents=latents, timesteps=timesteps, text_states=text_states, unet=make_unet())
        again = found["adapter"](latents, timesteps, text_states)
    assert found["noise"].shape == latents.shape
    assert torch.equal(found["noise"], again)


def test_the_options_of_the_page_are_those_of_the_command():
    app = typer.Typer()
    app.command()(convert)
    options = {name for parameter in get_command(app).params for name in parameter.opts if name.startswith("--")}
    documented = set(re.findall(r"^\| `(--[a-z]+)", PAGE, re.MULTILINE))
    assert documented == {name for name in options if name not in ("--install-completion", "--show-completion")}
