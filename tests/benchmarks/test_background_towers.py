"""Towers that are trained to return the tokens of the same clip without its objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.association import association_clips, background_towers
from benchmarks.association.association_clips import association_scene, clip_arrays
from benchmarks.association.association_towers import SEES, AssociationTowers, save_towers
from benchmarks.association.background_towers import WithoutObjects, empty_clip, train_background_towers
from modeling_sen.training import trainer
from modeling_sen.world.drawing import render


def test_an_empty_clip_is_the_clip_where_no_object_is():
    scene = association_scene("train", 100, 3)
    seen, empty = clip_arrays(scene), empty_clip(scene)
    background = render(scene, (8,)).masks[0] == 0
    assert empty["image"].shape == seen["image"].shape
    same = (empty["image"] == seen["image"]).all(-1)
    assert same[background].mean() > 0.9  # all but soft edges
    assert same[~background].mean() < 0.1
    np.testing.assert_array_equal(empty["grey"], empty_clip(replace(scene, sounding=0))["grey"])


@pytest.mark.parametrize("name", ["image", "video"])
def test_only_the_last_layer_learns(name):
    torch.manual_seed(0)
    tower = getattr(AssociationTowers(local=True), name)
    module = WithoutObjects(tower, name)
    scenes = [association_scene("train", 100, number) for number in range(2)]
    field = background_towers.FIELDS[name]
    seen = torch.from_numpy(np.stack([clip_arrays(scene)[field] for scene in scenes]))
    empty = torch.from_numpy(np.stack([empty_clip(scene)[field] for scene in scenes]))
    module(seen, empty)["loss"].backward()
    touched = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in tower.named_parameters() if name.startswith(("layers.3.", "layernorm."))}
    assert module(empty, empty)["loss"].item() < 1e-9


def test_the_other_towers_and_layers_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(association_clips, "SHARD", 4)
    monkeypatch.setattr(background_towers, "SHARD", 4)
    monkeypatch.setattr(background_towers, "CLIPS", ("train", 100, 8))
    monkeypatch.setattr(background_towers, "HELD_OUT", 4)
    monkeypatch.setattr(background_towers, "BATCH_SIZE", 4)
    monkeypatch.setattr(background_towers, "STEPS", 2)
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: None)  # which takes longer than the steps
    torch.manual_seed(0)
    towers = AssociationTowers(local=True)
    save_towers(towers, tmp_path / "local")
    save_file(towers.state_dict(), tmp_path / "local" / "towers.safetensors")
    association_clips.write_clips(tmp_path / "clips" / "towers", "train", 100, 8, None, workers=1)
    train_background_towers(tmp_path)
    for name in SEES:
        before, after = (load_file(tmp_path / kind / name / "model.safetensors") for kind in ("local", "background"))
        changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
        assert bool(changed) == (name in ("image", "video"))
        assert all(".3." in key or key.startswith("layernorm.") for key in changed)
