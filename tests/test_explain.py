"""The effect of association, as numbers and as a plot."""

import sys

import numpy as np
import pytest
import torch
from frame_stamps import write_sound
from PIL import Image
from random_sen import random_weights

from modeling_sen import SENModel, SENProcessor, read_audio
from modeling_sen.explain import RoundScores, check_plot_path, explain, plot_rounds

LABELS = ["a dog", "a red circle", "someone speaks"]


@pytest.fixture(scope="module")
def sen(sen_folder) -> tuple[SENModel, SENProcessor]:
    return SENModel.from_pretrained(sen_folder), SENProcessor.from_pretrained(sen_folder)


def made_up(
    labels: list[str], neurons: int = 1, rounds: int = 3, frames: int = 8, sound: int | None = 32_000
) -> RoundScores:
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.ones(len(labels)), size=(neurons + 2, rounds + 1))
    return RoundScores(
        frames=generator.integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8),
        frame_times=np.arange(frames) / 4,
        sound=None if sound is None else generator.normal(size=sound).astype(np.float32) * 0.1,
        sound_start=0.0,
        labels=labels,
        fused=scores[0],
        frozen_mean=scores[1, 0] if neurons else None,
        neurons={f"neuron{number}": scores[number + 2] for number in range(neurons)},
    )


