"""Files of edits: frames, times and sound of the edited stretch; columns side by side."""

import av
import numpy as np
import pytest
from frame_stamps import CLIP_KINDS, heard_time, read_stamps, write_sound

pytest.importorskip("diffusers")

from modeling_sen.audio_io import read_audio
from modeling_sen.editing import edit_files
from modeling_sen.editing.edit_files import FONT_SIZE, compared, write_comparison, write_frames
from modeling_sen.tracking.clip_frames import read_all_frames
from modeling_sen.video_io import read_video


def random_frames(count=4, size=(32, 48), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def test_a_part_is_written_with_its_times_and_sound(tmp_path):
    clip = tmp_path / "clip.mp4"
    write_sound(clip, "aac", seconds=2, clip=CLIP_KINDS["mp4"])
    frames, times = read_all_frames(clip)[30:50:2], np.arange(30, 50, 2) / 30
    write_frames(tmp_path / "edit.mp4", frames, times, 15, clip)
    found = read_video(tmp_path / "edit.mp4", 10)
    assert read_stamps(found.frames) == list(range(30, 50, 2))
    assert found.times.tolist() == pytest.approx(np.arange(10) / 15, abs=1e-4)
    assert found.duration == pytest.approx(10 / 15, abs=1e-4)
    before, after = read_audio(clip, span=(1.2, 1.5)), read_audio(tmp_path / "edit.mp4", span=(0.2, 0.5))
    assert heard_time(after.samples, 16_000) == pytest.approx(heard_time(before.samples, 16_000), abs=0.005)


def test_odd_sizes_and_one_frame_are_written_and_arrays_have_no_sound(tmp_path):
    frames = random_frames(1, (31, 45))
    write_frames(tmp_path / "edit.mp4", frames, np.array([0.0]), 24, frames)
    with av.open(str(tmp_path / "edit.mp4")) as container:
        assert not container.streams.audio
        assert (container.streams.video[0].width, container.streams.video[0].height) == (46, 32)
        assert container.streams.video[0].codec_context.name == "h264"
    assert read_video(tmp_path / "edit.mp4").num_frames_total == 1


def test_columns_are_below_their_labels_and_enlarged_by_a_whole_factor(tmp_path):
    first, second = random_frames(seed=0), random_frames(seed=1)
    (picture, *_), height = list(compared([("source", first), ("a dog", second)])), 8 * 32
    assert picture.shape[1:] == (2 * 8 * 48, 3)
    bar = picture[:-height]
    assert FONT_SIZE < len(bar) < 3 * FONT_SIZE
    columns = np.split(picture[-height:], 2, axis=1)
    assert np.array_equal(columns[0][::8, ::8], first[0])
    assert np.array_equal(columns[1][7::8, 7::8], second[0])
    for half in np.split(bar, 2, axis=1):
        assert half.min() < 100  # something is written
        assert half[:, -1].min() == 255
    write_comparison(tmp_path / "both.mp4", [("source", first), ("a dog", second)], np.arange(4) / 8, 8)
    assert read_video(tmp_path / "both.mp4").frames.shape[1:3] == (len(picture) + len(picture) % 2, 768)


def test_large_frames_keep_their_size_and_long_labels_are_cut():
    frames = random_frames(1, (300, 200))
    (short,) = compared([("a dog", frames)])
    (long,) = compared([(" ".join(["a very long description of the clip"] * 9), frames)])
    (word,) = compared([("x" * 500, frames)])
    assert short.shape == word.shape
    assert len(short) < len(long) < len(short) + 4 * FONT_SIZE
    assert long.shape[1] == 200
    for picture in (long, word):
        assert (picture[: len(picture) - 300, -edit_files.MARGIN :] == 255).all()


def test_a_failure_leaves_the_old_file(tmp_path):
    (tmp_path / "edit.mp4").write_text("old")
    with pytest.raises(ValueError, match="zip"):
        write_frames(tmp_path / "edit.mp4", random_frames(3), np.arange(4) / 8, 8)
    with pytest.raises(ValueError, match=r"edit.gif: expected a file ending in .mp4, found '.gif'"):
        write_frames(tmp_path / "edit.gif", random_frames(1), np.zeros(1), 8)
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_frames(tmp_path / "nowhere" / "edit.mp4", random_frames(1), np.zeros(1), 8)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
