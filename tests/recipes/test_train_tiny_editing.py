"""Training sen-tiny-edit in miniature: batches, loss, what the tower reads, a resumed run, the checkpoint that comes out."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")
pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextModel

from modeling_sen import SENForVideoEditing
from modeling_sen.editing.pixel_unshuffle import PixelUnshuffle
from modeling_sen.training import trainer
from modeling_sen.world import (
    BACKGROUNDS,
    COLOURS,
    EDITED_ATTRIBUTES,
    MOTIONS,
    SHAPES,
    edit_attribute,
    make_scene,
    render,
)
from recipes.sen_tiny import train_tiny_editing as recipe
from recipes.sen_tiny.editing_batches import EditingBatches, cached_tokenizer, token_ids
from recipes.sen_tiny.editing_measure import accuracy, generate, read_frames
from recipes.sen_tiny.editing_network import EditingBase, make_scheduler, make_vae, to_frames, to_latents

WIDTHS = (16, 32)
LOOK = rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})( ({'|'.join(MOTIONS.values())}))?"
CAPTION = re.compile(rf"{LOOK}(, {LOOK})*( and {LOOK})?( over a ({'|'.join(BACKGROUNDS)}) background)?")


@pytest.fixture(autouse=True, scope="module")
def no_curve():
    """Drawing takes longer than a run of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_curve", lambda log, picture: None)
        yield


def tiny_base(seed=0):
    torch.manual_seed(seed)
    return EditingBase(cached_tokenizer(), WIDTHS).eval()


class PaintedTower:
    """Reads what is painted: the colour and shape that a test put at each place, and the first background."""

    def __init__(self, places):
        self.places = places  # rows of {(colour, shape): number of places}

    def __call__(self, frames):
        there, background = -torch.ones(len(frames), 1, 16, 16), torch.zeros(len(frames), len(BACKGROUNDS))
        colour, shape = torch.zeros(len(frames), len(COLOURS), 16, 16), torch.zeros(len(frames), len(SHAPES), 16, 16)
        background[:, 0] = 1
        for row, objects in enumerate(self.places):
            start = 0
            for (one, other), count in objects.items():
                for values, number in ((there, 0), (colour, list(COLOURS).index(one)), (shape, SHAPES.index(other))):
                    values[row, number].view(-1)[start : start + count] = 1
                start += count
        return there, colour, shape, background


def untrained_accuracy(*args, **kwargs):
    """In the place of generation, which takes longer than a run of these."""
    return {"all": 0.0}


