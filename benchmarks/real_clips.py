"""Real clips to track points in, each with what is known of it: masks, joints, a box, depth and poses, or nothing.

At most 50 frames, resized so that the longer side is at most 512; at most 64 points, drawn by one seed in the first frame.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_sen.evaluation.tracking_data import read_badja, read_davis
from modeling_sen.evaluation.tracking_metrics import tracking_metrics
from modeling_sen.evaluation.tracking_partial_truth import box_metrics, joint_accuracy, mask_metrics
from modeling_sen.evaluation.tracking_reprojection import register_depth, reproject
from modeling_sen.video_io import read_frames

FRAMES, POINTS, LONGER_SIDE = 50, 64, 512
# Of the Kinect of 7-Scenes. Its colour and depth are not registered, and only the depth camera's intrinsics were published,
# with the poses. The colour camera's are the device's usual ones. With both cameras Lucas-Kanade tracks of corners end 1.1
# pixels (median, of 640 x 480) from the reprojection after 23 frames; with the depth camera's intrinsics for both, 2.2.
DEPTH_FOCAL, COLOUR_FOCAL, CENTRE, BASELINE = 585.0, 525.0, (320.0, 240.0), 0.025  # pixels, metres
DEPTH_TOLERANCE = 0.05  # metres

# Numbers of predicted tracks (T, N, 2) and visibility (T, N).
Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]


@dataclass(frozen=True, eq=False)
class RealClip:
    """`queries` (N, 3) t, x, y in pixels of `frames` (T, H, W, 3) uint8."""

    name: str
    frames: np.ndarray = field(repr=False)
    queries: np.ndarray = field(repr=False)
    measure: Measure = field(repr=False)

    @property
    def frame_size(self) -> tuple[int, int]:
        return self.frames.shape[1], self.frames.shape[2]


def horsejump(folder: Path) -> RealClip:
    """DAVIS masks, of horse and rider together, and BADJA joints of the horse."""
    name = folder.name
    masked = read_davis(folder / "video", folder / "masks")
    truth = read_badja(folder / f"{name}.json", folder / "video", "first")
    frames, scale = resized(masked.read_frames()[:FRAMES])
    masks = resized_masks(masked.masks[:FRAMES], frames)
    tracks, visibility = moved(truth.tracks[:FRAMES], scale), truth.visibility[:FRAMES]
    joints = np.concatenate([truth.queries[:, :1], moved(truth.queries[:, 1:], scale)], axis=1)
    points = points_of(masks[0] > 0)
    count = len(points)

    def measure(found: np.ndarray, seen: np.ndarray) -> dict[str, float]:
        return {
            **mask_metrics(found[:, :count], seen[:, :count], points, (masks > 0).astype(np.uint8)),
            "joints": joint_accuracy(found[:, count:], tracks, visibility, joints, masks),
        }

    return RealClip(name, frames, np.concatenate([points, joints]).astype(np.float32), measure)


def masked(folder: Path, video: str, masks: str) -> RealClip:
    """DAVIS masks."""
    clip = read_davis(folder / video, folder / masks)
    frames, _ = resized(clip.read_frames()[:FRAMES])
    small = resized_masks(clip.masks[:FRAMES], frames)
    points = points_of(small[0] > 0)
    return RealClip(folder.name, frames, points, lambda found, seen: mask_metrics(found, seen, points, small))


def seven_scenes(folder: Path) -> RealClip:
    """A camera that moves through a static room: depth and poses say where points go."""
    names = sorted(path.name.removesuffix(".color.jpg") for path in folder.glob("*.color.jpg"))[:FRAMES]
    frames, scale = resized(np.stack([np.asarray(Image.open(folder / f"{name}.color.jpg")) for name in names]))
    raw = np.stack([np.asarray(Image.open(folder / f"{name}.depth.png")) for name in names]).astype(np.float64)
    raw[raw == 65535] = 0  # as 0, no depth
    intrinsics = {
        focal: np.array([[focal, 0, CENTRE[0]], [0, focal, CENTRE[1]], [0, 0, 1]])
        for focal in (DEPTH_FOCAL, COLOUR_FOCAL)
    }
    depth_to_colour = np.eye(4)
    depth_to_colour[0, 3] = -BASELINE
    depths = np.stack(
        [
            register_depth(depth, intrinsics[DEPTH_FOCAL], intrinsics[COLOUR_FOCAL], depth_to_colour)
            for depth in raw / 1000
        ]
    )
    poses = np.stack([np.loadtxt(folder / f"{name}.pose.txt") for name in names]) @ np.linalg.inv(depth_to_colour)
    pixels = points_of(is_steady(depths[0]))[:, 1:].astype(np.int64)
    tracks, visible, has_truth = reproject(pixels, depths, poses, intrinsics[COLOUR_FOCAL], DEPTH_TOLERANCE)
    tracks, visible = moved(tracks, scale), visible & has_truth
    queries = np.concatenate([np.zeros((len(pixels), 1)), tracks[0]], axis=1).astype(np.float32)
    size = frames.shape[1:3]

    def measure(found: np.ndarray, seen: np.ndarray) -> dict[str, float]:
        numbers = tracking_metrics(found, seen, tracks, visible, queries, size, "first")
        return {
            "reprojected_within_4": numbers["pts_within_4"],
            "predicted_visible": float(seen[1:][visible[1:]].mean()),
        }

    return RealClip(folder.name, frames, queries, measure)


def bag(folder: Path) -> RealClip:
    """A rotated box of VOT for each frame. Points start in the middle half of the box, as its corners show background."""
    frames, scale = resized(read_frames(folder / "bag.avi", range(FRAMES)).frames)
    lines = (folder / "groundtruth.txt").read_text().split()[:FRAMES]
    corners = moved(np.array([line.split(",") for line in lines], dtype=np.float64).reshape(-1, 4, 2), scale)
    along, across = np.random.default_rng(0).uniform(0.25, 0.75, (2, POINTS, 1))
    first = corners[0]
    places = first[0] + along * (first[1] - first[0]) + across * (first[3] - first[0])
    queries = np.concatenate([np.zeros((POINTS, 1)), places], axis=1).astype(np.float32)
    return RealClip(folder.name, frames, queries, lambda found, seen: box_metrics(found, seen, queries, corners))


def apple(folder: Path) -> RealClip:
    """A mask of the first frame alone, which says where to start."""
    frames, _ = resized(read_frames(folder / "apple.mp4", range(FRAMES)).frames)
    mask = np.asarray(Image.open(folder / "apple_mask.png").convert("L")) > 127
    return RealClip(folder.name, frames, points_of(resized_masks(mask[None], frames)[0] > 0), lambda found, seen: {})


def juggling(folder: Path) -> RealClip:
    """Nothing is known."""
    frames, _ = resized(read_frames(folder / "05_default_juggle.mp4", range(FRAMES)).frames)
    return RealClip(folder.name, frames, points_of(np.ones(frames.shape[1:3], dtype=bool)), lambda found, seen: {})


# Folder below the data -> its reader.
CLIPS: dict[str, Callable[[Path], RealClip]] = {
    "horsejump-high": horsejump,
    "car-shadow": lambda folder: masked(folder, "JPEGImages", "Annotations"),
    "schoolgirls": lambda folder: masked(folder, "schoolgirls_orig.mp4", "masks"),
    "7scenes_000-023": seven_scenes,
    "bag": bag,
    "apple": apple,
    "sam2": juggling,
}


def resized(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames of which the longer side is at most 512, and the scale of x and of y."""
    size = np.array(frames.shape[2:0:-1])  # width, height
    small = np.round(size * min(1, LONGER_SIDE / size.max())).astype(int)
    shown = [
        np.asarray(Image.fromarray(frame).resize(tuple(small.tolist()), Image.Resampling.BICUBIC)) for frame in frames
    ]
    return np.stack(shown), small / size


