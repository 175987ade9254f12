"""What a pipeline gets from `VideoPipeline`, shown on one of a few lines: input forms, batches, streams, saving."""

import http.server
import threading
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
from transformers.pipelines.pt_utils import KeyDataset

from modeling_sen import SENEncoder, SENModel, SENProcessor
from modeling_sen.pipelines.video_pipeline import VideoPipeline


class EmbeddingPipeline(VideoPipeline):
    """One fused embedding for each video, of length 1 or `scale`."""

    def _sanitize_parameters(self, scale=None):
        return {}, {}, {} if scale is None else {"scale": scale}

    def _forward(self, inputs):
        return {"embeds": self.model(**inputs).fused_embeds}

    def postprocess(self, outputs, scale=1.0):
        return scale * outputs["embeds"][0].numpy()


@pytest.fixture(scope="module")
def embed(sen_folder) -> EmbeddingPipeline:
    model, processor = AutoModel.from_pretrained(sen_folder), AutoProcessor.from_pretrained(sen_folder)
    return EmbeddingPipeline(model=model, processor=processor, device="cpu")


@pytest.fixture(scope="module")
def expected(sen_folder, clips) -> np.ndarray:
    """(clips, width)"""
    return SENEncoder.from_pretrained(sen_folder, device="cpu").encode(clips)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 31, 45, 3), dtype=np.uint8)


def same(found, expected) -> bool:
    return np.allclose(np.stack(found), expected, atol=1e-6)


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(clips):
    handler = partial(Silent, directory=str(clips[0].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_files_are_paths_urls_bytes_or_file_objects(embed, clips, expected, server):
    path = clips[0]
    with open(path, "rb") as file:
        for clip in (path, str(path), f"{server}/{path.name}", path.read_bytes(), file, {"video": path}):
            assert same(embed(clip), expected[0])


def test_an_array_and_a_list_of_images_are_one_video(embed, frames):
    images = [Image.fromarray(frame) for frame in frames]
    for clip in (list(frames), images, tuple(images), {"video": frames}):
        assert same(embed(clip), embed(frames))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_other_lists_are_batches_of_any_clips(embed, clips, frames, batch_size):
    batch = [clips[0], frames, {"audio": clips[1]}, {"video": clips[2], "text": "a man speaks"}]
    for given in (batch, tuple(batch)):
        results = embed(given, batch_size=batch_size)
        assert isinstance(results, list)
        assert same(results, [embed(clip) for clip in batch])


def test_arrays_of_clips_and_other_names_of_the_argument(embed, frames):
    expected = [embed(frames), embed(frames[::-1].copy())]
    assert same(embed(np.stack([frames, frames[::-1]])), expected)
    assert same(embed(videos=[frames, frames[::-1].copy()]), expected)
    assert same([embed(inputs=frames)], expected[:1])
    with pytest.raises(ValueError, match="found several of video, videos and inputs"):
        embed(frames, videos=frames)


def test_a_bad_clip_of_a_batch_is_named_by_its_position(embed, clips, frames):
    batch = [clips[0], frames, "none.mp4"]
    for batch_size in (1, 3):
        with pytest.raises(FileNotFoundError, match=r"^videos\[2\]: none.mp4: no such file"):
            embed(batch, batch_size=batch_size)
        with pytest.raises(FileNotFoundError, match=r"^videos\[2\]: none.mp4: no such file"):
            list(embed((clip for clip in batch), batch_size=batch_size))
    with pytest.raises(FileNotFoundError, match=r"^none.mp4"):
        embed(["none.mp4"])


def test_an_empty_list_returns_an_empty_list_and_none_is_refused(embed):
    assert embed([]) == []
    assert embed(()) == []
    empty = datasets.Dataset.from_dict({"video": []})
    assert list(embed(KeyDataset(empty, "video"))) == list(embed(empty)) == list(embed(iter([]))) == []
    with pytest.raises(ValueError, match="expected a clip or several, found None"):
        embed(None)
    with pytest.raises(ValueError, match="expected a clip or several, found None"):
        embed()


def test_streams_are_read_lazily(embed, clips, expected):
    taken = []
    results = embed(taken.append(clip) or clip for clip in clips)
    assert same(next(iter(results)), expected[0])
    assert len(taken) < len(clips)


def test_data_sets_are_streams(embed, clips, expected):
    videos = datasets.Dataset.from_dict({"video": [str(clip) for clip in clips], "caption": ["x"] * 3})
    stored = videos.cast_column("video", datasets.Video(decode=False))
    streams = [KeyDataset(videos, "video"), KeyDataset(stored, "video"), (row["video"] for row in stored), iter(clips)]
    streams += [stored.select_columns("video"), videos.to_iterable_dataset().select_columns("video")]
    for stream in streams:
        results = embed(stream, batch_size=2)
        assert not isinstance(results, list)
        assert same(list(results), expected)
    with pytest.raises(ValueError, match=r"unknown entries \['caption'\]"):
        list(embed(stored))


def test_clips_are_read_by_worker_processes(embed, clips, expected):
    assert same(embed(list(clips), batch_size=2, num_workers=1), expected)


def test_bad_clips_are_refused(embed, tmp_path, frames):
    (tmp_path / "empty.mp4").touch()
    for clip, kind, message in [
        (tmp_path / "none.mp4", FileNotFoundError, "none.mp4"),
        (tmp_path / "empty.mp4", ValueError, "empty.mp4"),
        (frames.transpose(0, 3, 1, 2), ValueError, r"\(T, H, W, 3\) uint8"),
        (frames / 255, ValueError, r"\(T, H, W, 3\) uint8"),
        (7, TypeError, "found int"),
    ]:
        with pytest.raises(kind, match=message):
            embed(clip)


def test_options_are_given_per_call_or_as_defaults(embed, clips, expected):
    assert same(embed(clips[0], scale=2.0), 2 * expected[0])
    settled = EmbeddingPipeline(model=embed.model, processor=embed.processor, device="cpu", scale=3.0)
    assert same(settled(clips[0]), 3 * expected[0])
    assert same(settled(clips[0], scale=2.0), 2 * expected[0])
    with pytest.raises(TypeError, match="skale"):
        embed(clips[0], skale=2.0)


def test_the_model_runs_without_gradients_in_its_own_dtype(sen_folder, clips, expected):
    model = SENModel.from_pretrained(sen_folder, dtype="bfloat16")
    half = EmbeddingPipeline(model=model, processor=SENProcessor.from_pretrained(sen_folder), device="cpu")
    half.postprocess = lambda outputs: outputs["embeds"]
    found = half(clips[0])
    assert not found.requires_grad
    assert found.dtype == torch.bfloat16
    assert (found[0].float().numpy() * expected[0]).sum() == pytest.approx(1, abs=0.02)


def test_only_model_and_processor_are_saved(embed, clips, expected, tmp_path):
    embed.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"config.json", "processor_config.json", "model.safetensors"} <= names
    assert not any(name.endswith(".py") for name in names)
    written = (tmp_path / "saved" / "config.json").read_text()
    assert "custom_pipelines" not in written
    assert str(tmp_path) not in written
    again = SENEncoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert same(again.encode(clips), expected)
