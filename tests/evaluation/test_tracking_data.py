"""Readers of tracked clips: every layout, positions in our pixels, frames decoded when asked for, errors for other files."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from modeling_sen.evaluation import tracking_data
from modeling_sen.evaluation.tracking_data import draw_tracked_clip, read_badja, read_davis, read_tapvid, read_world
from modeling_sen.evaluation.tracking_metrics import tracking_metrics
from modeling_sen.world import make_scene, render, tracks
from modeling_sen.world.tracking_clips import tracking_clip
from modeling_sen.world.tracking_write import write_tracking_world
from modeling_sen.world.write import write_world


def encoded(frame, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()


def a_clip(seed=0, num_frames=7, num_points=4, size=(20, 30)):
    """As TAP-Vid stores it; the last point is never visible."""
    draw = np.random.default_rng(seed)
    occluded = draw.random((num_points, num_frames)) < 0.3
    occluded[:, 0], occluded[-1] = False, True
    return {
        "video": draw.integers(0, 256, (num_frames, *size, 3), dtype=np.uint8),
        "points": draw.random((num_points, num_frames, 2)).astype(np.float32),
        "occluded": occluded,
    }


def pickled(tmp_path, value):
    path = tmp_path / "tapvid.pkl"
    path.write_bytes(pickle.dumps(value, 4))
    return path


@pytest.mark.parametrize("layout", ["dict", "list"])
@pytest.mark.parametrize("mode", ["first", "strided"])
def test_tapvid_clips_hold_a_track_for_each_query(tmp_path, layout, mode):
    clips = [a_clip(0), a_clip(1, 11, 3, (40, 16))]
    path = pickled(tmp_path, {"horse": clips[0], "car": clips[1]} if layout == "dict" else clips)
    found = read_tapvid(path, mode)
    assert [clip.name for clip in found] == (["horse", "car"] if layout == "dict" else ["0", "1"])
    for clip, stored in zip(found, clips, strict=True):
        num_frames, height, width = stored["video"].shape[:3]
        assert (clip.frame_size, clip.query_mode, clip.annotated) == ((height, width), mode, None)
        np.testing.assert_array_equal(clip.read_frames(), stored["video"])
        expected = []
        for frame in range(num_frames) if mode == "first" else range(0, num_frames, 5):
            for point, hidden in enumerate(stored["occluded"]):
                first = int(np.argmin(hidden))
                if not hidden[frame] and (mode == "strided" or frame == first):
                    expected.append((frame, point))
        if mode == "first":
            expected.sort(key=lambda query: query[1])
        assert clip.queries.shape == (len(expected), 3)
        assert (clip.queries.dtype, clip.tracks.dtype) == (np.float32, np.float32)
        for number, (frame, point) in enumerate(expected):
            shares = stored["points"][point]
            np.testing.assert_allclose(clip.tracks[:, number, 0], shares[:, 0] * width - 0.5, atol=1e-5)
            np.testing.assert_allclose(clip.tracks[:, number, 1], shares[:, 1] * height - 0.5, atol=1e-5)
            np.testing.assert_array_equal(clip.visibility[:, number], ~stored["occluded"][point])
            np.testing.assert_array_equal(clip.queries[number], [frame, *clip.tracks[frame, number]])


def test_a_share_at_the_middle_of_a_pixel_is_a_whole_number(tmp_path):
    clip = a_clip()
    clip["points"][0, 0] = (2.5 / 30, 7.5 / 20)  # the third column, the eighth row
    (found,) = read_tapvid(pickled(tmp_path, [clip]), "first")
    np.testing.assert_allclose(found.queries[0], [0, 2, 7], atol=1e-5)


def test_a_clip_is_measured_by_its_own_truth_and_mode(tmp_path):
    path = pickled(tmp_path, [a_clip()])
    found = []
    for mode in ("first", "strided"):
        (clip,) = read_tapvid(path, mode)
        predicted, seen = clip.tracks + np.arange(7)[:, None, None], ~clip.visibility
        found.append(clip.metrics(predicted, seen))
        expected = tracking_metrics(predicted, seen, clip.tracks, clip.visibility, clip.queries, clip.frame_size, mode)
        assert found[-1] == pytest.approx(expected, nan_ok=True)
    assert found[0]["average_pts_within_thresh"] != found[1]["average_pts_within_thresh"]


@pytest.mark.parametrize("form", ["bytes array", "object array", "list"])
def test_encoded_frames_are_decoded_when_they_are_read(tmp_path, form, monkeypatch):
    clip = a_clip()
    frames = clip["video"]
    clip["video"] = [encoded(frame, "PNG") for frame in frames]
    if form != "list":
        clip["video"] = np.array(clip["video"], dtype=object if form == "object array" else None)
    decode, calls = tracking_data._decode, []
    monkeypatch.setattr(tracking_data, "_decode", lambda *args: calls.append(args) or decode(*args))
    (found,) = read_tapvid(pickled(tmp_path, [clip]), "first")
    assert (found.frame_size, len(calls)) == ((20, 30), 1), "the first frame tells the size"
    np.testing.assert_array_equal(found.read_frames(), frames)


def test_jpeg_frames_equal_pillow_and_grey_ones_become_rgb(tmp_path):
    clip = a_clip()
    images = [encoded(frame) for frame in clip["video"]]
    images[1] = encoded(clip["video"][1, ..., 0])
    clip["video"] = np.array(images)
    (found,) = read_tapvid(pickled(tmp_path, [clip]), "first")
    frames = found.read_frames()
    assert frames.shape == (7, 20, 30, 3)
    np.testing.assert_array_equal(frames[0], np.asarray(Image.open(io.BytesIO(images[0]))))
    assert (frames[1] == frames[1][..., :1]).all()


def test_damaged_and_odd_frames_are_named(tmp_path):
    clip = a_clip()
    images = [encoded(frame) for frame in clip["video"]]
    for number, damaged in ((0, b"no image"), (3, images[3][:200]), (3, b"")):
        path = pickled(tmp_path, {"horse": {**clip, "video": [*images[:number], damaged, *images[number + 1 :]]}})
        with pytest.raises(ValueError, match=f"horse, frame {number}: expected an image, found"):
            read_tapvid(path, "first")[0].read_frames()
    images[2] = encoded(clip["video"][2, :10])
    (found,) = read_tapvid(pickled(tmp_path, [{**clip, "video": images}]), "first")
    with pytest.raises(
        ValueError, match=r"0: expected frames of one size, found \(height, width\) \[\(10, 30\), \(20, 30\)\]"
    ):
        found.read_frames()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected a dict or a list of clips, found list"),
        (np.zeros(3), r"expected a dict or a list of clips, found float64 \(3,\)"),
        ([np.zeros(3)], r"clip 0: expected a dict with points, occluded and video, found float64 \(3,\)"),
        ({"horse": {"points": 1, "video": 2}}, r"clip horse: expected a dict .* found \['points', 'video'\]"),
        (
            {"points": np.zeros((4, 7, 3))},
            r"points: expected floats of shape \(points, frames, 2\), found float64 \(4, 7, 3\)",
        ),
        ({"points": np.zeros((4, 7, 2), int)}, r"points: expected floats .* found int64"),
        ({"points": [[1.0]]}, r"points: expected floats .* found list"),
        ({"occluded": np.zeros((4, 7))}, r"occluded: expected bool of shape \(4, 7\), found float64 \(4, 7\)"),
        ({"occluded": np.zeros((7, 4), bool)}, r"occluded: expected bool of shape \(4, 7\), found bool \(7, 4\)"),
        (
            {"video": np.zeros((7, 20, 30, 3))},
            r"video: expected \(T, H, W, 3\) uint8 or encoded images, found float64",
        ),
        ({"video": 7}, r"video: expected .* found int"),
        ({"video": ["a path"] * 7}, r"video: expected .* found list"),
        ({"video": np.zeros((6, 20, 30, 3), np.uint8)}, "expected a frame for each of 7 positions, found 6"),
        (
            {"points": np.zeros((4, 0, 2))},
            r"points: expected at least one point and one frame, found float64 \(4, 0, 2\)",
        ),
        ({"video": []}, "expected a frame for each of 7 positions, found 0"),
        ({"occluded": np.ones((4, 7), bool)}, "expected a visible point for a query of mode 'first', found none"),
    ],
)
def test_other_arrays_are_refused(tmp_path, value, message):
    if isinstance(value, dict) and value and "horse" not in value:
        value = [{**a_clip(), **value}]
    with pytest.raises(ValueError, match=f"tapvid.pkl.*{message}"):
        read_tapvid(pickled(tmp_path, value), "first")


def test_a_malicious_pickle_is_refused_without_being_run(tmp_path):
    mark = tmp_path / "mark"

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    for value in (Malicious(), [{**a_clip(), "video": Malicious()}]):
        with pytest.raises(ValueError, match=r"tapvid.pkl: expected a pickle of numpy arrays .* found posix\.mkdir"):
            read_tapvid(pickled(tmp_path, value), "first")
        assert not mark.exists()


def test_another_query_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="query_mode is 'all', expected one of first, strided"):
        read_tapvid(pickled(tmp_path, [a_clip()]), "all")


def test_the_worlds_truth(tmp_path):
    write_world(tmp_path / "world", "test", 2, seed=1, size=48, num_frames=6)
    clips = read_world(tmp_path / "world", "first")
    assert [clip.name for clip in clips] == ["000000", "000001"]
    for index, clip in enumerate(clips):
        scene = make_scene("test", 1, index, size=48, num_frames=6)
        points, visibility = tracks(scene)
        seen = visibility.any(axis=0)
        assert 0 < seen.sum() == len(clip.queries)
        np.testing.assert_array_equal(clip.tracks, points[:, seen])
        np.testing.assert_array_equal(clip.visibility, visibility[:, seen])
        frames = clip.read_frames()
        assert frames.shape == (6, 48, 48, 3)
        assert clip.frame_size == (48, 48)
        difference = np.abs(frames.astype(float) - render(scene).frames).mean(axis=(1, 2, 3))
        assert difference.max() < 12, "every frame is the one of its time, but for compression"
    os.replace(tmp_path / "world/videos/000000.mp4", tmp_path / "world/videos/kept.mp4")
    with pytest.raises(FileNotFoundError):
        read_world(tmp_path / "world", "first")


@pytest.mark.parametrize("query_mode", ["first", "strided"])
def test_clips_drawn_for_tracking_are_those_that_are_written(query_mode, tmp_path):
    write_tracking_world(tmp_path / "world", "rotation", 1, seed=3)
    (written,) = read_world(tmp_path / "world", query_mode)
    drawn, exact = draw_tracked_clip("rotation", 3, query_mode), tracking_clip("rotation", 3)
    np.testing.assert_array_equal(drawn.read_frames(), exact.frames)
    assert drawn.frame_size == written.frame_size == (256, 256)
    for name in ("queries", "tracks", "visibility"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(written, name))
    if query_mode == "first":
        np.testing.assert_array_equal(drawn.queries, exact.queries)
    numbers = drawn.metrics(drawn.tracks, drawn.visibility)
    assert numbers["average_jaccard"] == numbers["occlusion_accuracy"] == 1
    with pytest.raises(ValueError, match="unheard-of"):
        draw_tracked_clip("unheard-of", 3, query_mode)


def test_a_video_of_another_length_than_its_truth(tmp_path):
    for name, num_frames in (("short", 5), ("long", 6)):
        write_world(tmp_path / name, "test", 1, size=48, num_frames=num_frames)
    os.replace(tmp_path / "short/videos/000000.mp4", tmp_path / "long/videos/000000.mp4")
    (clip,) = read_world(tmp_path / "long", "first")
    with pytest.raises(ValueError, match=r"000000.mp4: expected 6 frames, as in the truth, found 5"):
        clip.read_frames()


def test_a_table_without_truth(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4"}\n')
    with pytest.raises(ValueError, match=r"metadata.jsonl: expected file_name and truth_path, found \['file_name'\]"):
        read_world(tmp_path, "first")


def images_in(folder, frames, kind="png", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        frame = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
        frame.save(folder / f"{number + first:05d}.{kind}")
    return folder


@pytest.fixture
def badja(tmp_path):
    """Four frames of 24 x 32 pixels, joints marked at 48 x 128 in frames 0 and 2, the third joint never marked."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), dtype=np.uint8)
    entries = [
        {"image_path": "DAVIS/00000.jpg", "joints": [[7, 21], [0, 0], [0, 0]], "visibility": [True, False, False]},
        {"image_path": "DAVIS/00002.jpg", "joints": [[9, 31], [5, 3], [0, 0]], "visibility": [False, True, False]},
    ]
    (tmp_path / "horse.json").write_text(json.dumps(entries))
    return tmp_path / "horse.json", images_in(tmp_path / "frames", frames), frames, entries