# --- batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step():
    batch, again = (EditingBatches(5, 16)(3) for _ in range(2))
    other = EditingBatches(5, 16)(4)
    for name, values in batch.items():
        assert torch.equal(values, again[name])
        assert not torch.equal(values, other[name])
    assert batch["frames"].shape == (16, 64, 64, 3)
    assert batch["frames"].dtype == torch.uint8
    assert batch["noise"].shape == (16, 48, 16, 16)
    assert abs(batch["noise"].std() - 1) < 0.01
    # one timestep in each sixteenth of the schedule
    assert (batch["timesteps"] * 16 // 1000).sort().values.tolist() == list(range(16))


def test_captions_say_what_frames_show_or_nothing():
    batch = EditingBatches(6, 200, num_objects=(1, 3))(0)
    texts = cached_tokenizer().batch_decode(batch["input_ids"], skip_special_tokens=True)
    counts = {"empty": 0, "background": 0, "motion": 0}
    for index, (text, frame) in enumerate(zip(texts, batch["frames"].numpy(), strict=True)):
        scene = make_scene("train", 6, index, num_objects=(1, 3))
        assert any(np.array_equal(frame, each) for each in render(scene).frames)
        text = text.replace(" ,", ",")
        counts["empty"] += text == ""
        if text:
            assert CAPTION.fullmatch(text), text
            found = re.findall(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", text)
            assert found == [(sprite.colour, sprite.shape) for sprite in reversed(scene.sprites)]
            named = re.search(r"over a (\w+) background", text)
            assert named is None or named[1] == scene.background.kind
            counts["background"] += named is not None
            counts["motion"] += MOTIONS[scene.sprites[0].motion] in text
    assert 8 < counts["empty"] < 35
    assert 80 < counts["background"] < 135
    assert 105 < counts["motion"] < 160


def test_there_are_more_objects_as_the_run_goes_on():
    batches = EditingBatches(5, 4, steps=100)
    assert [batches.objects_at(step) for step in (0, 19, 20, 40, 99)] == [(1, 1), (1, 1), (1, 2), (1, 3), (1, 3)]
    assert EditingBatches(5, 4).objects_at(0) == (1, 3)


def test_a_word_of_a_prompt_is_one_token_and_any_text_has_tokens():
    tokenizer = cached_tokenizer()
    for index in range(40):
        scene = make_scene("test", 0, index, num_objects=(1, 3))
        for attribute in EDITED_ATTRIBUTES:
            change = edit_attribute(scene, attribute)
            for prompt in (change.source_prompt, change.target_prompt, change.edit_prompt):
                assert len(tokenizer.tokenize(prompt)) == len(re.findall(r"\w+|,", prompt)), prompt
    assert tokenizer.unk_token_id not in tokenizer("Ein Löwe, 3 €!", add_special_tokens=False)["input_ids"]
    assert token_ids(["", "a red circle"]).shape == (2, 77)


# --- loss and mean -------------------------------------------------------------------------------------------------------


def signal_shares(steps=1000):
    """sqrt(alpha_bar) by hand: Stable Diffusion's betas, stretched so that it ends at 0 (arXiv 2305.08891, algorithm 1)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, steps) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    return (root - root[-1]) * root[0] / (root[0] - root[-1])


def test_the_loss_is_that_of_the_velocity():
    training = recipe.EditingTraining(tiny_base()).eval()
    batch = EditingBatches(5, 4)(0)
    batch["timesteps"] = torch.tensor([0, 300, 700, 999])  # the last is pure noise
    squares = batch["frames"].double().numpy() / 127.5 - 1  # (4, 64, 64, 3)
    squares = squares.reshape(4, 16, 4, 16, 4, 3).transpose(0, 5, 2, 4, 1, 3).reshape(4, 48, 16, 16)
    latents, noise = torch.from_numpy(squares) * make_vae().config.scaling_factor, batch["noise"].double()
    signal = torch.from_numpy(signal_shares())[batch["timesteps"]].view(4, 1, 1, 1)
    spread = (1 - signal**2).sqrt()
    assert signal[-1] == 0
    with torch.no_grad():
        noisy = (signal * latents + spread * noise).float()
        predicted = training.base(noisy, batch["timesteps"], batch["input_ids"]).double()
        expected = (predicted - (signal * noise - spread * latents)).square().mean()
        torch.testing.assert_close(training(**batch)["loss"].double(), expected, atol=1e-4, rtol=1e-4)


def test_latents_of_world_frames_have_a_spread_of_about_one():
    latents = to_latents(make_vae(), EditingBatches(5, 64)(0)["frames"])
    assert 0.7 < latents.std() < 1.3
    frames = EditingBatches(5, 4)(0)["frames"]
    assert torch.equal(to_frames(make_vae(), to_latents(make_vae(), frames)), frames)


def test_the_exported_weights_are_a_running_mean():
    training = recipe.EditingTraining(tiny_base()).train()
    batch, parameter, mean = EditingBatches(5, 2)(0), training.base.unet.conv_in.bias, training.mean.unet.conv_in.bias
    expected = parameter.detach().clone()
    for step in range(3):
        with torch.no_grad():
            parameter += 1 + step
        training(**batch)
        kept = (step + 1) / (step + 11)
        expected = kept * expected + (1 - kept) * parameter.detach()
        torch.testing.assert_close(mean.detach(), expected)
    training.eval()(**batch)
    torch.testing.assert_close(mean.detach(), expected)
    assert not any(each.requires_grad for each in training.mean.parameters())


# --- measure -------------------------------------------------------------------------------------------------------------


def test_generation_is_ddim_with_guidance():
    base, vae, prompts = tiny_base(), make_vae(), ["a red circle", "a blue star over a striped background"]
    latents = torch.randn(2, 48, 16, 16, generator=torch.Generator().manual_seed(3))
    root = np.append(signal_shares(), 1.0)  # index -1: no noise
    with torch.no_grad():
        given, without = base.text_states(token_ids(prompts)), base.text_states(token_ids(["", ""]))
        for now, then in ((999, 749), (749, 499), (499, 249), (249, -1)):
            free, held = (base.predict(latents, torch.tensor(now), states) for states in (without, given))
            velocity = free + 2.5 * (held - free)
            image = root[now] * latents - (1 - root[now] ** 2) ** 0.5 * velocity
            noise = (1 - root[now] ** 2) ** 0.5 * latents + root[now] * velocity
            latents = (root[then] * image + (1 - root[then] ** 2) ** 0.5 * noise).float()
    expected = to_frames(vae, latents).numpy().astype(int)
    found = generate(base, vae, prompts, guidance=2.5, steps=4, seed=3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1


def test_the_tower_is_asked_for_the_objects_of_a_caption():
    frames = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    tower = PaintedTower(
        [
            {("red", "circle"): 9, ("blue", "star"): 8},
            {("red", "circle"): 9, ("blue", "star"): 2},  # too few places to be an object
            {
                ("red", "square"): 9,
                ("blue", "star"): 6,
                ("pink", "ring"): 8,
            },  # the smallest is one more than are asked for
        ]
    )
    assert read_frames(tower, frames)[:2] == [
        ({"red": "circle", "blue": "star"}, "cloudy"),
        ({"red": "circle"}, "cloudy"),
    ]
    sprites = [SimpleNamespace(colour="red", shape="circle"), SimpleNamespace(colour="blue", shape="star")]
    scenes = [SimpleNamespace(sprites=sprites, background=SimpleNamespace(kind=kind)) for kind in BACKGROUNDS[:2]]
    assert accuracy(tower, frames, [scenes[0], scenes[0], scenes[1]]) == pytest.approx(
        {"colour": 4 / 6, "shape": 3 / 6, "background": 2 / 3, "all": 1 / 3}
    )


# --- runs ----------------------------------------------------------------------------------------------------------------


def few_steps(output, steps, **changes):
    own = {"warmup_steps": 1, "dataloader_num_workers": 0, "dataloader_prefetch_factor": None, "disable_tqdm": True}
    return recipe.editing_arguments(output, steps, **{**own, "eval_steps": steps, "save_steps": 2, **changes})


def test_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "generated_accuracy", untrained_accuracy)
    settings = {"tower": None, "batch_size": 2, "widths": WIDTHS}
    whole = recipe.train_editing(tmp_path / "whole", few_steps(tmp_path / "whole", 4), **settings)
    draw = EditingBatches.__call__

    def stop(self, step):
        if step == 3:
            raise RuntimeError("stopped")
        return draw(self, step)

    arguments = few_steps(tmp_path / "cut", 4)
    monkeypatch.setattr(EditingBatches, "__call__", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        recipe.train_editing(tmp_path / "cut", arguments, **settings)
    monkeypatch.setattr(EditingBatches, "__call__", draw)
    resumed = recipe.train_editing(tmp_path / "cut", arguments, **settings)
    for name, values in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], values), name
    assert int(resumed.averaged) == 4


def test_two_steps_leave_a_checkpoint_in_half_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "generated_accuracy", untrained_accuracy)
    training = recipe.train_editing(tmp_path, few_steps(tmp_path, 2), tower=None, batch_size=2)
    folder = tmp_path / "moved"
    for _ in range(2):  # also over a checkpoint
        recipe.export(tmp_path, training, tmp_path / "editing")
    (tmp_path / "editing").rename(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 9e6
    for file in folder.rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(file).values()} == {torch.float16}, file

    model = SENForVideoEditing.from_pretrained(folder)
    assert model.config.base_model_id == "./base"
    assert model.dtype == model.unet.dtype == model.adapter.dtype == torch.float32
    assert {spec.hub_id for spec in model.sen.specs.values()} == {f"builtin:{name}" for name in model.sen.specs}
    unet = UNet2DConditionModel.from_pretrained(folder / "base", subfolder="unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "base" / "text_encoder")
    for loaded, trained in (
        (model.unet, training.mean.unet),
        (unet, model.unet),
        (text_encoder, training.mean.text_encoder),
    ):
        for name, weight in trained.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight.half().float()), name

    vae = PixelUnshuffle.from_pretrained(folder / "base", subfolder="vae")
    scheduler = DDIMScheduler.from_pretrained(folder / "base", subfolder="scheduler")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base" / "tokenizer")
    assert vae.config.scaling_factor == make_vae().config.scaling_factor
    assert torch.equal(scheduler.alphas_cumprod, make_scheduler().alphas_cumprod)
    assert scheduler.config.prediction_type == "v_prediction"
    assert tokenizer.model_max_length == 77
    prompt = ["a red circle over a striped background"]
    assert torch.equal(tokenizer(prompt, padding="max_length", return_tensors="pt")["input_ids"], token_ids(prompt))

    frames = render(make_scene("test", 0, 0), range(3)).frames
    features = model.video_features(frames)
    states = text_encoder(token_ids(prompt)).last_hidden_state
    assert model.predict(torch.randn(1, 48, 3, 16, 16), 500, states, features).isfinite().all()
