"""Tables of questions about one synthetic video, for tests of question sets and of their metrics."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from modeling_sen.world.mp4 import write_mp4

PLAIN = [
    {"video": "one.mp4", "question": "Which colour?", "options": ["red", "blue"], "answer": "blue", "type": "colour"},
    {"video": "two.mp4", "question": "Which shape?", "options": ["star", "disc"], "answer": "(A)", "type": "shape"},
    {"video": "two.mp4", "question": "Who?", "answer": "nobody", "start": "0.5", "end": 1},
]


@cache
def video_bytes() -> bytes:
    """A clip of one second with sound."""
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.full((1, 32, 32, 3), 20, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames, 8, np.zeros(16000, dtype=np.int16), 16000)
        return path.read_bytes()


def put_videos(folder: Path, *names: str) -> Path:
    """Writes the clip under these names in `folder / "videos"`, which is returned."""
    for name in names:
        path = folder / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video_bytes())
    return folder / "videos"


def write_json(path: Path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)
