"""`sen world`."""

import json

import typer
from typer.testing import CliRunner

from modeling_sen.commands.world import world


def test_the_command_prints_its_summary(tmp_path):
    app = typer.Typer()
    app.command()(world)
    command = [str(tmp_path / "out"), "--split", "unseen_pairs", "--num", "2", "--seed", "5"]
    options = ["--size", "48", "--frames", "8", "--objects", "2-3"]
    result = CliRunner().invoke(app, [*command, *options, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["clips"], summary["written"], summary["split"]) == (2, 2, "unseen_pairs")
    again = CliRunner().invoke(app, [*command, *options])
    assert "2 unseen_pairs clips of seed 5 (0 new)" in again.stdout


def test_a_preset_gives_clips_for_tracking_and_refuses_other_options(tmp_path):
    app = typer.Typer()
    app.command()(world)
    result = CliRunner().invoke(app, [str(tmp_path / "out"), "--preset", "shake", "--num", "1", "--seed", "7"])
    assert result.exit_code == 0, result.output
    assert "1 shake clips of seed 7 (1 new)" in result.stdout
    assert json.loads((tmp_path / "out/metadata.jsonl").read_text())["preset"] == "shake"
    for option, value in [
        ("--size", "64"),
        ("--split", "test"),
        ("--objects", "3"),
        ("--frames", "8"),
        ("--hops", "1"),
    ]:
        result = CliRunner().invoke(app, [str(tmp_path / "other"), "--preset", "shake", option, value])
        assert f"{option} cannot be used with --preset" in str(result.exception)
    assert not (tmp_path / "other").exists()
