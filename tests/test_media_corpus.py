"""For every file the reader returns frames or sound, or raises one error that names the file; it never crashes or hangs."""

import collections
import csv
import json
import os
import select
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from media_corpus import broken_files, odd_files, valid_files

READER = Path(__file__).with_name("media_corpus_reader.py")
# Seconds. Opening may take 10 s, and some files are opened several times.
LONGEST_READ = 60
GOOD = {"read", "named error"}


class Outcome(NamedTuple):
    path: Path
    what: str
    kind: str
    detail: str


class Reader:
    """A process that reads files in turn; it is restarted after a file that ended it."""

    def __init__(self):
        self.process = None

    def read(self, path: Path, what: str, valid: bool) -> Outcome:
        if self.process is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", READER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
            )
        self.process.stdin.write(json.dumps({"path": str(path), "what": what, "valid": valid}) + "\n")
        self.process.stdin.flush()
        answered, _, _ = select.select([self.process.stdout], [], [], LONGEST_READ)
        line = self.process.stdout.readline() if answered else ""
        if line:
            return Outcome(path, what, *json.loads(line))
        if not answered:
            self.close()
            return Outcome(path, what, "hang", f"over {LONGEST_READ} s")
        code = self.process.wait()
        self.close()
        return Outcome(path, what, "signal", f"exit code {code}")

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def read_all(files: list[tuple[Path, bool]], processes: int) -> list[Outcome]:
    """Reads frames and sound of each (file, whether it is valid)."""

    def work(share):
        reader = Reader()
        try:
            return [reader.read(path, what, valid) for path, valid in share for what in ("frames", "sound")]
        finally:
            reader.close()

    with ThreadPoolExecutor(processes) as pool:
        shares = [files[start::processes] for start in range(processes)]
        return [outcome for outcomes in pool.map(work, shares) for outcome in outcomes]


def table(outcomes: list[Outcome]) -> str:
    counts = collections.Counter((outcome.what, outcome.kind) for outcome in outcomes)
    kinds = ("read", "named error", "unnamed error", "other traceback", "signal", "hang")
    lines = [f"{kind:16} {counts['frames', kind]:8} {counts['sound', kind]:8}" for kind in kinds]
    return "\n".join([f"{'':16} {'frames':>8} {'sound':>8}", *lines])


def check(outcomes: list[Outcome], valid: set[Path]) -> None:
    print(f"\n{table(outcomes)}")
    bad = [outcome for outcome in outcomes if outcome.kind not in GOOD]
    # A valid file has frames, or the error says that it has only sound.
    bad += [
        outcome
        for outcome in outcomes
        if outcome.path in valid and outcome.kind == "named error" and "expected a video stream" not in outcome.detail
    ]
    assert bad == [], "\n".join(f"{each.what} of {each.path.name}: {each.kind}: {each.detail}" for each in bad)


def test_a_few_files_are_read_or_named_in_one_error(tmp_path):
    whole = list(valid_files(tmp_path, small=True))
    broken = list(broken_files(tmp_path, whole, 2))
    check(read_all([*((path, True) for path in whole), *((path, False) for path in broken)], 1), set(whole))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_hundreds_of_files_are_read_or_named_in_one_error(tmp_path):
    whole = list(valid_files(tmp_path))
    broken = [*broken_files(tmp_path, whole, 6), *odd_files(tmp_path)]
    assert len(whole) + len(broken) >= 200
    check(read_all([*((path, True) for path in whole), *((path, False) for path in broken)], 2), set(whole))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_shared_files_are_read(shared_data):
    with open(shared_data / "MANIFEST.csv", newline="") as file:
        media = [
            row for row in csv.DictReader(file) if row["modality"] in ("video", "audio", "image", "depth", "thermal")
        ]
    paths = [shared_data / row["path"].removeprefix("shared/") for row in media]
    found = [path for path in paths if path.is_file()]
    valid = [path for path, row in zip(paths, media, strict=True) if path in found and row["modality"] == "video"]
    check(read_all([(path, path in set(valid)) for path in found], 2), set(valid))
