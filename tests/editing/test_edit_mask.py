"""Masks: read from files and arrays, drawn of points, brought to latents, and blended."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import av

from modeling_sen.editing.edit_mask import (
    blend_latents,
    blend_pixels,
    latent_mask,
    points_mask,
    read_mask,
    resized_mask,
)

SIZE = (16, 24)


def random_mask(frames=None, seed=0):
    shape = SIZE if frames is None else (frames, *SIZE)
    return np.random.default_rng(seed).random(shape) < 0.4


def box_mask(frames):
    """A box that moves by two pixels a frame."""
    mask = np.zeros((frames, *SIZE), dtype=bool)
    for frame in range(frames):
        mask[frame, 4:12, 2 * frame : 2 * frame + 8] = True
    return mask


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_arrays_for_one_or_all_frames(kind):
    one, all_frames = random_mask(), random_mask(3)
    found = read_mask(one.astype(kind), 3, SIZE)
    assert (found.shape, found.dtype) == ((3, *SIZE), bool)
    assert np.array_equal(found, np.stack([one] * 3))
    assert np.array_equal(read_mask(all_frames.astype(kind), 3, SIZE), all_frames)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_pngs_are_inside_where_they_are_not_black(tmp_path, mode):
    mask = random_mask()
    if mode in ("L", "P"):
        image = Image.fromarray(mask.astype(np.uint8))  # 1 is nearly black; in a palette, a number
        if mode == "P":
            image = image.convert("P")
            image.putpalette([0, 0, 0, 0, 0, 0])
    else:
        image = Image.fromarray(mask).convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", 2, SIZE), np.stack([mask] * 2))


def test_other_images_are_inside_where_they_are_bright(tmp_path):
    mask = box_mask(1)[0]
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.jpg")
    assert np.array_equal(read_mask(str(tmp_path / "mask.jpg"), 1, SIZE)[0], mask)


def test_a_folder_in_the_order_of_names(tmp_path):
    masks = random_mask(4)
    for number in (2, 0, 3, 1):
        Image.fromarray(masks[number]).save(tmp_path / f"{number:05d}.png")
    assert np.array_equal(read_mask(tmp_path, 4, SIZE), masks)


def test_a_video(tmp_path):
    masks = np.kron(box_mask(3), np.ones((1, 4, 4), dtype=bool))
    with av.open(str(tmp_path / "mask.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for mask in masks:
            image = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    found = read_mask(tmp_path / "mask.mp4", 3, (64, 96))
    assert (found != masks).mean() < 0.01
    with pytest.raises(ValueError, match="expected one image or 5, one for each frame, found 3"):
        read_mask(tmp_path / "mask.mp4", 5, (64, 96))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((16, 25), dtype=bool), "array: expected height x width 16 x 24, found 16 x 25"),
        (np.ones((2, *SIZE), dtype=bool), "array: expected one image or 3, one for each frame, found 2"),
        (np.ones(SIZE), "bool or uint8, found .* float64"),
        (np.ones((3, *SIZE, 3), dtype=np.uint8), r"\(H, W\) or \(T, H, W\)"),
    ],
)
def test_invalid_arrays(mask, message):
    with pytest.raises(ValueError, match=f"mask: .*{message}"):
        read_mask(mask, 3, SIZE)


def test_invalid_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mask: .*none\.png: no such file"):
        read_mask(tmp_path / "none.png", 3, SIZE)
    with pytest.raises(ValueError, match="expected images of one size, found an empty folder"):
        read_mask(tmp_path, 3, SIZE)
    Image.new("L", (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected height x width 16 x 24, found 4 x 5"):
        read_mask(tmp_path / "a.png", 3, SIZE)
    Image.new("L", (6, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"images of one size, found \[\(4, 5\), \(4, 6\)\]"):
        read_mask(tmp_path, 3, SIZE)
    (tmp_path / "c.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"c\.txt: expected only images in the folder"):
        read_mask(tmp_path, 3, SIZE)
    with pytest.raises(ValueError, match=r"c\.txt"):
        read_mask(tmp_path / "c.txt", 3, SIZE)


# --- drawing ---------------------------------------------------------------------------------------------------------


def inside_hull(points, size):
    """Pixels that no line through two of the points separates from all of them; by brute force."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = np.ones(size, dtype=bool)
    for x0, y0 in points:
        for x1, y1 in points:
            sides = (x1 - x0) * (points[:, 1] - y0) - (y1 - y0) * (points[:, 0] - x0)
            if (x0, y0) != (x1, y1) and (sides >= -1e-9).all():
                inside &= (x1 - x0) * (rows - y0) - (y1 - y0) * (columns - x0) >= -1e-9
    return inside


