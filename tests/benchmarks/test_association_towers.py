"""The study's towers: what each stage trains, how one starts from another, and that they are neurons as saved."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.association import association_clips, train_association_towers
from benchmarks.association.association_clips import association_scene, clip_arrays
from benchmarks.association.association_towers import (
    DENSE,
    EMBEDDING,
    SEES,
    AssociationTowers,
    ClipBatches,
    read_words,
    save_towers,
    seen_shares,
    tower_inputs,
    tower_specs,
    tower_targets,
    word_columns,
)
from benchmarks.association.train_association_towers import SEEN_FIELDS, STAGES
from modeling_sen import SENConfig, SENModel
from modeling_sen.training import trainer

CLIPS = [clip_arrays(association_scene("train", 0, index)) for index in range(4)]


@pytest.fixture
def batch():
    clips = {name: np.stack([clip[name] for clip in CLIPS]) for name in CLIPS[0]}
    seen = {name: clips[name] for name in SEEN_FIELDS} | tower_targets(clips)
    return {name: torch.from_numpy(values) for name, values in seen.items()}


@pytest.fixture
def towers():
    torch.manual_seed(0)
    return AssociationTowers(local=True).eval()


def test_losses_are_of_the_trained_towers_and_local_ones_name_patches(towers, batch):
    assert set(towers(**batch)) == {"loss", *SEES, *DENSE}
    assert set(AssociationTowers(local=False)(**batch)) == {"loss", *SEES}
    towers.train_only(("video",), words=False, named=("video_motion",))
    assert set(towers(**batch)) == {"loss", "video", "video_motion"}


def test_a_stage_trains_its_towers_only(towers, batch):
    towers.train_only(("image", "legend"), words=True, named=("image_shape",))
    towers(**batch)["loss"].backward()
    touched = {name.partition(".")[0] for name, parameter in towers.named_parameters() if parameter.grad is not None}
    assert touched == {"image", "legend", "projections", "dense_heads", "words", "scale", "bias"}
    assert towers.projections["video"].weight.grad is None
    assert [name for name, head in towers.dense_heads.items() if head.weight.grad is not None] == ["image_shape"]


def test_the_sounds_truth_is_the_one_colour_that_sounds(batch):
    heard_words = batch["heard_words"]
    assert heard_words.sum(1).tolist() == [1] * len(CLIPS)
    for clip, row in zip(CLIPS, heard_words, strict=True):
        assert row.nonzero().item() == clip["attributes"][clip["sounding"], 0]
    assert not batch["words"][:, word_columns(("colour",))].all()


def test_the_video_tower_begins_as_the_image_tower_on_the_middle_frame(towers, batch):
    torch.nn.init.normal_(towers.image.embeddings.position_embeddings)
    towers.start_video_from_image()
    grey = tower_inputs(batch)["video"]["pixel_values"]  # (clips, frames, 1, height, width)
    with torch.no_grad():
        video = towers.video(grey).last_hidden_state
        image = towers.image(grey[:, 4].expand(-1, 3, -1, -1)).last_hidden_state
    torch.testing.assert_close(video, image, atol=1e-4, rtol=1e-4)


def test_global_towers_take_the_lower_half_and_nothing_else(towers):
    torch.manual_seed(1)
    other = AssociationTowers(local=False)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    other.start_from_lower_half(towers, ("image", "video"))
    lower = towers.state_dict()
    for name, value in other.state_dict().items():
        taken = name.startswith(("image.", "video.")) and ("embeddings" in name or ".0." in name or ".1." in name)
        assert torch.equal(value, lower[name] if taken else before[name])


def test_saved_towers_are_neurons_with_the_same_embeddings(towers, batch, tmp_path):
    save_towers(towers, tmp_path)
    specs = tower_specs(tmp_path)
    model = SENModel(SENConfig(neurons=[spec.to_dict() for spec in specs], projection_dim=EMBEDDING)).load_neurons()
    inputs = {f"{name}_{key}": value for name, given in tower_inputs(batch).items() for key, value in given.items()}
    with torch.no_grad():
        expected, _ = towers.encode(batch)
        found = model(**inputs, output_all_rounds=True).all_rounds[0].neuron_embeds
    for name in SEES:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read_words(tmp_path).norm(dim=-1), torch.ones(32))


def test_shares_of_untrained_towers_are_near_nothing(towers, batch):
    clips = {name: values.numpy() for name, values in batch.items()}
    shares = seen_shares(towers, clips, ("image", "legend"))
    assert set(shares) == {
        *("image_colour_words", "image_shape_words", "legend_motion_words", "legend_name_words"),
        *("image_colour", "image_shape", "legend_motion", "legend_name"),
    }
    assert all(0 <= share <= 1 for share in shares.values())


def test_each_epoch_has_each_clip_once():
    batches = ClipBatches({"number": np.arange(6)}, batch_size=2, seed=0)
    epochs = [
        sorted(torch.cat([batches(3 * epoch + step)["number"] for step in range(3)]).tolist()) for epoch in (0, 1)
    ]
    assert epochs == [list(range(6))] * 2
    orders = [[batches(3 * epoch + step)["number"].tolist() for step in range(3)] for epoch in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.slow
def test_stages_follow_each_other_to_both_sets_of_towers(tmp_path, monkeypatch):
    few = {
        "towers": ("train", 100, 4, None),
        "towers_two": ("train", 101, 4, 2),
        "validation": ("validation", 0, 2, None),
    }
    monkeypatch.setattr(association_clips, "SHARD", 2)
    monkeypatch.setattr(train_association_towers, "CLIP_SETS", few)
    monkeypatch.setattr(train_association_towers, "BATCH_SIZE", 4)
    monkeypatch.setattr(trainer, "draw_curve", lambda log, picture: None)  # which takes longer than a stage
    stages = [replace(stage, steps=1) for stage in STAGES]
    monkeypatch.setattr(train_association_towers, "STAGES", stages)
    train_association_towers.draw_clips(tmp_path, workers=1)
    train_association_towers.train_towers(tmp_path, "global")
    for kind in ("local", "global"):
        assert {path.name for path in (tmp_path / kind).iterdir()} >= {*SEES, "words.json", "words.safetensors"}
    with pytest.raises(ValueError, match="kind is 'both', expected one of global, local, background"):
        train_association_towers.train_towers(tmp_path, "both")
    saved = {path: path.read_bytes() for path in tmp_path.glob("*/*/*.safetensors")}
    train_association_towers.train_towers(tmp_path, "global")  # done: nothing is trained again
    assert saved == {path: path.read_bytes() for path in tmp_path.glob("*/*/*.safetensors")}
