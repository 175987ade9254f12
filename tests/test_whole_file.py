"""Files are written completely or not at all."""

import pytest

from modeling_sen.whole_file import whole_file


def test_the_file_appears_after_it_is_complete(tmp_path):
    path = tmp_path / "numbers.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("1")
        assert not path.exists()
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
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
