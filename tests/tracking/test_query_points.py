"""What a user gives as points -> t, x, y: points, files, grids, masks, and all that is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_sen.tracking.query_points import read_mask, read_query_points, resolve_query_points

SIZE = (40, 60)  # height and width


def resolve(**given) -> np.ndarray:
    return resolve_query_points(8, SIZE, **given)


# --- points ----------------------------------------------------------------------------------------------------------


def test_two_columns_are_x_y_on_frame_0_and_three_are_t_x_y():
    points = resolve(query_points=[[5, 6.5], [0, 39]])
    assert points.dtype == np.float32
    assert points.tolist() == [[0, 5, 6.5], [0, 0, 39]]
    assert resolve(query_points=[[7, 5.25, 6], [0, 59, 39]]).tolist() == [[7, 5.25, 6], [0, 59, 39]]


def test_points_are_arrays_lists_or_tensors():
    given = np.array([[1.0, 2.5, 3.0], [2.0, 4.0, 5.0]])
    for points in (
        given,
        given.tolist(),
        given.astype(np.float16),
        torch.tensor(given),
        [tuple(row) for row in given],
    ):
        assert resolve(query_points=points).tolist() == given.tolist()
    assert resolve(query_points=np.array([[1, 2]], dtype=np.int64)).tolist() == [[0, 1, 2]]


def test_zero_points_are_allowed():
    for empty in ([], np.empty((0, 2)), np.empty((0, 3))):
        assert resolve(query_points=empty).shape == (0, 3)


def test_frames_reach_half_a_pixel_beyond_the_centres_of_their_outer_pixels():
    corners = [[-0.5, -0.5], [59.5, 39.5], [-0.5, 39.5], [0, 0]]
    assert resolve(query_points=corners)[:, 1:].tolist() == corners


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1, 2, 3, 4]], r"expected numbers of shape \(N, 2\) x, y or \(N, 3\) t, x, y, found \(1, 4\)"),
        ([1, 2], r"found \(2,\)"),
        (np.zeros((1, 5, 3)), r"found \(1, 5, 3\)"),
        ([[1, 2], [0, 1, 2]], "found rows of different lengths"),
        ([["a", "b"]], "expected numbers"),
        ([[True, False]], "expected numbers"),
        (7, "expected numbers"),
        ([[0, 1, 2], [0, np.nan, 2]], "expected finite numbers, found 0, nan, 2 as point 1"),
        ([[0, np.inf]], "expected finite numbers, found 0, inf as point 0"),
        ([[np.nan, 1, 2]], "expected finite numbers"),
        ([[0.5, 1, 2]], r"whole number of a frame, 0\.\.7, found 0.5 as t of point 0"),
        ([[0, 1, 2], [8, 1, 2]], r"whole number of a frame, 0\.\.7, found 8 as t of point 1"),
        ([[-1, 1, 2]], r"0\.\.7, found -1 as t of point 0"),
        ([[1, 1], [59.6, 1]], r"x in -0\.5\.\.59\.5 and y in -0\.5\.\.39\.5, .* found x, y = 59\.6, 1 as point 1"),
        ([[0, -0.6, 1]], "found x, y = -0.6, 1 as point 0"),
        ([[0, 1, 40]], "found x, y = 1, 40 as point 0"),
        ([[0, 1, -7]], "found x, y = 1, -7 as point 0"),
    ],
)
def test_invalid_points_are_refused(points, message):
    with pytest.raises(ValueError, match=f"query_points: .*{message}"):
        resolve(query_points=points)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.csv", "x,y\n1,2.5\n3,4\n", [[1, 2.5], [3, 4]]),
        ("p.csv", "t,x,y\n2,1,2.5\n", [[2, 1, 2.5]]),
        ("p.csv", "t,y,x\n2,2.5,1\n", [[2, 1, 2.5]]),
        ("p.csv", "\ufeffX, Y\r\n1, 2\r\n\r\n", [[1, 2]]),
        ("p.csv", "1,2\n3,4", [[1, 2], [3, 4]]),
        ("p.csv", "0,1,2", [[0, 1, 2]]),
        ("P.CSV", "1e1,2", [[10, 2]]),
        ("p.json", "[[1, 2.5], [3, 4]]", [[1, 2.5], [3, 4]]),
        ("p.json", "[[2, 1, 2.5]]", [[2, 1, 2.5]]),
    ],
)
def test_files_of_text_are_read(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_query_points(tmp_path / name).tolist() == expected
    times = [] if len(expected[0]) == 3 else [0]
    assert resolve(query_points=str(tmp_path / name)).tolist() == [times + row for row in expected]


def test_files_of_arrays_are_read(tmp_path):
    np.save(tmp_path / "p.npy", np.array([[2, 1.5, 2]], dtype=np.float32))
    assert resolve(query_points=tmp_path / "p.npy").tolist() == [[2, 1.5, 2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "1,2", r"ending in \.csv, \.json, \.npy, found '\.txt'"),
        ("p.csv", "", "at least one point, found none"),
        ("p.csv", "x,y\n", "at least one point, found none"),
        ("p.csv", "frame,x,y\n0,1,2", "header frame,x,y"),
        ("p.csv", "x,x\n1,2", "header x,x"),
        ("p.csv", "x,y\n1,2,3", "row 1,2,3"),
        ("p.csv", "1,2\n1,b", "could not convert string to float: 'b'"),
        ("p.csv", "1,2,3,4", r"found \(1, 4\)"),
        ("p.csv", "1,nan", "expected finite numbers"),
        ("p.json", "{}", "a dict, not a list"),
        ("p.json", "[[1, 2", "found a malformed file"),
        ("p.json", '[{"x": 1, "y": 2}]', "expected numbers"),
        ("p.json", "[]", "at least one point, found none"),
        ("p.npy", "x,y", "found a malformed file"),
        ("p.npy", "", "found a malformed file"),
    ],
)
def test_invalid_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"query_points: .*{name}: .*{message}"):
        resolve(query_points=tmp_path / name)


def test_a_binary_file_is_refused(tmp_path):
    for name in ("p.csv", "p.json"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(ValueError, match=f"query_points: .*{name}: expected points"):
            read_query_points(tmp_path / name)
    np.save(tmp_path / "p.npy", np.array([[{}, {}]], dtype=object))
    with pytest.raises(ValueError, match="found a malformed file"):
        read_query_points(tmp_path / "p.npy")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"query_points: .*gone\.csv: no such file"):
        resolve(query_points=tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match=r"mask: .*gone\.png: no such file"):
        resolve(mask=tmp_path / "gone.png")


# --- grids -----------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_centres_of_equal_parts_row_by_row():
    # Two parts of 60 columns: 0..29 and 30..59, their centres 14.5 and 44.5; of 40 rows 9.5 and 29.5.
    points = resolve(grid_size=2, query_frame=3)
    assert points.tolist() == [[3, 14.5, 9.5], [3, 44.5, 9.5], [3, 14.5, 29.5], [3, 44.5, 29.5]]
    assert resolve(grid_size=1).tolist() == [[0, 29.5, 19.5]]


def test_without_points_the_grid_is_10():
    assert np.array_equal(resolve(), resolve(grid_size=10))
    assert len(resolve()) == 100
    assert (resolve(query_frame=7)[:, 0] == 7).all()


# --- masks -----------------------------------------------------------------------------------------------------------


def test_small_masks_give_every_pixel():
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:12, 20:23] = True
    expected = [[2, x, y] for y in (10, 11) for x in (20, 21, 22)]
    assert resolve(mask=mask, query_frame=2).tolist() == expected
    assert resolve(mask=mask * np.uint8(200), query_frame=2).tolist() == expected


def test_large_masks_give_every_s_th_pixel_of_every_s_th_row():
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[5:51, 30:70] = (
        1  # 46 x 40 pixels: s is floor(sqrt(18.4)) = 4; rows 5 + 45 % 4 // 2 = 5, 9, ...; columns 31, 35, ...
    )
    points = resolve_query_points(1, (100, 100), mask=mask)
    rows, columns = range(5, 51, 4), range(31, 70, 4)
    assert points[:, 1:].tolist() == [[x, y] for y in rows for x in columns]
    assert len(points) == 120


def test_a_mask_always_gives_a_point():
    mask = np.zeros((300, 300), dtype=bool)
    mask[[0, 299], [0, 298]] = True
    assert resolve_query_points(1, (300, 300), mask=mask)[:, 1:].tolist() == [[0, 0], [298, 299]]
    drawn = np.random.default_rng(0)
    for _ in range(20):  # thin lines, which a coarse grid may miss
        mask = np.zeros((300, 300), dtype=bool)
        columns = np.arange(300)
        mask[(columns * drawn.uniform(0, 1)).astype(int), columns] = True
        found = resolve_query_points(1, (300, 300), mask=mask)[:, 1:].astype(int)
        assert len(found)
        assert mask[found[:, 1], found[:, 0]].all()


def test_masks_are_png_files(tmp_path):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[3:5, 4] = 1
    images = {
        "grey": Image.fromarray(255 * mask),
        "one": Image.fromarray(mask != 0),
        "palette": Image.fromarray(mask).convert("P"),
        "deep": Image.fromarray(mask.astype(np.uint16)),
    }
    images["palette"] = Image.fromarray(mask, mode=None)
    images["palette"].putpalette([0, 0, 0, 200, 0, 0])
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
        assert resolve(mask=str(tmp_path / f"{name}.png")).tolist() == [[0, 4, 3], [0, 4, 4]]
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), mask != 0)


def test_invalid_masks_are_refused(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "colours.png")
    Image.new("L", SIZE[::-1]).save(tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("mask")
    Image.effect_noise(SIZE[::-1], 50).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:300])
    for mask, message in [
        (np.ones((60, 40), dtype=bool), r"\(height, width\) \(40, 60\), found \(60, 40\)"),
        (np.zeros(SIZE, dtype=bool), "at least one pixel that is not 0, found none"),
        (np.ones(SIZE), r"\(H, W\) bool or uint8, found \(40, 60\) float64"),
        (np.ones((1, *SIZE), dtype=bool), r"found \(1, 40, 60\) bool"),
        (5, "bool or uint8"),
        (tmp_path / "colours.png", "expected a grey png or one with a palette, found one of mode RGB"),
        (tmp_path / "photo.jpg", "expected a png"),
        (tmp_path / "text.png", "expected a png"),
        (tmp_path / "half.png", "expected a png"),
    ]:
        with pytest.raises(ValueError, match=f"mask: .*{message}"):
            resolve(mask=mask)


# --- the arguments together ------------------------------------------------------------------------------------------


def test_one_kind_of_points_is_taken():
    mask = np.ones(SIZE, dtype=bool)
    for given, found in [
        ({"query_points": [[1, 1]], "grid_size": 3}, "query_points and grid_size"),
        ({"query_points": [[1, 1]], "mask": mask}, "query_points and mask"),
        ({"grid_size": 3, "mask": mask}, "grid_size and mask"),
    ]:
        with pytest.raises(ValueError, match=f"one of query_points, grid_size and mask, found {found}"):
            resolve(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid_size": 0}, "grid_size: expected a whole number of at least 1, found 0"),
        ({"grid_size": 2.5}, "grid_size: expected a whole number of at least 1, found 2.5"),
        ({"grid_size": True}, "grid_size: expected a whole number"),
        ({"query_frame": 8}, r"query_frame: expected a frame of the clip, 0\.\.7, found 8"),
        ({"query_frame": -1}, "query_frame: expected a whole number of at least 0, found -1"),
        ({"query_frame": 1.5}, "query_frame: expected a whole number of at least 0, found 1.5"),
        ({"query_frame": 2, "query_points": [[1, 1]]}, "query_frame: applies to grid_size and mask, found 2 with"),
    ],
)
def test_invalid_numbers_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        resolve(**given)


def test_the_points_of_a_saved_list_are_those_that_were_given(tmp_path):
    points = resolve(grid_size=3, query_frame=1)
    (tmp_path / "p.json").write_text(json.dumps(points.tolist()))
    assert np.array_equal(resolve(query_points=tmp_path / "p.json"), points)
