"""Training sen-tiny's towers end to end in miniature: stock checkpoints come out, and a resumed run is the same run."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    ASTFeatureExtractor,
    ASTModel,
    AutoImageProcessor,
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    VideoMAEModel,
)

pytest.importorskip("accelerate")

from modeling_sen.training import trainer
from recipes.sen_tiny import train_tiny_association
from recipes.sen_tiny.tiny_batches import TinyBatches, validation_clips
from recipes.sen_tiny.tiny_image_128 import LargeImageTower
from recipes.sen_tiny.tiny_towers import (
    PICTURE_MEAN,
    PICTURE_STD,
    TinyTowers,
    as_colour,
    exported_pictures,
    name_patches,
    normalise,
)
from recipes.sen_tiny.train_tiny import (
    image_128_arguments,
    towers_arguments,
    train_image_128,
    train_towers,
    train_video,
    video_arguments,
)
from recipes.sen_tiny.train_tiny_association import NEURONS, association_arguments, train_association

STOCK = {
    "text": CLIPTextModelWithProjection,
    "image": CLIPVisionModelWithProjection,
    "image_128": CLIPVisionModelWithProjection,
    "video": VideoMAEModel,
    "audio": ASTModel,
    "depth": CLIPVisionModelWithProjection,
}


@pytest.fixture(autouse=True, scope="module")
def no_curve():
    """Drawing takes longer than a run of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_curve", lambda log, picture: None)
        yield


def short(arguments, output, steps=4, **changes):
    few = {"warmup_steps": 1, "dataloader_num_workers": 0, "logging_steps": 1, "eval_steps": steps, "save_steps": 2}
    return arguments(output, steps=steps, disable_tqdm=True, **few, **changes)


