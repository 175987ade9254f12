"""One-shot tuning: what a step computes, when training stops and what it keeps, resuming, and bad inputs."""

import copy
import os
import signal

import numpy as np
import pytest
import torch
from random_editing import make_editing, make_unet, randomize
from random_sen import random_weights
from tiny_diffusion import make_base, make_text_encoder, make_vae
from tiny_towers import clip_tokenizer

pytest.importorskip("diffusers")

from modeling_sen.editing.base_parts import BaseParts, load_base_parts
from modeling_sen.editing.latents import encode_frames, encode_prompts
from modeling_sen.editing.tuning import TuningSettings, tune_adapter
from modeling_sen.editing.tuning_steps import AdapterTraining, TuningClip, validation_loss

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)
MIRRORED = np.ascontiguousarray(FRAMES[:, :, ::-1])
PROMPT = "a red dog"
SHORT = TuningSettings(steps=8, learning_rate=1e-2, window=4, validation_every=2)
KINDS = [("kl", "epsilon"), ("unshuffle", "v_prediction")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: make_base(folder / "-".join(kind), *kind) for kind in KINDS}


@pytest.fixture
def tunable(make_sen, folders):
    """(model, parts) of a kind; each call builds the same."""

    def make(kind=KINDS[0]):
        model = make_editing(random_weights(make_sen()), folders[kind])
        return model, load_base_parts(model.base_source)

    return make


@pytest.fixture(scope="module")
def made():
    """What `short_run` returned before."""
    return {}


@pytest.fixture
def short_run(tunable, made):
    """(result, weights of the adapter) of a run with the settings SHORT."""
    if not made:
        model, parts = tunable()
        made.update(result=tune(model, parts), weights=weights(model.adapter))
    return made["result"], made["weights"]


def tune(model, parts, settings=SHORT, frames=FRAMES, prompt=PROMPT, **kwargs):
    return tune_adapter(model, parts, frames, prompt, settings, progress=False, **kwargs)


def clip_of(model, parts, frames=FRAMES, window=4, seed=0):
    return TuningClip.of(model, parts.vae, parts.scheduler, frames, PROMPT, window, seed)


def training_of(model, parts):
    return AdapterTraining(model.adapter, encode_prompts(parts, [PROMPT]), parts.scheduler)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_base_models_prediction(tunable, kind):
    model, parts = tunable(kind)
    randomize(model.adapter, 0.1)
    batch = clip_of(model, parts).training_batch(5)
    latents, noise, time = batch["latents"], batch["noise"], batch["timesteps"]
    with torch.no_grad():
        found = training_of(model, parts)(**batch)["loss"]
        noisy = parts.scheduler.add_noise(latents, noise, time)
        states = encode_prompts(parts, [PROMPT])
        predicted = model.predict(noisy, time, states, batch["features"])
        target = noise if kind[1] == "epsilon" else parts.scheduler.get_velocity(latents, noise, time)
    torch.testing.assert_close(found, (predicted - target).square().mean(), rtol=1e-4, atol=1e-6)


def test_a_step_takes_one_window_of_latents_and_features(tunable):
    model, parts = tunable()
    clip = clip_of(model, parts)
    latents = encode_frames(parts.vae, FRAMES)
    with torch.no_grad():
        features = model.video_features(FRAMES, PROMPT)
    starts, times = set(), set()
    for number in range(40):
        batch = clip.training_batch(number)
        start = next(each for each in range(3) if torch.equal(batch["latents"], latents[:, :, each : each + 4]))
        assert all(torch.equal(batch["features"][name], features[name][:, start : start + 4]) for name in features)
        assert batch["timesteps"].shape == (1,)
        starts.add(start)
        times.add(int(batch["timesteps"]))
    assert starts == {0, 1, 2}
    assert len(times) > 30
    assert max(times) - min(times) > 800


def test_noise_is_a_function_of_seed_and_step(tunable):
    model, parts = tunable()
    clip, other = clip_of(model, parts), clip_of(model, parts, seed=1)
    assert torch.equal(clip.training_batch(3)["noise"], clip.training_batch(3)["noise"])
    validation = next(iter(clip.validation_batches()))["noise"]
    noises = [clip.training_batch(3)["noise"], clip.training_batch(4)["noise"], other.training_batch(3)["noise"]]
    noises += [validation, clip.training_batch(0)["noise"]]
    for index, noise in enumerate(noises):
        assert abs(float(noise.std()) - 1) < 0.1
        assert not any(torch.equal(noise, each) for each in noises[:index])


