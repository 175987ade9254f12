"""A process that reads media files: one JSON line with a path per input, one JSON line with the outcome per output.

test_media_corpus.py runs it as a separate process and counts its crashes and timeouts.
"""

import json
import logging
import sys
import traceback
from itertools import pairwise

import av
import numpy as np

from modeling_sen.audio_io import read_audio
from modeling_sen.frame_sampling import FrameRequest
from modeling_sen.video_decoder import upright, video_stream
from modeling_sen.video_io import read_frames, read_video_requests


def outcome(read, name: str) -> tuple[str, str]:
    """(class, detail)."""
    try:
        return "read", read()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if not isinstance(error, ValueError | OSError):
            return "other traceback", "".join(traceback.format_exception(error))
        return ("named error" if name in str(error) else "unnamed error"), text


def frames_of(path: str, valid: bool) -> str:
    sampled = read_video_requests(path, [FrameRequest(6), FrameRequest(3, "linspace"), FrameRequest(2, "fps:4")])
    for video in sampled:
        assert np.isfinite(video.times).all()
        assert 0 < video.duration < np.inf
    indices = np.unique(np.concatenate([video.indices for video in sampled]))
    again = read_frames(path, indices[::-1])
    if valid:
        _compare(path, dict(zip(again.indices, again.frames, strict=True)))
        assert all(earlier <= later for earlier, later in pairwise(sampled[0].times))
    return f"{again.num_frames_total} frames"


def _compare(path: str, frames: dict[int, np.ndarray]) -> None:
    """Compare with a sequential decode from the beginning, frame by frame; no frame may be missing."""
    with av.open(path, metadata_errors="replace") as container:
        stream = video_stream(container, path)
        stream.codec_context.thread_type = "NONE"
        for number, frame in enumerate(container.decode(stream)):
            if number in frames:
                expected = upright(frame, frame.to_ndarray(format="rgb24"))
                assert np.array_equal(frames.pop(number), expected), f"{path}: frame {number} is another"
            if not frames:
                return
    raise AssertionError(f"{path}: no frames {list(frames)}")


def sound_of(path: str) -> str:
    clip = read_audio(path, 16000, (0.0, 2.0))
    assert clip.samples.shape == (32000,)
    assert np.isfinite(clip.samples).all()
    return f"sound: {clip.present}"


logging.disable()
for line in sys.stdin:
    request = json.loads(line)
    path = request["path"]
    if request["what"] == "frames":
        result = outcome(lambda path=path, valid=request["valid"]: frames_of(path, valid), path)
    else:
        result = outcome(lambda path=path: sound_of(path), path)
    print(json.dumps(result), flush=True)
