import numpy as np
import pytest

from modeling_sen.world import COLOURS, PITCHES, SAMPLING_RATE, make_scene, sound_of


def loudest_pitch(sound: np.ndarray) -> float:
    return np.abs(np.fft.rfft(sound)).argmax() * SAMPLING_RATE / len(sound)


def test_the_sound_covers_the_clip():
    sound = sound_of(make_scene("train", 0, 0))
    assert (sound.shape, sound.dtype) == ((32_000,), np.int16)
    assert sound_of(make_scene("train", 0, 0, num_frames=24)).shape == (48_000,)


def test_the_pitch_encodes_the_colour_of_the_sounding_sprite():
    colours = set()
    for index in range(150):
        scene = make_scene("train", 0, index, hops=1)
        pitch = loudest_pitch(sound_of(scene))
        nearest = min(PITCHES, key=lambda colour: abs(np.log(PITCHES[colour] / pitch)))
        assert nearest == scene.sounding_sprite.colour
        assert abs(pitch / PITCHES[nearest] - 1) < 0.015
        colours.add(nearest)
    assert colours == set(COLOURS)


def test_loudness_is_well_within_range():
    peaks = [np.abs(sound_of(make_scene("train", 0, index, hops=1)).astype(int)).max() for index in range(100)]
    assert min(peaks) > 1000
    assert max(peaks) < 32_000


@pytest.mark.parametrize("index", range(3))
def test_a_silent_clip_has_faint_noise_only(index):
    scenes = (make_scene("train", 0, number) for number in range(200))
    scene = [scene for scene in scenes if scene.sounding is None][index]
    sound = sound_of(scene).astype(int)
    assert 0 < np.abs(sound).max() <= 200
    spectrum = np.abs(np.fft.rfft(sound))
    assert spectrum[10:].max() < 8 * np.median(spectrum)
