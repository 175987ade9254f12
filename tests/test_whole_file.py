"""Files are written whole or not at all."""

import pytest

from modeling_sen.whole_file import whole_file


def test_the_file_appears_when_it_is_written(tmp_path):
    path = tmp_path / "numbers.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("1")
        assert not path.exists()
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old")

    def interrupted():
        with whole_file(str(path)) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