def test_badja_joints_are_scaled_to_the_frames(badja):
    joints, folder, frames, _ = badja
    clip = read_badja(joints, folder, "first", joints_size=(48, 128))
    assert (clip.name, clip.frame_size) == ("horse", (24, 32))
    np.testing.assert_array_equal(clip.read_frames(), frames)
    np.testing.assert_array_equal(clip.annotated, [True, False, True, False])
    np.testing.assert_array_equal(clip.queries, [[0, 4.875, 3.25], [2, 0.375, 2.25]])  # x = (column + 0.5) / 4 - 0.5
    np.testing.assert_array_equal(clip.visibility, [[True, False], [False, False], [False, True], [False, False]])
    np.testing.assert_array_equal(clip.tracks[2], [[7.375, 4.25], [0.375, 2.25]])
    assert np.isnan(clip.tracks[[1, 3]]).all()
    assert np.isnan(clip.tracks[0, 1]).all(), "a joint that was not marked"


def test_badja_is_measured_at_its_marked_frames(badja):
    joints, folder, _, entries = badja
    entries[1]["visibility"][0] = True
    joints.write_text(json.dumps(entries))
    clip = read_badja(joints, folder, "first", joints_size=(48, 128))
    numbers = clip.metrics(np.nan_to_num(clip.tracks, nan=1e6), np.ones_like(clip.visibility))
    assert numbers["average_jaccard"] == numbers["occlusion_accuracy"] == 1.0


