"""SENEncoder returns one vector per clip, and can be used as the function of `datasets.map`."""

import pickle
import threading

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_sen import SENEncoder, read_video
from modeling_sen.world.write import write_world


@pytest.fixture(scope="module")
def encoder(sen_folder) -> SENEncoder:
    return SENEncoder.from_pretrained(sen_folder, device="cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 31, 45, 3), dtype=np.uint8)


def test_embeddings_equal_the_models_video_features(encoder, clips):
    with torch.no_grad():
        expected = encoder.model.get_video_features(**encoder.processor(videos=clips)).pooler_output
    embeddings = encoder.encode(clips)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (3, encoder.model.config.projection_dim)
    assert np.allclose(embeddings, expected.numpy(), atol=1e-6)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_embeddings_do_not_depend_on_the_batch_size(encoder, clips, frames):
    mixed = [clips[0], frames, {"audio": clips[1]}, {"video": clips[2], "text": "a man speaks"}, {"text": "a dog"}]
    expected = encoder.encode(mixed, batch_size=5)
    for batch_size in (1, 2, 3):
        assert np.allclose(encoder.encode(mixed, batch_size=batch_size), expected, atol=1e-6)


def test_single_clips_and_lists_of_clips_are_distinguished_as_by_the_processor(encoder, clips, frames):
    width = encoder.model.config.projection_dim
    assert encoder.encode(clips[0]).shape == (1, width)
    assert encoder.encode([Image.fromarray(frame) for frame in frames]).shape == (1, width)
    assert encoder.encode({"video": frames}).shape == (1, width)
    assert encoder.encode([frames, frames]).shape == (2, width)
    assert encoder.encode([]).shape == (0, width)


def test_a_row_of_a_data_set_gets_one_vector(encoder, clips, frames):
    paths = datasets.Dataset.from_dict({"video": [str(clips[0]), str(clips[1])]})
    found = paths.map(encoder)["embedding"]
    assert np.allclose(found, paths.map(encoder, batched=True)["embedding"], atol=1e-6)
    arrays = datasets.Dataset.from_dict({"video": [frames.tolist()]})  # nested lists, in rows and in batches
    assert np.allclose(arrays.map(encoder)["embedding"], encoder.encode(frames), atol=1e-6)
    row = encoder({"video": str(clips[0]), "text": "a dog", "label": 3})
    assert row["label"] == 3
    assert row["embedding"].shape == (encoder.model.config.projection_dim,)
    assert encoder.encode(np.stack([frames, frames])).shape == (2, encoder.model.config.projection_dim)


def test_the_next_batch_is_read_in_the_background_while_the_model_runs(encoder, clips, monkeypatch):
    """The first model call waits until the second batch is being read; with one thread it would wait forever."""
    reading, threads = threading.Event(), []
    read, embed = encoder._read, encoder._embed

    def reads(*clips):
        threads.append(threading.current_thread())
        if len(threads) == 2:
            reading.set()
        return read(*clips)

    def embeds(inputs):
        assert reading.wait(timeout=20)
        return embed(inputs)

    monkeypatch.setattr(encoder, "_read", reads)
    monkeypatch.setattr(encoder, "_embed", embeds)
    assert len(encoder.encode(clips, batch_size=1)) == 3
    assert threading.main_thread() not in threads


def test_a_clip_that_cannot_be_read_raises(encoder, clips, tmp_path):
    for batch_size in (1, 2, 8):
        with pytest.raises(FileNotFoundError, match=r"^videos\[2\]: .*gone\.mp4: no such file"):
            encoder.encode([clips[0], clips[1], tmp_path / "gone.mp4"], batch_size=batch_size)
    with pytest.raises(ValueError, match="batch_size is 0"):
        encoder.encode(clips, batch_size=0)


def test_progress_is_printed_to_stderr_on_request(encoder, clips, capsys):
    encoder.encode(clips, show_progress=True)
    shown = capsys.readouterr()
    assert "3/3" in shown.err
    assert shown.out == ""
    encoder.encode(clips)
    assert capsys.readouterr().err == ""


def test_texts_are_embedded_in_the_space_of_clips(encoder, clips):
    with torch.no_grad():
        inputs = encoder.processor(videos=clips, text=["a dog", "a man"])
        output = encoder.model(**inputs)
    texts = encoder.encode_text(["a dog", "a man"])
    assert texts.dtype == np.float32
    assert np.allclose(texts, output.text_embeds.numpy(), atol=1e-6)
    cosine = encoder.similarity(encoder.encode(clips), texts)
    assert np.allclose(cosine * encoder.model.logit_scale.exp().item(), output.logits_per_video.numpy(), atol=1e-4)
    assert encoder.encode_text("a dog").shape == (1, texts.shape[1])
    many = encoder.encode_text(["a dog"] * 200)
    assert np.allclose(many, texts[0], atol=1e-6)


def test_similarity_is_the_cosine_also_of_unnormalised_vectors(encoder):
    first, second = np.array([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    assert np.allclose(encoder.similarity(first, second), [[0.5**0.5], [0.5**0.5]])


def test_device_and_dtype_are_passed_on(sen_folder, clips, encoder):
    half = SENEncoder.from_pretrained(sen_folder, device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    embeddings = half.encode(clips)
    assert embeddings.dtype == np.float32
    assert (embeddings * encoder.encode(clips)).sum(axis=1) == pytest.approx(1, abs=0.02)


def test_an_encoder_can_be_pickled(encoder, clips):
    sent = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(sent.encode(clips), encoder.encode(clips))


# --- columns ---------------------------------------------------------------------------------------------------------


def test_a_batch_of_columns_gets_an_embedding(encoder, clips, frames):
    batch = {"video": [clips[0], None, frames], "text": ["a dog", "a man", None], "id": [3, 4, 5]}
    found = encoder(batch)
    assert found.keys() == {"video", "text", "id", "embedding"}
    assert found["id"] == [3, 4, 5]
    expected = [{"video": clips[0], "text": "a dog"}, {"text": "a man"}, frames]
    assert np.allclose(found["embedding"], encoder.encode(expected), atol=1e-6)


def test_columns_of_numpy_arrays_are_read(encoder, clips, frames):
    found = encoder({"video": np.array([str(clip) for clip in clips], dtype=object)})
    assert np.allclose(found["embedding"], encoder.encode(clips), atol=1e-6)
    found = encoder({"video": np.stack([frames, frames[::-1]])})
    assert np.allclose(found["embedding"], encoder.encode([frames, frames[::-1]]), atol=1e-6)


def test_a_batch_without_a_known_column_is_refused(encoder):
    with pytest.raises(ValueError, match=r"expected some of the columns video, .*found clip"):
        encoder({"clip": ["a.mp4"]})


def test_an_encoder_maps_a_video_folder(encoder, tmp_path):
    write_world(tmp_path / "world", "test", 3, size=32)
    folder = datasets.load_dataset(
        "videofolder", data_dir=str(tmp_path / "world"), split="train", cache_dir=str(tmp_path)
    )
    folder = folder.cast_column("video", datasets.Video(decode=False))
    mapped = folder.map(encoder, batched=True, batch_size=2)
    assert set(folder.column_names) | {"embedding"} == set(mapped.column_names)
    paths = sorted((tmp_path / "world" / "videos").glob("*.mp4"))
    assert np.allclose(np.array(mapped["embedding"]), encoder.encode(paths), atol=1e-6)
    assert mapped["caption"] == folder["caption"]


def test_an_encoder_maps_a_dataset_of_arrays(encoder, clips, tmp_path):
    seen = [read_video(clip, 4).frames for clip in clips]
    features = datasets.Features({"video": datasets.Array4D((4, 32, 32, 3), "uint8")})
    arrays = datasets.Dataset.from_dict({"video": seen}, features=features)
    mapped = arrays.map(encoder, batched=True, cache_file_name=str(tmp_path / "mapped.arrow"))
    assert np.allclose(np.array(mapped["embedding"]), encoder.encode(seen), atol=1e-6)