SMALL = {"batch_size": 4, "num_validation_clips": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("sen_tiny")
    towers = train_towers(output, short(towers_arguments, output), **SMALL)
    large = train_image_128(output, output, short(image_128_arguments, output, steps=2), **SMALL)
    return output, towers, large


@pytest.mark.parametrize("name", STOCK)
def test_every_tower_loads_as_the_stock_class_it_is(trained, name):
    output, towers, large = trained
    tower, loading = STOCK[name].from_pretrained(output / name, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    source = large.image if name == "image_128" else getattr(towers, name)
    for key, value in source.state_dict().items():
        assert torch.equal(tower.state_dict()[key], value.half()), key


def test_the_six_towers_weigh_at_most_5_megabytes_and_a_log_is_kept(trained):
    output = trained[0]
    assert sum(file.stat().st_size for name in STOCK for file in (output / name).glob("*.safetensors")) <= 5_000_000
    log = [json.loads(line) for line in (output / "towers_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4]
    measured = [line for line in log if "eval_mean_top1" in line]
    assert [line["step"] for line in measured] == [4]
    shares = [f"eval_{name}" for name in ("image_top1", "video_seen", "mean_top1", "video_motion")]
    assert all(0 <= measured[0][name] <= 1 for name in shares)
    settings = json.loads((output / "image_128_settings.json").read_text())
    assert (settings["max_steps"], settings["weight_decay"]) == (2, 0.05)


def test_loaded_towers_with_stock_preprocessing_give_the_embeddings_of_training(trained):
    output, towers, _ = trained
    clips = validation_clips(2, 3)
    towers.eval()
    with torch.no_grad():
        wanted = towers.encode(clips)[0]

    def load(name):
        return STOCK[name].from_pretrained(output / name, dtype=torch.float32).eval()

    def processor(name):
        return AutoImageProcessor.from_pretrained(output / name, backend="pil")

    def normalised(values):
        return torch.nn.functional.normalize(values, dim=-1)

    found = {}
    with torch.no_grad():
        for name, pictures in (("image", clips["image"]), ("depth", as_colour(clips["depth"]).movedim(1, -1))):
            pixels = processor(name)(list(pictures.numpy()), return_tensors="pt")
            found[name] = normalised(load(name)(**pixels).image_embeds)
        frames = as_colour(clips["grey"]).movedim(2, -1).numpy()  # (clips, 8, 64, 64, 3)
        pixels = processor("video")([list(clip) for clip in frames], return_tensors="pt")
        torch.testing.assert_close(
            pixels["pixel_values"].float(), normalise(as_colour(clips["grey"]), PICTURE_MEAN, PICTURE_STD)
        )
        weight = load_file(output / "video" / "projection.safetensors")["weight"].float()
        found["video"] = normalised(load("video")(**pixels).last_hidden_state.mean(1) @ weight.T)
        weight = load_file(output / "audio" / "projection.safetensors")["weight"].float()
        found["audio"] = normalised(load("audio")(clips["log_mel"]).pooler_output @ weight.T)
        tokens = AutoTokenizer.from_pretrained(output / "text")(
            ["a red circle", "blue"], padding=True, return_tensors="pt"
        )
        text = normalised(load("text")(**tokens).text_embeds)
        torch.testing.assert_close(text, towers.encode_text(tokens["input_ids"]), atol=2e-3, rtol=0)
    for name, embedding in found.items():
        torch.testing.assert_close(embedding, wanted[name], atol=2e-3, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    extractor = ASTFeatureExtractor.from_pretrained(output / "audio")
    assert (extractor.num_mel_bins, extractor.max_length, extractor.sampling_rate) == (64, 200, 16_000)
    assert load_file(output / "text" / "logit_scale.safetensors")["logit_scale"].shape == ()


@pytest.mark.slow
def test_training_the_towers_resumes_bit_for_bit(trained, tmp_path, monkeypatch):
    output, towers, _ = trained
    draw = TinyBatches.__call__

    def dying(self, step):
        if step == 3:
            raise RuntimeError("power cut")
        return draw(self, step)

    monkeypatch.setattr(TinyBatches, "__call__", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        train_towers(tmp_path, short(towers_arguments, tmp_path), **SMALL)
    monkeypatch.undo()
    again = train_towers(tmp_path, short(towers_arguments, tmp_path), **SMALL)
    for name, value in towers.named_parameters():
        assert torch.equal(value, again.get_parameter(name)), name
    for tower in ("text", "image", "video", "audio", "depth"):
        weights = "model.safetensors"
        assert (output / tower / weights).read_bytes() == (tmp_path / tower / weights).read_bytes()


def test_half_of_the_video_tokens_are_dropped_in_masked_steps():
    batches = TinyBatches(seed=0, batch_size=4, masked_steps=1)
    torch.manual_seed(0)
    towers = TinyTowers(batches.tokenizer).eval()
    batch = batches(0)
    with torch.no_grad():
        tokens = towers.encode(batch)[1]["video"]
        unmasked = towers.encode({name: value for name, value in batch.items() if name != "kept"})[1]["video"]
        masked = towers(**batch)
    assert tokens.shape == (4, 128, 128)
    assert unmasked.shape == (4, 256, 128)
    labels = batch["video_shape"][batch["kept"]].view(4, -1)  # row by row, as the tower keeps its tokens
    assert torch.equal(masked["video_shape"], name_patches(towers.dense_heads["video_shape"](tokens), labels))


def test_the_contrast_is_least_where_every_clip_lies_on_the_texts_that_are_true_of_it():
    towers = TinyTowers(TinyBatches(seed=0, batch_size=4).tokenizer)
    texts = torch.eye(128)[:5]
    truth = torch.tensor([[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
    right = torch.nn.functional.normalize(truth.float() @ texts, dim=-1)
    wrong = right.roll(1, 0)
    assert towers.contrast(right, texts, truth) < 0.5 < towers.contrast(wrong, texts, truth)


def test_the_large_image_tower_starts_from_the_small_one():
    towers = TinyTowers(TinyBatches(seed=0, batch_size=4).tokenizer)
    large = LargeImageTower(towers)
    small = dict(towers.image.named_parameters())
    changed = [
        name
        for name, value in large.image.named_parameters()
        if value.shape != small[name].shape or not torch.equal(value, small[name])
    ]
    assert changed == ["vision_model.embeddings.position_embedding.weight"]
    positions = large.image.vision_model.embeddings.position_embedding.weight[1:].view(8, 2, 8, 2, 128).mean((1, 3))
    old = towers.image.vision_model.embeddings.position_embedding.weight[1:].view(8, 8, 128)
    assert np.corrcoef(positions.detach().flatten(), old.detach().flatten())[0, 1] > 0.9
    assert {name.partition(".")[0] for name, value in large.named_parameters() if value.requires_grad} == {
        "image",
        "dense_heads",
    }


def test_the_large_image_tower_needs_only_what_was_written(trained):
    output, towers, _ = trained
    loaded = exported_pictures(output, TinyBatches(seed=0, batch_size=4).tokenizer)
    for name in ("image", "text"):
        for key, value in getattr(towers, name).state_dict().items():
            assert torch.equal(getattr(loaded, name).state_dict()[key], value.half().float()), key
    assert torch.equal(loaded.logit_scale, towers.logit_scale.half().float())


def test_the_video_stage_trains_the_video_tower_and_nothing_else(trained, tmp_path):
    towers = trained[1]
    before = {name: value.clone() for name, value in towers.state_dict().items()}
    train_video(tmp_path, towers, short(video_arguments, tmp_path, steps=2), **SMALL)
    changed = {
        name.partition(".")[0] for name, value in towers.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"video", "video_projection", "dense_heads"}
    towers.load_state_dict(before)


@pytest.mark.slow
def test_the_association_stage_writes_a_sen_over_builtin_towers(trained, monkeypatch):
    output, _, _ = trained
    one_template = partial(train_tiny_association.description_embeds, templates=("{}",))
    monkeypatch.setattr(train_tiny_association, "description_embeds", one_template)
    arguments = short(association_arguments, output, steps=2, seed=0)
    train_association(output, arguments, batch_size=4, num_validation_clips=4)
    config = json.loads((output / "config.json").read_text())
    assert [neuron["hub_id"] for neuron in config["neurons"]] == [f"builtin:{name}" for name in NEURONS]
    assert config["dtype"] == "float32"
    weights = load_file(output / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert not any(name.startswith("neurons.") for name in weights)
    assert (output / "processor_config.json").is_file()
