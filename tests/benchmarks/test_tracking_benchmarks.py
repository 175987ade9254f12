"""The benchmarks of tracking: trackers by name, tables of the world's presets and of real clips, runs that go on."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import real_clips
import tracking_quality
import tracking_real_clips
from PIL import Image
from real_clips import CLIPS, moved, resized
from trackers import make_tracker, streamed, sure
from tracking_real_clips import measure_real_clip

from modeling_sen import SEN_TINY
from modeling_sen.evaluation import tracking_sets
from modeling_sen.evaluation.tracking_data import draw_tracked_clip
from modeling_sen.evaluation.tracking_metrics import mean_over_clips

SQUARE, SIZE = 40, (96, 128)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A noisy square that moves by two pixels a frame over grey, as `car-shadow` is laid out."""
    root = tmp_path_factory.mktemp("data")
    texture = np.random.default_rng(0).integers(0, 256, (SQUARE // 4, SQUARE // 4, 3), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(texture).resize((SQUARE, SQUARE), Image.Resampling.BICUBIC))
    for folder in ("JPEGImages", "Annotations"):
        (root / "car-shadow" / folder).mkdir(parents=True)
    for number in range(6):
        frame, mask = np.full((*SIZE, 3), 128, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)
        x = 20 + 2 * number
        frame[30 : 30 + SQUARE, x : x + SQUARE], mask[30 : 30 + SQUARE, x : x + SQUARE] = texture, 255
        Image.fromarray(frame).save(root / "car-shadow" / "JPEGImages" / f"{number:05d}.png")
        Image.fromarray(mask).save(root / "car-shadow" / "Annotations" / f"{number:05d}.png")
    return root


def follow_the_square(frames, queries):
    since = np.arange(len(frames))[:, None] - queries[:, 0]
    tracks = queries[:, 1:] + since[..., None] * (2, 0)
    return sure(tracks, np.ones(since.shape, dtype=bool))


def test_a_point_that_stays_and_a_name_without_tracker():
    track, label = make_tracker("static")
    assert label == "static"
    found = track(np.zeros((3, 8, 8, 3), dtype=np.uint8), np.array([[1, 2, 3], [0, 4, 5]]))
    np.testing.assert_array_equal(found.tracks, [[[2, 3], [4, 5]]] * 3)
    np.testing.assert_array_equal(found.confidence, np.ones((3, 2)))
    assert found.visibility.all()
    with pytest.raises(OSError):
        make_tracker(f"{SEN_TINY}/nothing")


@pytest.mark.parametrize("name", ["lk", "dis"])
def test_chained_flow_follows_the_square(data, name):
    pytest.importorskip("cv2")
    clip = CLIPS["car-shadow"](data / "car-shadow")
    inner = np.array([[0, 40, 50], [3, 46, 50], [5, 50, 50]], dtype=np.float32)
    track, _ = make_tracker(name)
    found = track(clip.frames, inner)
    np.testing.assert_allclose(found.tracks, follow_the_square(clip.frames, inner).tracks, atol=0.5)
    assert found.visibility.all()


def test_real_clips_are_measured_both_ways(data):
    clip = CLIPS["car-shadow"](data / "car-shadow")
    assert clip.frames.shape == (6, *SIZE, 3)
    assert clip.queries.shape == (64, 3)
    found = measure_real_clip(follow_the_square, clip, clock=iter([1.0, 4.0]).__next__)
    assert found == {
        "points": 64,
        "inside": 1.0,
        "predicted_visible": 1.0,
        "cycle_median": 0.0,
        "cycle_within_4": 1.0,
        "cycle_seen": 1.0,
        "seconds": 3.0,
    }

    def half(frames, queries):
        """Hides the first half of points at the end; the way back misses by ten pixels."""
        found = follow_the_square(frames, queries)
        if queries[0, 0] == 0:
            found.visibility[-1, :32] = False
            return found
        assert len(queries) == 32
        return sure(found.tracks + np.array([10, 0]), found.visibility)

    found = measure_real_clip(half, clip)
    assert found["cycle_seen"] == 0.5
    assert found["cycle_median"] == pytest.approx(10 * 256 / SIZE[1])
    assert found["cycle_within_4"] == 0


def test_the_table_of_real_clips_is_resumed(data, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(tracking_real_clips, "make_tracker", lambda name: (follow_the_square, name))
    read = dict(CLIPS)
    monkeypatch.setitem(CLIPS, "car-shadow", lambda folder: made.append(folder) or read["car-shadow"](folder))
    for _ in range(2):
        tracking_real_clips.main([str(tmp_path), "--trackers", "a", "b", "--data", str(data)])
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| car-shadow")]
        assert [row.split(" | ")[1:5] for row in rows] == [[name, "64", "100.0", "100.0"] for name in "ab"]
        assert len({row.count("|") for row in rows}) == 1
    assert made == [data / "car-shadow"], "read once, and not again"
    with pytest.raises(SystemExit, match="nowhere: expected folders of clips"):
        tracking_real_clips.main([str(tmp_path), "--data", "nowhere"])


def test_large_frames_are_made_smaller_and_positions_with_them():
    frames = np.zeros((2, 480, 854, 3), dtype=np.uint8)
    small, scale = resized(frames)
    assert small.shape == (2, 288, 512, 3)
    np.testing.assert_allclose(moved(np.array([[-0.5, -0.5], [853.5, 479.5]]), scale), [[-0.5, -0.5], [511.5, 287.5]])
    same, scale = resized(frames[:, :10, :20])
    assert same.shape == (2, 10, 20, 3)
    np.testing.assert_array_equal(scale, [1, 1])


def test_a_room_before_two_cameras(tmp_path):
    """A wall two metres away, and a Kinect that moves to the right: points go left by focal / distance, halved in size."""
    folder = tmp_path / "room"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((480, 640, 3), dtype=np.uint8)).save(folder / f"frame-{number:06d}.color.jpg")
        Image.fromarray(np.full((480, 640), 2000, dtype=np.uint16)).save(folder / f"frame-{number:06d}.depth.png")
        pose = np.eye(4)
        pose[0, 3] = 0.1 * number
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", pose)
    clip = real_clips.seven_scenes(folder)
    assert clip.frames.shape == (3, 384, 512, 3)
    step = np.array([-0.1 * real_clips.COLOUR_FOCAL / 2 * 512 / 640, 0])
    tracks = clip.queries[:, 1:] + np.arange(3)[:, None, None] * step
    seen = np.ones((3, 64), dtype=bool)
    assert clip.measure(tracks, seen) == {"reprojected_within_4": 1.0, "predicted_visible": 1.0}
    near = clip.measure(tracks + np.array([7.5, 0]), seen)["reprojected_within_4"]  # 3.75 and 4.25 pixels of 256
    assert (near, clip.measure(tracks + np.array([8.5, 0]), seen)["reprojected_within_4"]) == (1.0, 0.0)
    seen[1:, :] = False
    assert clip.measure(tracks, seen)["predicted_visible"] == 0


def test_the_table_of_presets_is_that_of_the_metrics(tmp_path, monkeypatch, capsys):
    arguments = [str(tmp_path), "--trackers", "static", "--presets", "base", "fast", "--num", "2", "--seed", "70"]
    arguments += ["--query-modes", "strided"]
    draw = cache(draw_tracked_clip)
    monkeypatch.setattr(tracking_sets, "draw_tracked_clip", draw)
    tracking_quality.main(arguments)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown]
    assert [row[0] for row in rows] == ["preset", "base", "fast", "mean of 2"]
    track, _ = make_tracker("static")
    jaccard = []
    for preset, row in zip(("base", "fast"), rows[1:3], strict=True):
        found = []
        for seed in (70, 71):
            clip = draw(preset, seed, "strided")
            output = track(clip.read_frames(), clip.queries)
            found.append(clip.metrics(output.tracks, output.visibility))
        mean = mean_over_clips(found)
        jaccard.append(mean["average_jaccard"])
        assert row[2].split(" ± ")[0] == f"{100 * mean['average_jaccard']:.1f}"
        assert row[5].split(" ± ")[0] == f"{mean['temporal_coherence']:.2f}"
        error = np.std([each["occlusion_accuracy"] for each in found], ddof=1) / np.sqrt(2)
        assert row[4] == f"{100 * mean['occlusion_accuracy']:.1f} ± {100 * error:.1f}"
    assert rows[3][2] == f"{100 * np.mean(jaccard):.1f}"

    monkeypatch.setattr(tracking_quality, "make_tracker", lambda name: (pytest.fail, name))
    tracking_quality.main(arguments)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")] == shown


def test_all_shared_clips_are_read(shared_data):
    track, _ = make_tracker("static")
    for name, read in CLIPS.items():
        clip = read(shared_data / "tracking" / name)
        height, width = clip.frame_size
        assert max(height, width) <= 512
        assert len(clip.frames) <= 50
        assert 64 <= len(clip.queries) <= 64 + 37
        assert (clip.queries[:, 1:] > -0.5).all()
        assert (clip.queries[:, 1:] < (width - 0.5, height - 0.5)).all()
        found = measure_real_clip(track, clip)
        assert found["cycle_within_4"] == 1
        assert found.get("inside", 0) < 0.6, "objects move"
        expected = {"horsejump-high": {"inside", "joints"}, "7scenes_000-023": {"reprojected_within_4"}}
        assert expected.get(name, set()) <= found.keys()


class NextPoint:
    """A stream in which every point moves by one pixel a frame."""

    def __init__(self):
        self.points = np.zeros((0, 2), dtype=np.float32)

    def step(self, frame):
        self.points = self.points + 1
        count = len(self.points)
        return SimpleNamespace(points=self.points, visibility=np.ones(count, bool), confidence=np.full(count, 0.5))

    def add(self, points):
        self.points = np.concatenate([self.points, points])


def test_a_stream_gives_tracks_from_the_query_frame_on():
    queries = np.array([[2, 10.0, 20.0], [0, 5.0, 6.0], [3, 1.0, 1.0]], dtype=np.float32)

    class Model:
        stream = NextPoint

    found = streamed(Model())(np.zeros((4, 8, 8, 3), dtype=np.uint8), queries)
    assert found.visibility.T.tolist() == [[False, False, True, True], [True] * 4, [False, False, False, True]]
    np.testing.assert_array_equal(found.tracks[:, 1], [[5, 6], [6, 7], [7, 8], [8, 9]])
    np.testing.assert_array_equal(found.tracks[2:, 0], [[10, 20], [11, 21]])
    np.testing.assert_array_equal(found.confidence[:, 1], [1, 0.5, 0.5, 0.5])
