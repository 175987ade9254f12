"""The code in docs/tracking.md runs, with a small fake tracker; nothing that the page shows depends on the model."""

import ast
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_tracker import save_fake_tracker
from PIL import Image
from transformers.pipelines import PIPELINE_REGISTRY

import sen_cli
from modeling_sen.tracking import clip_frames, render
from modeling_sen.world.write import write_world

PAGE = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text()
USE = PAGE.split("\n## ")[1]


def test_the_python_code_gives_the_shown_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = {"model": (save_fake_tracker(tmp_path / "tracker"), None)}
    monkeypatch.setitem(PIPELINE_REGISTRY.supported_tasks["video-tracking"], "default", default)
    (code,) = re.findall(r"```python\n(.*?)```", USE, re.DOTALL)
    *lines, call = code.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    shown, expected = call.split("  # ")
    assert eval(shown, names) == ast.literal_eval(expected)
    assert {"tracks.csv", "tracked.mp4"} <= {path.name for path in tmp_path.iterdir()}


def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = save_fake_tracker(tmp_path / "tracker")
    write_world(tmp_path / "world", "test", 1)
    (tmp_path / "world" / "videos" / "000000.mp4").rename("clip.mp4")
    (tmp_path / "points.csv").write_text("t,x,y\n3,4,5\n")
    Image.fromarray(np.full((64, 64), 255, dtype=np.uint8)).save("dog.png")
    (commands,) = re.findall(r"```bash\n(.*?)```", USE, re.DOTALL)
    for line in commands.strip().splitlines():
        monkeypatch.setattr(sys, "argv", [*shlex.split(line), "--model", model])
        with pytest.raises(SystemExit) as stop:
            sen_cli.main()
        assert not stop.value.code
    written = {path.name for path in tmp_path.iterdir()}
    assert {"tracks.csv", "tracks.json", "tracks.npz", "tracked.mp4"} <= written


def test_figures_equal_those_in_the_code():
    assert f"may come to {clip_frames.LARGEST_CLIP >> 30} GiB" in USE
    assert clip_frames.LARGEST_CLIP // (1920 * 1080 * 3 * 30) == 46
    assert f"over the last {render.TRAIL} frames" in USE