def test_points_cover_their_convex_hull():
    tracks = np.random.default_rng(2).uniform(4, 28, (5, 12, 2)).round()
    found = points_mask(tracks, np.ones((5, 12), dtype=bool), (32, 40), margin=0)
    for mask, points in zip(found, tracks, strict=True):
        expected = inside_hull(points, (32, 40))
        assert mask[expected].all()
        # Pixels of the outline may lie up to a pixel outside.
        beside = np.pad(expected, 1)
        near = np.any([np.roll(beside, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0)[1:-1, 1:-1]
        assert not mask[~near].any()


def test_hidden_points_do_not_count():
    tracks = np.array([[[2, 2], [9, 2], [9, 9], [2, 9], [30, 30]]] * 2, dtype=float)
    visibility = np.array([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)
    expected = np.zeros((2, 32, 40), dtype=bool)
    expected[0, 2:10, 2:10] = True
    assert np.array_equal(points_mask(tracks, visibility, (32, 40), margin=0), expected)


def test_one_point_and_a_margin():
    tracks, visibility = np.array([[[20.0, 10.0]]]), np.ones((1, 1), dtype=bool)
    assert np.argwhere(points_mask(tracks, visibility, (32, 40))).tolist() == [[0, 10, 20]]
    rows, columns = np.mgrid[:32, :40]
    distance = np.hypot(rows - 10, columns - 20)
    (mask,) = points_mask(tracks, visibility, (32, 40), margin=5)
    assert mask[distance <= 4.5].all()
    assert not mask[distance > 6].any()


def test_a_margin_widens_the_hull_on_all_sides():
    tracks = np.array([[[10, 10], [20, 10], [20, 20], [10, 20]]], dtype=float)
    (mask,) = points_mask(tracks, np.ones((1, 4), dtype=bool), (32, 40), margin=3)
    rows, columns = np.argwhere(mask).T
    assert {rows.min(), columns.min()} <= {6, 7}
    assert {rows.max(), columns.max()} <= {23, 24}
    assert not mask[6, 6]  # corners are round


def test_the_margin_is_the_spacing_of_points():
    rows, columns = np.mgrid[8:20:4, 10:26:4]
    tracks = np.stack([columns.ravel(), rows.ravel()], axis=-1)[None].astype(float)
    visibility = np.ones(tracks.shape[:2], dtype=bool)
    found = points_mask(tracks, visibility, (32, 40))
    assert np.array_equal(found, points_mask(tracks, visibility, (32, 40), margin=4))
    assert found.sum() > 1.5 * points_mask(tracks, visibility, (32, 40), margin=0).sum()


def test_invalid_points():
    with pytest.raises(
        ValueError, match=r"tracks \(T, N, 2\) and visibility \(T, N\), found \(2, 3, 2\) and \(2, 4\)"
    ):
        points_mask(np.zeros((2, 3, 2)), np.ones((2, 4), dtype=bool), SIZE)
    with pytest.raises(ValueError, match="margin: expected at least 0 pixels, found -1"):
        points_mask(np.zeros((2, 3, 2)), np.ones((2, 3), dtype=bool), SIZE, margin=-1)


# --- blending --------------------------------------------------------------------------------------------------------


def test_smaller_masks_keep_pixels_of_which_half_is_inside():
    mask = np.zeros((1, 4, 8), dtype=bool)
    mask[0, :2, :4] = True  # of the first four pixels all, of the next none
    mask[0, 2, 4:6] = True  # half of one
    mask[0, 2, 6] = True  # a quarter of one
    expected = [[[True, True, False, False], [False, False, True, False]]]
    assert resized_mask(mask, (2, 4)).tolist() == expected
    assert np.array_equal(resized_mask(mask, (4, 8)), mask)


def test_a_latent_is_inside_where_any_of_its_pixels_is():
    mask = random_mask(3) & random_mask(3, seed=1) & random_mask(3, seed=2)
    found = latent_mask(mask, (4, 6))
    assert (found.shape, found.dtype) == ((1, 1, 3, 4, 6), torch.float32)
    expected = mask.reshape(3, 4, 4, 6, 4).any(axis=(2, 4))
    assert np.array_equal(found[0, 0].numpy() == 1, expected)
    assert 0 < expected.mean() < 1


def test_latents_outside_are_those_of_the_source_at_the_same_level():
    trajectory = [torch.full((1, 2, 3, 4, 6), float(level)) for level in range(3)]
    inside = latent_mask(random_mask(3), (4, 6))
    inside[0, 0, 1] = 0
    found = blend_latents(inside, trajectory)(torch.full((1, 2, 3, 4, 6), 9.0), 2)
    assert torch.equal(found, torch.where(inside.bool(), 9.0, 2.0).expand(1, 2, -1, -1, -1))


def test_pixels_outside_are_those_of_the_source_to_the_bit():
    source, frames = (np.random.default_rng(seed).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8) for seed in (0, 1))
    mask = random_mask(3)
    found = blend_pixels(mask, frames, source)
    assert found.dtype == np.uint8
    assert np.array_equal(found[mask], frames[mask])
    assert np.array_equal(found[~mask], source[~mask])
