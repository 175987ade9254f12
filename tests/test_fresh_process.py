"""Tests that need a separate process: drawn clips with another hash seed, memory use, imported decoders, killed saves.

All of them share one process, because starting it with torch and transformers takes longer than the checks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from frame_stamps import CLIP_KINDS, repeat_clip, write_clip
from world.test_recorded_sums import RECORDED

PROGRAM = """
import json, sys
from pathlib import Path
from modeling_sen.audio_io import read_audio
from modeling_sen.video_io import read_video

def memory(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1024

def growth(clip):
    '''Megabytes by which the process is larger at most while it reads.'''
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    read_video(clip, 8)
    return memory("VmHWM") - before

short, long, case, tower, target = *sys.argv[1:3], json.loads(sys.argv[3]), *sys.argv[4:]
read_video(short, 8)  # what is loaded once counts for neither
found = {"growth": [growth(short), growth(long)] if sys.platform == "linux" else None}
read_audio(short, 16000)
found["modules"] = list(sys.modules)
from world.test_recorded_sums import sums
found["sums"] = sums(case["split"], case["seed"], case["index"], **case["options"])
from killed_saves import kill_savers
found["killed"] = kill_savers(tower, Path(target), 5)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(towers, tmp_path_factory):
    """The output of a process with another hash seed: what it read, drew and saved."""
    folder, target = tmp_path_factory.mktemp("hour"), tmp_path_factory.mktemp("saves") / "sen"
    short = write_clip(folder / "clip.mp4", CLIP_KINDS["mp4"], range(90))
    hour = repeat_clip(short, folder / "hour.mp4", 1200)
    here = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(here)}
    given = [str(short), str(hour), json.dumps(RECORDED[0]), towers["clip"], str(target)]
    command = [sys.executable, "-c", PROGRAM, *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_memory_does_not_grow_with_the_length_of_a_clip(found):
    """The hour would take 2.9 GB as decoded frames, and about 100 MB as packet objects."""
    short, long = found["growth"]
    assert long < short + 40


def test_no_other_decoder_is_imported(found):
    """So the frames do not depend on whether torchvision, torchcodec or decord is installed."""
    others = {"torchvision", "torchcodec", "torchaudio", "decord", "cv2", "librosa", "soundfile"}
    assert not others & set(found["modules"])


def test_clips_do_not_depend_on_the_hash_seed(found):
    assert found["sums"] == RECORDED[0]["sums"]


def test_a_checkpoint_is_complete_after_each_of_five_kills(found):
    """Two models are saved in turn to one folder; after each kill the folder contains one of them, complete."""
    killed = found["killed"]
    assert len(killed["found"]) == 5
    assert set(killed["found"]) <= {1, 2}  # a kill may fall between two saves; test_replaced_folder has more kills
    assert killed["most_leftovers"] <= 1
    assert killed["left"] == ["sen"]