def test_validation_has_timesteps_and_windows_of_the_whole_schedule_and_clip(tunable):
    model, parts = tunable()
    batches = list(clip_of(model, parts).validation_batches())
    assert [int(each["timesteps"]) for each in batches] == [62, 187, 312, 437, 562, 687, 812, 937]
    latents = encode_frames(parts.vae, FRAMES)
    assert torch.equal(batches[0]["latents"], latents[:, :, :4])
    assert torch.equal(batches[-1]["latents"], latents[:, :, 2:])


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls(tunable, kind):
    model, parts = tunable(kind)
    clip, training = clip_of(model, parts), training_of(model, parts)
    with torch.no_grad():
        before = validation_loss(training, clip)
    result = tune(model, parts, TuningSettings(steps=40, learning_rate=5e-3, validation_every=10, window=4))
    with torch.no_grad():
        assert validation_loss(training, clip) < before - 0.02
    assert list(result.losses) == list(result.validation_losses) == [10, 20, 30, 40]
    assert result.steps == 40


def test_only_the_adapter_is_trained(tunable):
    model, parts = tunable()
    before = {name: weights(module) for name, module in modules(model, parts).items()}
    tune(model, parts)
    changed = {name for name, module in modules(model, parts).items() if not same(before[name], weights(module))}
    assert changed == {"adapter"}
    assert not any(module.training for module in modules(model, parts).values())
    assert all(parameter.grad is None for parameter in [*model.unet.parameters(), *model.sen.parameters()])


def modules(model, parts):
    towers = {f"tower {name}": model.sen.neurons[name].tower for name in model.sen.neurons}
    own = {"adapter": model.adapter, "unet": model.unet, "sen": model.sen}
    return {**own, **towers, "vae": parts.vae, "text": parts.text_encoder}


def test_validation_is_on_the_mirrored_clip(tunable):
    model, parts = tunable()
    result = tune(model, parts)
    with torch.no_grad():
        found = validation_loss(training_of(model, parts), clip_of(model, parts, MIRRORED))
        other = validation_loss(training_of(model, parts), clip_of(model, parts))
    assert found == pytest.approx(result.validation_losses[result.best_step], rel=1e-6)
    assert abs(found - other) > 1e-4


def test_training_stops_without_improvement_and_keeps_the_best(tunable):
    model, parts = tunable()
    settings = TuningSettings(steps=200, learning_rate=0.1, window=4, validation_every=3, patience=2)
    result = tune(model, parts, settings)
    values = result.validation_losses
    assert result.steps < 200
    assert result.best_step == min(values, key=values.get) == result.steps - 2 * 3
    with torch.no_grad():
        found = validation_loss(training_of(model, parts), clip_of(model, parts, MIRRORED))
    assert found == pytest.approx(values[result.best_step], rel=1e-6)
    assert found < values[result.steps]


