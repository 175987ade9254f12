"""Orientation of decoded frames: all eight, compared with FFmpeg's filters."""

import logging

import av
import numpy as np
import pytest
from av.filter import Graph
from frame_stamps import CLIP_KINDS, ClipKind, set_display_matrix, write_clip
from PIL import Image, ImageOps

from modeling_sen.video_io import read_frames, read_video

# A stored point (x, y) is shown at (a x + c y, b x + d y). The filters have the same effect; the ffmpeg command inserts
# such filters (transpose=clock etc.) itself.
ORIENTATIONS = {
    (1, 0, 0, 1): ["null"],
    (-1, 0, 0, 1): ["hflip"],
    (1, 0, 0, -1): ["vflip"],
    (-1, 0, 0, -1): ["hflip", "vflip"],
    (0, 1, -1, 0): ["transpose=clock"],
    (0, -1, 1, 0): ["transpose=cclock"],
    (0, 1, 1, 0): ["transpose=clock", "hflip"],
    (0, -1, -1, 0): ["transpose=clock", "vflip"],
}


def filtered(path, filters):
    """(height, width, 3): the first frame, after FFmpeg filters."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream)).reformat(format="rgb24")
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base),
            *(graph.add(*each.split("=")) for each in filters),
            graph.add("buffersink"),
        ).configure()
        graph.push(frame)
        return graph.pull().to_ndarray(format="rgb24")


@pytest.mark.parametrize(("matrix", "filters"), ORIENTATIONS.items())
def test_frames_are_rotated_and_flipped_by_the_display_matrix(tmp_path, matrix, filters):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(3))
    expected = filtered(clip, filters)
    set_display_matrix(clip, *matrix)
    assert np.array_equal(read_frames(clip, [0]).frames[0], expected)


def test_a_degenerate_display_matrix_is_ignored(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", CLIP_KINDS["mp4"], range(3))
    expected = filtered(clip, ["null"])
    set_display_matrix(clip, 0, 0, 0, 0)
    assert np.array_equal(read_frames(clip, [0]).frames[0], expected)


def test_a_display_matrix_applies_to_all_frames(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", ClipKind(".mp4", "libx264", size=(112, 80)), range(3))
    set_display_matrix(clip, 0, 1, 1, 0)
    assert read_frames(clip, range(3)).frames.shape == (3, 112, 80, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied_to_files_bytes_and_pil_images(tmp_path, suffix, orientation):
    quarters = np.kron(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]), np.ones((16, 32, 1)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(quarters.astype(np.uint8)).save(path, exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert expected.shape == ((32, 64, 3) if orientation <= 4 else (64, 32, 3))
    for video in (Image.open(path), [Image.open(path)]):
        assert np.array_equal(read_frames(video, [0]).frames[0], expected)
    for video in (path, path.read_bytes()):  # by another decoder
        frame = read_frames(video, [0]).frames[0]
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 10


def test_a_large_image_file_is_read_without_a_warning(tmp_path, caplog):
    """FFmpeg cannot seek in an image file."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=95)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read_frames(tmp_path / "noise.png", [0]).frames[0], noise)
        assert read_frames(tmp_path / "noise.jpg", [0]).frames.shape == (1, 400, 600, 3)
        assert read_video(tmp_path / "noise.jpg", 2).num_frames_total == 1
    assert caplog.text == ""
