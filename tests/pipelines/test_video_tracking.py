"""`pipeline("video-tracking")`: points in and tracks out, in original pixels. Forms of input: test_video_pipeline.py."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from fake_tracker import STEP, save_fake_tracker
from frame_stamps import CLIP_KINDS, write_clip
from PIL import Image
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import modeling_sen
from modeling_sen import SENTrackingOutput, VideoTrackingPipeline


@pytest.fixture(scope="module")
def tracker_folder(tmp_path_factory) -> str:
    return save_fake_tracker(tmp_path_factory.mktemp("trackers") / "fake")


@pytest.fixture(scope="module")
def track(tracker_folder) -> VideoTrackingPipeline:
    return pipeline("video-tracking", model=tracker_folder, device="cpu")


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 31, 45, 3), dtype=np.uint8)


def same(first: SENTrackingOutput, second: SENTrackingOutput) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in second)


def moved(points: np.ndarray, num_frames: int) -> np.ndarray:
    """(T, N, 2), written out."""
    return np.array(
        [[(x + (t - t0) * STEP[0], y + (t - t0) * STEP[1]) for t0, x, y in points] for t in range(num_frames)]
    )


# --- results ---------------------------------------------------------------------------------------------------------


def test_points_are_tracked_through_all_frames(track, clips):
    points = [[0, 3.5, 20], [7, 0, 31]]
    output = track(clips[0], points)
    assert isinstance(output, SENTrackingOutput)
    assert (output.tracks.shape, output.tracks.dtype) == ((16, 2, 2), np.float32)
    assert (output.visibility.shape, output.visibility.dtype) == ((16, 2), bool)
    assert (output.confidence.shape, output.confidence.dtype) == ((16, 2), np.float32)
    assert output.query_points.tolist() == points
    assert output.frame_size == (32, 32)
    assert np.allclose(output.tracks, moved(points, 16))


def test_two_columns_are_points_of_frame_0(track, frames):
    assert same(track(frames, [[5, 6]]), track(frames, [[0, 5, 6]]))


def test_without_points_a_grid_is_tracked(track, frames):
    assert track(frames).tracks.shape == (9, 100, 2)
    queries = track(frames, grid_size=2, query_frame=4).query_points
    assert queries.tolist() == [[4, 10.75, 7.25], [4, 33.25, 7.25], [4, 10.75, 22.75], [4, 33.25, 22.75]]


def test_points_of_a_mask_are_tracked(track, frames, tmp_path):
    mask = np.zeros((31, 45), dtype=bool)
    mask[3, 5:8] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for given in (mask, tmp_path / "mask.png", str(tmp_path / "mask.png")):
        assert track(frames, mask=given, query_frame=2).query_points.tolist() == [[2, 5, 3], [2, 6, 3], [2, 7, 3]]


def test_points_are_read_from_a_file(track, frames, tmp_path):
    (tmp_path / "points.csv").write_text("t,x,y\n1,2,3\n")
    assert same(track(frames, tmp_path / "points.csv"), track(frames, [[1, 2, 3]]))


@pytest.mark.parametrize("num_frames", [1, 9])
def test_no_points_and_one_frame_are_enough(track, frames, num_frames):
    output = track(frames[:num_frames], np.empty((0, 3)))
    assert output.tracks.shape == (num_frames, 0, 2)
    assert track(frames[0], [[4, 4]]).tracks.tolist() == [[[4, 4]]]


# --- clips -----------------------------------------------------------------------------------------------------------


def test_clips_are_files_arrays_images_or_modalities(track, clips, frames):
    expected = track(frames, [[5, 6]])
    images = [Image.fromarray(frame) for frame in frames]
    for clip in (list(frames), images, torch.tensor(frames), {"video": frames}, {"video": frames, "text": "a dog"}):
        assert same(track(clip, [[5, 6]]), expected)
    with open(clips[0], "rb") as file:
        for clip in (str(clips[0]), clips[0].read_bytes(), file, {"video": clips[0]}):
            assert same(track(clip, [[5, 6]]), track(clips[0], [[5, 6]]))
    with pytest.raises(ValueError, match="clip: expected a video, found audio"):
        track({"audio": clips[0]}, [[5, 6]])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_gives_the_results_of_its_single_clips(track, clips, frames, batch_size):
    batch = [clips[0], frames, {"video": clips[1]}, frames[:3]]
    results = track(batch, [[1, 2], [3, 4]], batch_size=batch_size)
    assert isinstance(results, list)
    assert len(results) == 4
    for clip, result in zip(batch, results, strict=True):
        assert isinstance(result, SENTrackingOutput)
        assert same(result, track(clip, [[1, 2], [3, 4]]))
    assert track([], [[1, 2]]) == []


def test_streams_and_data_sets_are_tracked_one_by_one(track, clips):
    expected = [track(clip, grid_size=2) for clip in clips]
    videos = datasets.Dataset.from_dict({"video": [str(clip) for clip in clips]})
    for stream in ((clip for clip in clips), KeyDataset(videos, "video"), videos):
        results = track(stream, grid_size=2)
        assert not isinstance(results, list)
        assert all(same(*pair) for pair in zip(results, expected, strict=True))


def test_every_frame_of_an_uneven_file_is_tracked(track, tmp_path):
    path = write_clip(
        tmp_path / "clip.mkv", CLIP_KINDS["mkv"], range(7), np.cumsum([0, 0.3, 0.02, 0.02, 0.5, 0.02, 0.02])
    )
    assert track(path, [[6, 10, 10]]).tracks.shape == (7, 1, 2)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_points_that_do_not_fit_the_clip_are_refused(track, frames):
    for given, message in [
        ({"query_points": [[9, 1, 1]]}, r"query_points: .* 0\.\.8, found 9"),
        ({"query_points": [[45, 1]]}, "query_points: .* found x, y = 45, 1"),
        ({"query_points": [[np.nan, 1]]}, "query_points: expected finite"),
        ({"query_points": [1, 2]}, r"query_points: .* found \(2,\)"),
        ({"query_points": [[1, 1]], "grid_size": 3}, "found query_points and grid_size"),
        ({"grid_size": 0}, "grid_size: expected a whole number of at least 1, found 0"),
        ({"query_frame": 9}, r"query_frame: expected a frame of the clip, 0\.\.8, found 9"),
        ({"mask": np.ones((45, 31), dtype=bool)}, r"mask: .* \(31, 45\), found \(45, 31\)"),
        ({"mask": np.zeros((31, 45), dtype=bool)}, "mask: expected at least one pixel"),
    ]:
        with pytest.raises(ValueError, match=message):
            track(frames, **given)


def test_clips_that_cannot_be_read_are_refused(track, tmp_path):
    (tmp_path / "empty.mp4").touch()
    for clip, kind, message in [
        (tmp_path / "gone.mp4", FileNotFoundError, r"gone\.mp4"),
        (tmp_path / "empty.mp4", ValueError, r"empty\.mp4"),
        (np.empty((0, 4, 4, 3), dtype=np.uint8), ValueError, "at least one frame"),
        (np.zeros((2, 4, 4, 3)), ValueError, r"\(T, H, W, 3\) uint8"),
        (None, ValueError, "found None"),
    ]:
        with pytest.raises(kind, match=message):
            track(clip, grid_size=2)


def test_unknown_options_are_refused(track, frames):
    with pytest.raises(TypeError, match="grid_sise"):
        track(frames, grid_sise=3)


def test_a_sen_without_a_tracking_head_is_refused(sen_folder):
    with pytest.raises(ValueError, match=r"model: expected a SEN with a tracking head, .* found SENModel"):
        VideoTrackingPipeline(model=AutoModel.from_pretrained(sen_folder))


# --- the object ------------------------------------------------------------------------------------------------------


def test_points_are_given_per_call_or_as_defaults(tracker_folder, track, frames):
    settled = pipeline("video-tracking", model=tracker_folder, grid_size=2, query_frame=3)
    assert same(settled(frames), track(frames, grid_size=2, query_frame=3))
    assert same(settled(frames, [[1, 2]]), track(frames, [[1, 2]]))
    assert same(settled(frames, query_frame=0), track(frames))


def test_progress_is_reported(track, frames):
    reported = []
    track(frames, [[1, 2]], progress=lambda done, total: reported.append((done, total)))
    assert reported == [(frame + 1, 9) for frame in range(9)]


def test_only_the_model_is_saved(track, frames, tmp_path):
    track.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors"}
    assert "custom_pipelines" not in (tmp_path / "saved" / "config.json").read_text()
    again = pipeline("video-tracking", model=str(tmp_path / "saved"))
    assert same(again(frames, [[1, 2]]), track(frames, [[1, 2]]))


def test_the_result_can_be_saved_and_drawn(track, clips, tmp_path):
    output = track(clips[0], grid_size=3)
    output.save(tmp_path / "tracks.csv")
    output.render(clips[0], tmp_path / "drawn.mp4")
    assert len((tmp_path / "tracks.csv").read_text().splitlines()) == 1 + 16 * 9
    assert output.render(clips[0]).shape == (16, 32, 32, 3)


@pytest.mark.skipif(not Path(modeling_sen.SEN_TINY_TRACKING).exists(), reason="no tracking head in sen-tiny")
def test_the_default_model_is_included(clips):
    output = pipeline("video-tracking")(clips[0], [[3, 10, 12]])
    assert output.tracks.shape == (16, 1, 2)
    assert output.tracks[3, 0].tolist() == [10, 12]
    assert output.visibility[3, 0]
