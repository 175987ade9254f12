"""Inputs of a clip, of a batch, and of the cache, and what becomes of clips that cannot be read."""

import numpy as np
import pytest
import torch

from modeling_sen import SENModel, SENProcessor
from modeling_sen.training.clip_dataset import ClipDataset
from modeling_sen.training.data import LabelledClips
from modeling_sen.training.tasks import model_inputs


@pytest.fixture
def processor(sen_folder):
    return SENProcessor.from_pretrained(sen_folder)


def make_clips(count, broken=()):
    """Clips of frames that are all their row's number; those that are broken say so."""

    def read(row):
        if row in broken:
            raise ValueError(f"clip-{row}.mp4: found no frames")
        return {"video": np.full((4, 24, 24, 3), row, dtype=np.uint8)}

    return LabelledClips(
        "clips.csv", [f"label {row}" for row in range(count)], [f"clip-{row}" for row in range(count)], read
    )


def batch_of(dataset, rows):
    return dataset.collate([dataset[row] for row in rows])


def test_a_batch_is_what_the_processor_makes_of_its_clips(processor):
    clips = make_clips(5)
    batch = batch_of(ClipDataset(clips, processor, first_row=10), [3, 1])
    expected = processor(videos=[clips.read(3), clips.read(1)])
    assert batch.pop("rows").tolist() == [13, 11]
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected if name != "frame_times")


def test_a_clip_that_cannot_be_read_is_an_error_that_names_it(processor):
    with pytest.raises(ValueError, match=r"^clips\.csv, row 2: clip-2\.mp4: found no frames$"):
        ClipDataset(make_clips(5, broken=[2]), processor)[2]


def test_a_clip_that_may_be_left_out_is_noted_and_the_next_takes_its_place(processor, tmp_path):
    dataset = ClipDataset(make_clips(5, broken=[2, 3, 4]), processor, 0, tmp_path / "unreadable.txt")
    assert batch_of(dataset, [1, 3, 2])["rows"].tolist() == [1, 0, 0]
    assert dataset[3][0] == 0
    assert (tmp_path / "unreadable.txt").read_text().splitlines() == [
        f"clips.csv, row {row}: clip-{row}.mp4: found no frames" for row in (3, 4, 2)
    ]
    with pytest.raises(ValueError, match=r"clips\.csv: no clip can be read"):
        ClipDataset(make_clips(2, broken=[0, 1]), processor, 0, tmp_path / "unreadable.txt")[0]


def test_with_a_cache_no_clip_is_read_and_the_output_is_the_same(processor, sen_folder, tmp_path, capsys):
    pytest.importorskip("accelerate")
    model = SENModel.from_pretrained(sen_folder)
    clips = make_clips(5, broken=[3])
    direct = ClipDataset(clips, processor)
    cached = ClipDataset(clips, processor, 0, tmp_path / "unreadable.txt")
    cached.use_cache(model, tmp_path / "cache", torch.float32)
    printed = capsys.readouterr().out
    megabytes = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors")) / 1e6
    assert printed.startswith(f"{tmp_path}/cache: 5 of 5 clips to cache, ")
    assert float(printed.rpartition(",")[2].split()[0]) == pytest.approx(megabytes, rel=0.5, abs=0.1)
    assert [cached[index][0] for index in range(len(cached))] == [0, 1, 2, 4]
    unread = LabelledClips(clips.source, clips.targets, clips.keys, lambda row: pytest.fail("a clip was read"))
    again = ClipDataset(unread, processor, first_row=5)  # as validation clips that follow the others
    again.use_cache(model, tmp_path / "cache", torch.float32)
    with torch.no_grad():
        expected = model(**model_inputs([direct], batch_of(direct, [4, 1]))).fused_embeds
        for dataset in (cached, again):
            batch = batch_of(dataset, [3, 1])
            assert batch.keys() == {"rows"}
            found = model(**model_inputs([cached, again], batch)).fused_embeds
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
