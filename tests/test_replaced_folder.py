"""Replacing a checkpoint folder: whole or not at all, whatever it is and whenever the process dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_sen import whole_file
from modeling_sen.whole_file import replaced_folder


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(params=["exchange", "file by file"])
def way(request, monkeypatch):
    """Both ways of replacing: in one system call, and where there is none."""
    if request.param == "file by file":
        monkeypatch.setattr(whole_file.ctypes, "CDLL", lambda name: None)
    elif not sys.platform.startswith("linux"):
        pytest.skip("the exchange is Linux's")
    return request.param


def test_files_are_replaced_and_others_kept(way, tmp_path):
    target = tmp_path / "sen"
    write(target, config_json="old", model_safetensors="old", README_md="kept", other__deep_txt="kept")
    write(target, neuron__model_safetensors="old", neuron__vocab_txt="old")
    with replaced_folder(target) as folder:
        assert list(folder.iterdir()) == []
        write(folder, config_json="new", model_safetensors="new", neuron__model_safetensors="new")
        assert content(target)["config.json"] == "old"  # nothing happens before all is written
    assert content(target) == {
        "README.md": "kept",
        "config.json": "new",
        "model.safetensors": "new",
        "neuron/model.safetensors": "new",  # a folder is replaced whole
        "other/deep.txt": "kept",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sen"]


def test_old_weights_do_not_outlive_new_ones(way, tmp_path):
    """A loader takes model.safetensors before shards: an old one beside new shards would be loaded."""
    target = tmp_path / "sen"
    target.mkdir()
    (target / "model.safetensors").write_text("old")
    with replaced_folder(target) as folder:
        (folder / "model-00001-of-00001.safetensors").write_text("new")
        (folder / "model.safetensors.index.json").write_text("new")
    assert sorted(content(target)) == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    with replaced_folder(target) as folder:
        (folder / "model.safetensors").write_text("newer")
    assert content(target) == {"model.safetensors": "newer"}
    with replaced_folder(target) as folder:
        (folder / "config.json").write_text("c")  # no weights written: those there stay
    assert content(target) == {"config.json": "c", "model.safetensors": "newer"}


def test_a_failed_write_leaves_everything_as_it_was(way, tmp_path):
    target = tmp_path / "sen"
    write(target, config_json="old")

    def fail(folder: Path):
        with replaced_folder(folder) as staging:
            write(staging, config_json="new")
            raise ZeroDivisionError

    for folder in (target, tmp_path / "fresh"):
        with pytest.raises(ZeroDivisionError):
            fail(folder)
    assert content(tmp_path) == {"sen/config.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["sen"]


def test_a_folder_that_was_not_there_is_made(way, tmp_path):
    with replaced_folder(tmp_path / "a" / "b" / "sen") as folder:
        write(folder, config_json="new")
    assert content(tmp_path) == {"a/b/sen/config.json": "new"}


def test_a_file_in_its_place_raises(tmp_path):
    (tmp_path / "sen").write_text("a file")
    with (
        pytest.raises(NotADirectoryError, match="sen: found a file, expected a folder"),
        replaced_folder(tmp_path / "sen"),
    ):
        pass


def test_a_link_to_the_folder_stays_a_link(way, tmp_path):
    write(tmp_path / "disk" / "sen", config_json="old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "sen")
    with replaced_folder(tmp_path / "link") as folder:
        assert folder.parent == tmp_path / "disk"  # on the same file system
        write(folder, config_json="new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk") == {"sen/config.json": "new"}


def test_the_current_folder_stays_the_current_folder(way, tmp_path, monkeypatch):
    target = tmp_path / "sen"
    write(target, config_json="old", inside__x_txt="kept")
    for current, given in ((target, "."), (target / "inside", "..")):
        monkeypatch.chdir(current)
        with replaced_folder(given) as folder:
            write(folder, config_json=f"from {current.name}")
        assert os.getcwd() == str(current)
        assert (target / "config.json").read_text() == f"from {current.name}"
        assert os.listdir(".")
    assert [path.name for path in tmp_path.iterdir()] == ["sen"]


@pytest.mark.parametrize("reason", ["mounted", "parent not writable"])
def test_a_folder_that_nothing_can_be_put_beside(reason, tmp_path, monkeypatch):
    target = tmp_path / "sen"
    write(target, config_json="old", README_md="kept")
    if reason == "mounted":
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with replaced_folder(target) as folder:
        assert folder.parent == target
        write(folder, config_json="new", neuron__model_safetensors="new")
    assert content(target) == {"README.md": "kept", "config.json": "new", "neuron/model.safetensors": "new"}


def test_leftovers_of_killed_saves_are_removed_and_those_of_running_ones_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        write(tmp_path / f".sen.saving-{process}", config_json="half")
    write(tmp_path / ".sen.saving-notes", config_json="somebody's own")
    with replaced_folder(tmp_path / "sen") as folder:
        write(folder, config_json="new")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(["sen", f".sen.saving-{os.getppid()}", ".sen.saving-notes"])


def test_names_with_odd_characters(way, tmp_path):
    for name in ("a [b] *c", "ünïcode", "sen.saving-1"):
        write(tmp_path / name, config_json="old")
        with replaced_folder(tmp_path / name) as folder:
            write(folder, config_json="new")
        assert content(tmp_path / name) == {"config.json": "new"}


KILLED = Path(__file__).with_name("killed_saves.py")


@pytest.mark.slow  # test_fresh_process has five kills
def test_a_checkpoint_survives_sigkill_at_twenty_moments(towers, tmp_path):
    """Two models are saved in turn over one folder; each time the saver is killed, one of them is there, whole."""
    command = [sys.executable, str(KILLED), towers["clip"], str(tmp_path / "sen"), "20"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    assert len(seen["found"]) == 20
    assert set(seen["found"]) == {1, 2}  # both were seen,
    assert seen["interrupted"] > 0  # and some saves were cut in half
    assert seen["most_leftovers"] <= 1
    assert seen["left"] == ["sen"]


def test_without_hard_links_files_are_moved(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError

    write(tmp_path / "sen", config_json="old", README_md="kept")
    monkeypatch.setattr(os, "link", no_links)
    with replaced_folder(tmp_path / "sen") as folder:
        write(folder, config_json="new")
    assert content(tmp_path) == {"sen/README.md": "kept", "sen/config.json": "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="others have no exchange")
def test_new_files_are_never_seen_beside_old_ones(tmp_path, monkeypatch):
    """At the moment of the exchange the new folder is complete, and the old one is as it was."""
    target, library, seen = tmp_path / "sen", whole_file.ctypes.CDLL(None), []

    class Library:
        def renameat2(self, *arguments):
            seen.extend([content(target), content(Path(os.fsdecode(arguments[3])))])
            return library.renameat2(*arguments)

    monkeypatch.setattr(whole_file.ctypes, "CDLL", lambda name: Library())
    write(target, config_json="old", README_md="kept", neuron__vocab_txt="old")
    target.chmod(0o750)
    with replaced_folder(target) as folder:
        write(folder, config_json="new", neuron__config_json="new")
    old = {"README.md": "kept", "config.json": "old", "neuron/vocab.txt": "old"}
    new = {"README.md": "kept", "config.json": "new", "neuron/config.json": "new"}
    assert seen == [old, new]
    assert content(target) == new
    assert target.stat().st_mode & 0o777 == 0o750