def resized_masks(masks: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Masks (T, H, W) of the size of the resized frames."""
    size = (frames.shape[2], frames.shape[1])
    shown = [Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST) for mask in masks]
    return np.stack([np.asarray(mask) for mask in shown])


def moved(positions: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Positions x, y in the resized frames."""
    return (positions + 0.5) * scale - 0.5


def points_of(mask: np.ndarray) -> np.ndarray:
    """Queries (N, 3) float32 at pixels of a mask (H, W) of the first frame, at most 64, drawn by one seed."""
    rows, columns = np.nonzero(mask)
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:POINTS])
    return np.stack([np.zeros(len(chosen)), columns[chosen], rows[chosen]], axis=1).astype(np.float32)


def is_steady(depth: np.ndarray) -> np.ndarray:
    """(H, W) bool: the depth of all nine pixels around is known and nearly that of the middle."""
    steady = np.zeros(depth.shape, dtype=bool)
    around = np.lib.stride_tricks.sliding_window_view(depth, (3, 3))  # (H - 2, W - 2, 3, 3)
    middle = depth[1:-1, 1:-1, None, None]
    steady[1:-1, 1:-1] = ((around > 0) & (np.abs(around - middle) < DEPTH_TOLERANCE)).all(axis=(2, 3))
    return steady
