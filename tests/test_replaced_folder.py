"""Replacing a checkpoint folder completely or not at all, also if the process is killed."""

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
    """Both ways of replacing: with one system call, and file by file where that is missing."""
    if request.param == "file by file":
        monkeypatch.setattr(whole_file.ctypes, "CDLL", lambda name: None)
    elif not sys.platform.startswith("linux"):
        pytest.skip("the exchange is Linux's")
    return request.param


def test_written_files_are_replaced_and_the_others_kept(way, tmp_path):
    target = tmp_path / "sen"
    write(target, config_json="old", model_safetensors="old", README_md="kept", other__deep_txt="kept")
    write(target, neuron__model_safetensors="old", neuron__vocab_txt="old")
    with replaced_folder(target) as folder:
        assert list(folder.iterdir()) == []
        write(folder, config_json="new", model_safetensors="new", neuron__model_safetensors="new")
        assert content(target)["config.json"] == "old"  # nothing changes until all files are written
    assert content(target) == {
        "README.md": "kept",
        "config.json": "new",
        "model.safetensors": "new",
        "neuron/model.safetensors": "new",  # a subfolder is replaced as a whole
        "other/deep.txt": "kept",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sen"]


def test_old_weights_are_removed_when_new_ones_are_written(way, tmp_path):
    """Loaders prefer model.safetensors to shards, so an old file beside new shards would be loaded."""
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
        (folder / "config.json").write_text("c")  # without new weights the old ones are kept
    assert content(target) == {"config.json": "c", "model.safetensors": "newer"}


def test_a_failed_write_changes_nothing(way, tmp_path):
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


def test_a_missing_folder_is_created(way, tmp_path):
    with replaced_folder(tmp_path / "a" / "b" / "sen") as folder:
        write(folder, config_json="new")
    assert content(tmp_path) == {"a/b/sen/config.json": "new"}


def test_a_file_at_the_path_raises(tmp_path):
    (tmp_path / "sen").write_text("a file")
    with (
        pytest.raises(NotADirectoryError, match="sen: found a file, expected a folder"),
        replaced_folder(tmp_path / "sen"),
    ):
        pass


def test_a_link_to_the_folder_is_kept(way, tmp_path):
    write(tmp_path / "disk" / "sen", config_json="old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "sen")
    with replaced_folder(tmp_path / "link") as folder:
        assert folder.parent == tmp_path / "disk"  # on the same file system
        write(folder, config_json="new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk") == {"sen/config.json": "new"}


def test_the_current_folder_can_be_replaced(way, tmp_path, monkeypatch):
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
def test_a_folder_without_writable_parent_is_replaced_from_inside(reason, tmp_path, monkeypatch):
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


def test_leftovers_of_killed_saves_are_removed_and_those_of_running_saves_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getppid()):
        write(tmp_path / f".sen.saving-{process}", config_json="half")
    write(tmp_path / ".sen.saving-notes", config_json="somebody's own")
    with replaced_folder(tmp_path / "sen") as folder:
        write(folder, config_json="new")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(["sen", f".sen.saving-{os.getppid()}", ".sen.saving-notes"])


def test_unusual_names_are_replaced(way, tmp_path):
    for name in ("a [b] *c", "ünïcode", "sen.saving-1"):
        write(tmp_path / name, config_json="old")
        with replaced_folder(tmp_path / name) as folder:
            write(folder, config_json="new")
        assert content(tmp_path / name) == {"config.json": "new"}


KILLED = Path(__file__).with_name("killed_saves.py")


@pytest.mark.slow  # test_fresh_process kills five times in the default run
def test_a_checkpoint_is_complete_after_each_of_twenty_kills(towers, tmp_path):
    """Two models are saved in turn to one folder; after each kill the folder contains one of them, complete."""
    command = [sys.executable, str(KILLED), towers["clip"], str(tmp_path / "sen"), "20"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    seen = json.loads(result.stdout.splitlines()[-1])
    assert len(seen["found"]) == 20
    assert set(seen["found"]) == {1, 2}  # both models were found,
    assert seen["interrupted"] > 0  # and some saves were interrupted
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
def test_the_folder_never_contains_new_and_old_files_together(tmp_path, monkeypatch):
    """At the time of the exchange the new folder is complete and the old one unchanged."""
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