def test_the_first_round_equals_the_frozen_encoders_and_the_last_the_result(sen, clips):
    model, processor = sen
    scores = explain(model, processor, clips[0], LABELS)
    with torch.no_grad():
        texts = [f"a video of {label}" for label in LABELS]
        output = model(**processor(videos=clips[0], text=texts), output_all_rounds=True)
        image = model.neurons["image"]
        state = image.first_look({"pixel_values": processor(videos=clips[0])["image_pixel_values"]}).state
        scores_of_image = torch.nn.functional.normalize(image.project(state.pooler_output), dim=-1)
        scores_of_image = (model.logit_scale.exp() * scores_of_image @ output.text_embeds.t()).softmax(dim=-1)[0]
    assert scores.labels == LABELS
    assert scores.fused.shape == (model.config.num_rounds + 1, 3)
    assert np.allclose(scores.fused.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(scores.fused[-1], output.logits_per_video.softmax(dim=-1)[0].numpy(), atol=1e-6)
    assert list(scores.neurons) == ["image"]  # the only neuron in the text tower's space
    assert scores.neurons["image"].shape == scores.fused.shape
    assert np.allclose(scores.neurons["image"][0], scores_of_image.numpy(), atol=1e-6)
    assert np.allclose(scores.frozen_mean, scores_of_image.numpy(), atol=1e-6)
    # Prompts with `queries` leave the tokens of the first look unchanged, and so the embedding.
    assert np.array_equal(scores.neurons["image"][0], scores.neurons["image"][-1])


def test_repeating_the_crown_changes_the_scores_of_the_single_neuron(make_sen, clips):
    model = random_weights(make_sen(prompt="tokens"))
    scores = explain(model, SENProcessor(model.config), clips[0], LABELS)
    assert not np.allclose(scores.neurons["image"][0], scores.neurons["image"][-1], atol=1e-6)


def test_the_scores_of_an_untrained_sen_equal_the_mean_of_its_frozen_neurons(make_sen, clips):
    model = make_sen()
    scores = explain(model, SENProcessor(model.config), clips[0], LABELS)
    assert np.allclose(scores.fused, scores.frozen_mean, atol=1e-6)


def test_frames_and_sound_come_from_the_clip(sen, clips):
    scores = explain(*sen, clips[0], LABELS)
    assert scores.frames.shape == (4, 32, 32, 3)  # as many as the neuron with the most frames takes
    assert scores.frame_times.tolist() == [0.25, 0.75, 1.25, 1.75]
    assert scores.sound_start == 0.0
    assert np.array_equal(scores.sound, read_audio(clips[0], 16_000, (0.0, 2.0)).samples)


def test_clips_without_sound_or_without_frames_are_explained(sen, clips):
    frames = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    silent = explain(*sen, frames, LABELS)
    assert silent.sound is None
    assert len(silent.frames) == 4
    with_sound = explain(*sen, {"audio": clips[0], "text": "a dog"}, LABELS)
    assert len(with_sound.frames) == 0
    assert len(with_sound.sound) > 16_000
    assert with_sound.neurons == {}  # the aligned neuron had no input
    assert with_sound.frozen_mean is None
    assert with_sound.fused.shape == silent.fused.shape


def test_only_the_start_of_a_long_sound_is_shown(sen, tmp_path):
    write_sound(tmp_path / "long.wav", "pcm_s16le", 70, rate=16_000, layout="mono")
    with_sound = explain(*sen, {"audio": tmp_path / "long.wav", "text": "a dog"}, LABELS)
    assert np.array_equal(with_sound.sound, read_audio(tmp_path / "long.wav", 16_000).samples[: 60 * 16_000])


def test_templates_are_averaged(sen, clips):
    one, several = explain(*sen, clips[0], LABELS), explain(*sen, clips[0], LABELS, ["{}", "this is {}"])
    assert not np.allclose(one.fused, several.fused, atol=1e-6)


@pytest.mark.parametrize(
    "scores",
    [
        made_up(["dog"], sound=None),
        made_up(
            [f"a person doing the very long thing with number {number} for $5 and {'x' * 60}" for number in range(12)],
            4,
        ),
        made_up(["a", "b"], sound=50, frames=1),
        made_up(["a", "b"], neurons=0, frames=0),
        made_up(["a", "b"], rounds=0),
    ],
    ids=["one label, no sound", "long labels", "very short sound", "no pictures, no aligned neuron", "no rounds"],
)
def test_every_kind_of_clip_is_plotted(scores, tmp_path, recwarn):
    plot_rounds(scores, tmp_path / "rounds.png", title="a $clip_ named oddly" * 10)
    with Image.open(tmp_path / "rounds.png") as picture:
        colours = len(picture.convert("RGB").getcolors(1 << 24))
    assert picture.width > 1000
    assert colours > 20
    assert [path.name for path in tmp_path.iterdir()] == ["rounds.png"]
    assert not [str(warning.message) for warning in recwarn]


def test_texts_of_the_plot_do_not_overlap_or_leave_the_page(tmp_path, monkeypatch):
    from matplotlib.text import Text

    boxes = {}
    draw = Text.draw

    def drawn(self, renderer, *args, **kwargs):
        if self.get_text() and self.get_visible():
            boxes[id(self)] = (self.get_text(), self.get_window_extent(renderer), self.get_figure(root=True).bbox)
        return draw(self, renderer, *args, **kwargs)

    monkeypatch.setattr(Text, "draw", drawn)
    labels = [f"a person riding a horse number {number} while another dog watches it" for number in range(12)]
    plot_rounds(made_up(labels, neurons=4), tmp_path / "rounds.png", title="clip.mp4")

    found = list(boxes.values())
    assert len(found) > 8 * 12
    corners = np.array([[box.x0, box.y0, box.x1, box.y1] for _, box, _ in found])
    for place, (text, box, page) in enumerate(found):
        assert page.x0 <= box.x0, text
        assert page.y0 <= box.y0, text
        assert box.x1 <= page.x1, text
        assert box.y1 <= page.y1, text
        common = np.minimum(corners[place, 2:], corners[:place, 2:]) - np.maximum(
            corners[place, :2], corners[:place, :2]
        )
        assert (common <= 0.5).any(1).all(), text


def test_a_wrong_path_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match=r"picture ending in one of .*png.*, found 'mp4'"):
        check_plot_path(tmp_path / "rounds.mp4")
    with pytest.raises(FileNotFoundError, match="no folder"):
        check_plot_path(tmp_path / "nowhere" / "rounds.png")


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"modeling-sen\[plot\]"):
        check_plot_path(tmp_path / "rounds.png")
