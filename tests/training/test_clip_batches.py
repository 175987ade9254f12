"""Which rows make a batch, and what becomes of clips that cannot be read."""

import numpy as np
import pytest
import torch

from modeling_sen import SENModel, SENProcessor
from modeling_sen.training.clip_batches import ClipBatches, ClipInputs
from modeling_sen.training.data import LabelledClips


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


def test_an_epoch_shows_each_clip_once_in_an_order_of_its_own(processor):
    batches = ClipBatches(ClipInputs(make_clips(12), processor), batch_size=4, seed=1)
    assert batches.steps_per_epoch == 3
    epochs = [np.concatenate([batches.rows(3 * epoch + number) for number in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert not np.array_equal(*epochs)
    again = ClipBatches(ClipInputs(make_clips(12), processor), batch_size=4, seed=1)
    np.testing.assert_array_equal(again.rows(4), batches.rows(4))
    other = ClipBatches(ClipInputs(make_clips(12), processor), batch_size=4, seed=2)
    assert any(not np.array_equal(other.rows(number), batches.rows(number)) for number in range(3))


def test_parts_and_processes_together_are_the_batch_of_one_process(processor):
    inputs = ClipInputs(make_clips(24), processor)
    whole = ClipBatches(inputs, batch_size=8, seed=0)
    shares = [
        ClipBatches(inputs, 8, 0, gradient_accumulation=2, process=process, num_processes=2) for process in (0, 1)
    ]
    for step in range(6):
        parts = [share.rows(2 * step + part) for part in range(2) for share in shares]
        np.testing.assert_array_equal(np.concatenate(parts), whole.rows(step))


def test_batches_that_cannot_be_made_are_named(processor):
    inputs = ClipInputs(make_clips(6), processor)
    with pytest.raises(ValueError, match=r"batch_size is 8, but clips\.csv has 6 clips"):
        ClipBatches(inputs, 8, 0)
    with pytest.raises(
        ValueError, match="batch_size is 6, expected a multiple of gradient_accumulation 2 times 2 proc"
    ):
        ClipBatches(inputs, 6, 0, gradient_accumulation=2, num_processes=2)


def test_a_batch_is_what_the_processor_makes_of_its_clips(processor):
    clips = make_clips(5)
    batch = ClipInputs(clips, processor).batch([3, 1])
    expected = processor(videos=[clips.read(3), clips.read(1)])
    assert batch.pop("rows").tolist() == [3, 1]
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in expected if name != "frame_times")


def test_a_clip_that_cannot_be_read_is_an_error_that_names_it(processor):
    with pytest.raises(ValueError, match=r"^clips\.csv, row 2: clip-2\.mp4: found no frames$"):
        ClipInputs(make_clips(5, broken=[2]), processor).batch([1, 2])


def test_a_clip_that_may_be_left_out_is_noted_and_the_next_takes_its_place(processor, tmp_path):
    inputs = ClipInputs(make_clips(5, broken=[2, 3, 4]), processor, tmp_path / "unreadable.txt")
    batch = inputs.batch([1, 3, 2])
    assert batch["rows"].tolist() == [1, 0, 0]
    inputs.batch([3])
    assert (tmp_path / "unreadable.txt").read_text().splitlines() == [
        f"clips.csv, row {row}: clip-{row}.mp4: found no frames" for row in (3, 4, 2)
    ]
    with pytest.raises(ValueError, match=r"clips\.csv: no clip can be read"):
        ClipInputs(make_clips(2, broken=[0, 1]), processor, tmp_path / "unreadable.txt").batch([0])


def test_with_a_cache_no_clip_is_read_and_the_output_is_the_same(processor, sen_folder, tmp_path, capsys):
    pytest.importorskip("accelerate")
    model = SENModel.from_pretrained(sen_folder)
    clips = make_clips(5, broken=[3])
    direct = ClipInputs(clips, processor)
    cached = ClipInputs(clips, processor, tmp_path / "unreadable.txt")
    cached.use_cache(model, tmp_path / "cache", torch.float32)
    said = capsys.readouterr().out
    megabytes = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors")) / 1e6
    assert said.startswith(f"{tmp_path}/cache: 5 of 5 clips to cache, ")
    assert float(said.rpartition(",")[2].split()[0]) == pytest.approx(megabytes, rel=0.5, abs=0.1)
    assert cached.rows.tolist() == [0, 1, 2, 4]
    with torch.no_grad():
        expected = direct.look(model, direct.batch([4, 1])).fused_embeds
        again = ClipInputs(
            LabelledClips(clips.source, clips.targets, clips.keys, lambda row: pytest.fail("a clip was read")),
            processor,
        )
        again.use_cache(model, tmp_path / "cache", torch.float32)
        torch.testing.assert_close(again.look(model, again.batch([4, 1])).fused_embeds, expected, atol=1e-5, rtol=0)
