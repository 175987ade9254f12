import av
import numpy as np
import pytest

from modeling_sen.world import make_scene, render, sound_of
from modeling_sen.world.mp4 import write_mp4


def test_a_written_clip_decodes_to_its_frames_times_and_sound(tmp_path):
    scene = make_scene("train", 0, 4, hops=1)
    frames, sound = render(scene).frames, sound_of(scene)
    write_mp4(tmp_path / "clip.mp4", frames, 8, sound)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
        pictures = list(container.decode(video=0))
    decoded = np.stack([picture.to_ndarray(format="rgb24") for picture in pictures]).astype(int)
    assert [picture.time for picture in pictures] == [time / 8 for time in range(16)]
    assert decoded.shape == frames.shape
    assert np.abs(decoded - frames).mean() < 4
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.concatenate([part.to_ndarray()[0] for part in container.decode(audio=0)])
        assert container.streams.audio[0].rate == 16_000
    pitch = [np.abs(np.fft.rfft(wave[: len(sound)])).argmax() for wave in (decoded, sound)]
    assert abs(pitch[0] - pitch[1]) <= 2
    assert decoded.std() * 32768 == pytest.approx(sound.std(), rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_clip_without_sound_has_no_sound_track(tmp_path):
    write_mp4(tmp_path / "clip.mp4", render(make_scene("train", 0, 0)).frames, 8)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 64, 64, 3), dtype=np.float32), "float32"),
        (np.zeros((4, 3, 64, 64), dtype=np.uint8), r"\(T, H, W, 3\)"),
        (np.zeros((4, 64, 63, 3), dtype=np.uint8), "63x64"),
    ],
)
def test_frames_that_cannot_be_written_are_named(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "clip.mp4", frames, 8)
    assert not list(tmp_path.iterdir())