def test_bad_badja_files(badja):
    joints, folder, _, entries = badja
    (folder / "00002.png").rename(folder / "00009.png")
    with pytest.raises(ValueError, match=r"frames: expected frame 00002, marked in .*horse.json"):
        read_badja(joints, folder, "first")
    for text in ("no json", "[1]", '{"a": 1}', json.dumps([{**entries[0], "joints": [[1, 2], [3]]}])):
        joints.write_text(text)
        with pytest.raises(ValueError, match=r"horse.json: expected entries with image_path, joints and visibility"):
            read_badja(joints, folder, "first")
    joints.write_text(json.dumps([{**entries[0], "visibility": [True]}]))
    with pytest.raises(ValueError, match=r"horse.json: expected row, column and visibility of each joint"):
        read_badja(joints, folder, "first")


def palette(values):
    image = Image.fromarray(values, mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image


def test_davis_masks_are_object_numbers(tmp_path):
    draw = np.random.default_rng(0)
    frames, values = (
        draw.integers(0, 256, (3, 8, 10, 3), dtype=np.uint8),
        draw.integers(0, 3, (3, 8, 10), dtype=np.uint8),
    )
    folder = images_in(tmp_path / "horse", frames)
    clip = read_davis(folder, images_in(tmp_path / "palette", [palette(each) for each in values]))
    assert clip.name == "horse"
    np.testing.assert_array_equal(clip.masks, values)
    np.testing.assert_array_equal(clip.read_frames(), frames)
    grey = read_davis(folder, images_in(tmp_path / "grey", (values > 1).astype(np.uint8) * 255))
    np.testing.assert_array_equal(grey.masks, values > 1)


def test_bad_davis_folders(tmp_path):
    frames = np.zeros((3, 8, 10, 3), np.uint8)
    folder = images_in(tmp_path / "frames", frames)
    for name, masks, message in (
        ("few", frames[:2, ..., 0], "expected a mask for each of 3 frames, found 2"),
        ("small", frames[:, :4, :, 0], r"expected masks of the frames' size \(8, 10\), found \(4, 10\)"),
        (
            "soft",
            frames[..., 0] + 7,
            "00000.png: expected a palette, or grey values 0 and 255, found an image of mode L",
        ),
        ("colour", frames, "00000.png: expected a palette, .* found an image of mode RGB"),
    ):
        with pytest.raises(ValueError, match=message):
            read_davis(folder, images_in(tmp_path / name, masks))
    with pytest.raises(ValueError, match="expected a mask for each of 3 frames, found 3 or other names"):
        read_davis(folder, images_in(tmp_path / "later", frames[..., 0], first=1))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: expected jpg or png images, found none"):
        read_davis(folder, tmp_path / "none")
    (tmp_path / "none/00000.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"00000.png: expected a mask, found"):
        read_davis(folder, tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_davis(folder, tmp_path / "missing")


def test_real_masks(shared_data):
    folder = shared_data / "tracking"
    for frames, masks, objects, shape in (
        ("horsejump-high/video", "horsejump-high/masks", 1, (50, 480, 854)),
        ("car-shadow/JPEGImages", "car-shadow/Annotations", 1, (40, 480, 854)),
        ("schoolgirls/schoolgirls_orig.mp4", "schoolgirls/masks", 7, (80, 240, 432)),
    ):
        clip = read_davis(folder / frames, folder / masks)
        assert clip.masks.shape == shape
        assert clip.masks.max() == objects
        assert clip.read_frames().shape == (*shape, 3)


def test_real_joints_lie_on_the_animal(shared_data):
    folder = shared_data / "tracking/horsejump-high"
    clip = read_badja(folder / "horsejump-high.json", folder / "video", "first")
    masks = read_davis(folder / "video", folder / "masks").masks
    assert clip.annotated.sum() == 10
    assert clip.frame_size == (480, 854)
    frames, points = np.nonzero(clip.visibility)
    x, y = clip.tracks[frames, points].round().astype(int).T
    assert len(x) > 150
    assert masks[frames, y, x].mean() > 0.85
    assert masks[frames, y, np.minimum(x + 150, 853)].mean() < 0.5
