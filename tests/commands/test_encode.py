"""`sen encode`: files of embeddings, written whole or not at all."""

import datasets
import numpy as np
import pytest

from modeling_sen import SENEncoder
from modeling_sen.commands.encode import encode


@pytest.fixture(scope="module")
def encoder(sen_folder) -> SENEncoder:
    return SENEncoder.from_pretrained(sen_folder, device="cpu")


def test_embeddings_are_written_beside_their_paths(sen_folder, encoder, clips, tmp_path, capsys):
    names = [str(clip) for clip in clips]
    encode(names, tmp_path / "out.npz", str(sen_folder), batch_size=2)
    found = np.load(tmp_path / "out.npz")
    assert found["path"].tolist() == names
    assert found["embedding"].dtype == np.float32
    assert np.allclose(found["embedding"], encoder.encode(clips), atol=1e-6)

    encode(names, tmp_path / "out.parquet", str(sen_folder), batch_size=2)
    table = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path))
    assert table["path"][:] == names
    assert np.allclose(np.array(table["embedding"]), encoder.encode(clips), atol=1e-6)
    width = encoder.model.config.projection_dim
    assert f"out.parquet: 3 embeddings of {width} numbers" in capsys.readouterr().out


def test_a_bad_output_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.parquet or \.npz"):
        encode(["gone.mp4"], tmp_path / "out.csv", "nobody/nothing")
    with pytest.raises(FileNotFoundError, match="no folder"):
        encode(["gone.mp4"], tmp_path / "nowhere" / "out.npz", "nobody/nothing")


def test_a_failed_run_leaves_the_old_file(sen_folder, tmp_path, clips, monkeypatch):
    (tmp_path / "out.npz").write_text("old")

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space left"):
        encode([str(clips[0])], tmp_path / "out.npz", str(sen_folder))
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]
    assert (tmp_path / "out.npz").read_text() == "old"
