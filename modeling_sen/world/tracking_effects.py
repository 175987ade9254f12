"""Camera effects for a drawn tracking clip: changing light, blur, noise and JPEG. They do not move points."""

import io

import numpy as np
from PIL import Image

from modeling_sen.world.scene import IntegerStream
from modeling_sen.world.tracking_scene import SINES, TURN, TrackingKnobs


def add_effects(frames: np.ndarray, knobs: TrackingKnobs, key: int) -> np.ndarray:
    """Applies the effects whose knobs are not zero, in the order light, blur, noise, JPEG.

    Args:
        frames: (T, H, W, 3) uint8.
        knobs: strengths of the effects.
        key: key of the random draws.

    Returns:
        (T, H, W, 3) uint8.
    """
    if knobs.light:
        frames = _lit(frames, knobs.light, IntegerStream((key, 8)))
    if knobs.blur:
        frames = _blurred(frames, knobs.blur, IntegerStream((key, 9)))
    if knobs.noise:
        frames = _noisy(frames, knobs.noise, IntegerStream((key, 10)))
    if knobs.jpeg is not None:
        frames = np.stack([_compressed(frame, knobs.jpeg) for frame in frames])
    return frames


def _lit(frames: np.ndarray, percent: int, draws: IntegerStream) -> np.ndarray:
    """Scales the brightness by an oscillation and a flicker over time, and by a ramp from left to right."""
    times, _, width, _ = frames.shape
    turn = draws.below(TURN) + np.arange(times) * TURN // draws.between(16, 32)
    swing = percent * SINES[turn % TURN].astype(np.int64) * 256 // (100 * 32768)  # (T,), 256 means 1
    flicker = (draws.bytes(times).astype(np.int64) - 128) * percent // 100
    slope = SINES[(draws.below(TURN) + turn // 2) % TURN].astype(np.int64) * percent // 100
    ramp = (np.arange(width) * 2 - width)[None] * slope[:, None] * 128 // (width * 32768)  # (T, W)
    gain = (256 + swing + flicker)[:, None] + ramp
    lit = frames * gain[:, None, :, None].astype(np.int32) + 128 >> 8
    return lit.clip(0, 255).astype(np.uint8)


def _blurred(frames: np.ndarray, most: int, draws: IntegerStream) -> np.ndarray:
    """Applies a 1-2-1 filter along both axes; the number of passes oscillates between 0 and `most`."""
    turn = draws.below(TURN) + np.arange(len(frames)) * TURN // draws.between(16, 32)
    passes = (most * (SINES[turn % TURN].astype(np.int64) + 32768) + 32768) // 65536
    blurred = np.empty_like(frames)
    for time, count in enumerate(passes.tolist()):
        frame = frames[time].astype(np.uint16)
        for _ in range(count):
            padded = np.pad(frame, ((1, 1), (0, 0), (0, 0)), mode="edge")
            down = padded[:-2] + 2 * frame + padded[2:]
            padded = np.pad(down, ((0, 0), (1, 1), (0, 0)), mode="edge")
            frame = padded[:, :-2] + 2 * down + padded[:, 2:] + 8 >> 4
        blurred[time] = frame
    return blurred


def _noisy(frames: np.ndarray, deviation: int, draws: IntegerStream) -> np.ndarray:
    """Adds approximately normal noise: the sum of four random bytes has a standard deviation of 148."""
    total = draws.bytes(*frames.shape).astype(np.int16) - 510
    for _ in range(3):
        total += draws.bytes(*frames.shape)
    noisy = (total.astype(np.int32) * deviation + 74) // 148 + frames
    return noisy.clip(0, 255).astype(np.uint8)


def _compressed(frame: np.ndarray, quality: int) -> np.ndarray:
    """A frame after JPEG compression, without subsampled chroma, whose upsampling depends on the library version."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file))