def test_an_interrupted_run_resumes_bit_for_bit(tunable, short_run, tmp_path, monkeypatch):
    expected, wanted = short_run
    draw = TuningClip.training_batch

    def interrupt(clip, number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(clip, number)

    monkeypatch.setattr(TuningClip, "training_batch", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step \d; the same command resumes"):
        tune(*tunable(), output_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt, match="stopped; a run with an output_dir can be resumed"):
        tune(*tunable())
    monkeypatch.setattr(TuningClip, "training_batch", draw)
    model, parts = tunable()
    assert tune(model, parts, output_dir=tmp_path) == expected
    assert same(weights(model.adapter), wanted)


def test_a_finished_run_is_loaded(tunable, tmp_path, monkeypatch):
    settings = TuningSettings(steps=200, learning_rate=0.1, window=4, validation_every=3, patience=2)
    model, parts = tunable()
    expected = tune(model, parts, settings, output_dir=tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.setattr(TuningClip, "training_batch", None)
    other, parts = tunable()
    assert tune(other, parts, settings, output_dir=tmp_path / "b") == expected
    assert same(weights(other.adapter), weights(model.adapter))


def test_gradient_checkpointing_changes_nothing(tunable, short_run):
    expected, wanted = short_run
    other, parts = tunable()
    settings = TuningSettings(**{**vars(SHORT), "gradient_checkpointing": True})
    calls = count_checkpoints(other.unet)
    assert tune(other, parts, settings) == expected
    assert calls
    assert same(weights(other.adapter), wanted)
    assert not other.unet.is_gradient_checkpointing


def count_checkpoints(unet):
    """A list that grows with each call of a checkpointed block."""
    calls, enable = [], unet.enable_gradient_checkpointing

    def counted(function, *args):
        calls.append(function)
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)

    unet.enable_gradient_checkpointing = lambda: enable(counted)
    return calls


def test_bfloat16_trains_float32_weights(tunable, short_run):
    expected, _ = short_run
    other, parts = tunable()
    result = tune(other, parts, TuningSettings(**{**vars(SHORT), "mixed_precision": "bf16"}))
    assert {parameter.dtype for parameter in other.adapter.parameters()} == {torch.float32}
    found, wanted = (list(each.validation_losses.values()) for each in (result, expected))
    assert found != wanted
    assert found == pytest.approx(wanted, rel=0.02)


def test_an_adapter_in_half_precision_is_trained_in_float32_on_a_base_in_bfloat16(make_sen):
    model = make_editing(random_weights(make_sen()), make_unet().bfloat16())
    model.adapter.bfloat16()
    parts = BaseParts(make_vae().bfloat16(), make_text_encoder().bfloat16(), clip_tokenizer(), scheduler())
    before = copy.deepcopy(model.adapter).float()
    result = tune(model, parts)
    assert {parameter.dtype for parameter in model.adapter.parameters()} == {torch.float32}
    assert not same(weights(model.adapter), weights(before))
    assert all(np.isfinite(list(result.losses.values())))


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(clip_sample=False)


def test_a_clip_shorter_than_the_window_is_taken_whole(tunable):
    model, parts = tunable()
    assert clip_of(model, parts, window=24).training_batch(0)["latents"].shape[2] == 6
    result = tune(model, parts, TuningSettings(steps=2), FRAMES[:1])
    assert (result.steps, result.best_step, list(result.losses)) == (2, 2, [2])


# --- bad inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"window": 0}, "window is 0, expected at least 1"),
        ({"validation_every": 0}, "validation_every is 0, expected at least 1"),
        ({"patience": 0}, "patience is 0, expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, expected more than 0"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16', expected 'no' or 'bf16'"),
    ],
)
def test_settings_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TuningSettings(**changes)


def test_bad_inputs_are_errors_before_anything_is_written(tunable, tmp_path):
    model, parts = tunable()
    output = tmp_path / "run"
    with pytest.raises(ValueError, match="prompt: expected some words, found ' '"):
        tune(model, parts, prompt=" ", output_dir=output)
    with pytest.raises(ValueError, match="expected at most 77 tokens with start and end, found 102"):
        tune(model, parts, prompt="x" * 100, output_dir=output)
    with pytest.raises(ValueError, match=r"frames: expected \(T, H, W, 3\) uint8, found shape \(16, 24, 3\)"):
        tune(model, parts, frames=FRAMES[0], output_dir=output)
    with pytest.raises(ValueError, match="expected height and width in multiples of 4, found 16 x 23"):
        tune(model, parts, frames=FRAMES[:, :, 1:], output_dir=output)
    model.unet.half()
    with pytest.raises(
        ValueError, match="its UNet is in float16, in which gradients overflow or vanish; expected float32 or bf"
    ):
        tune(model, parts, output_dir=output)
    assert not output.exists()


def test_the_folder_of_another_run_is_an_error(tunable, tmp_path):
    model, parts = tunable()
    tune(model, parts, TuningSettings(steps=1), output_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"tuning.json: the run was started with steps = 1 and cannot be resumed with 2"
    ):
        tune(model, parts, TuningSettings(steps=2), output_dir=tmp_path)
    with pytest.raises(ValueError, match=r"started with prompt = 'a red dog' and cannot be resumed with 'a blue dog'"):
        tune(model, parts, TuningSettings(steps=1), prompt="a blue dog", output_dir=tmp_path)
    with pytest.raises(ValueError, match="started with frames_sha256 = "):
        tune(model, parts, TuningSettings(steps=1), frames=MIRRORED, output_dir=tmp_path)


def test_a_loss_that_is_not_finite_is_an_error(tunable):
    model, parts = tunable()
    with torch.no_grad():
        next(model.adapter.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan at step"):
        tune(model, parts)
