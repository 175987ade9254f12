"""Reprojection: planes before moving cameras, against their homographies; occlusion; registered depth."""

import numpy as np
import pytest

from modeling_sen.evaluation.tracking_reprojection import register_depth, reproject

HEIGHT, WIDTH = 48, 64
INTRINSICS = np.array([[50.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])


def rotation(axis, angle):
    """Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def pose_of(turn, place):
    """4 x 4, from camera to world."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, place
    return pose


def depth_of_plane(pose, normal, distance, intrinsics=INTRINSICS):
    """Depth map of the plane normal . X = distance (world), pixel by pixel."""
    depth = np.zeros((HEIGHT, WIDTH))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            ray = np.linalg.solve(intrinsics, [column, row, 1.0])
            depth[row, column] = (distance - normal @ pose[:3, 3]) / (normal @ pose[:3, :3] @ ray)
    return depth


def test_points_of_a_plane_move_by_its_homography():
    normal, distance = np.array([0.1, -0.2, 1.0]), 3.0
    poses = np.stack(
        [
            np.eye(4),
            pose_of(rotation([0.3, 1, 0.1], 0.1), [0.2, -0.1, 0.3]),
            pose_of(rotation([1, 0, 0.5], -0.08), [-0.3, 0.1, -0.2]),
        ]
    )
    depths = np.stack([depth_of_plane(pose, normal, distance) for pose in poses])
    points = np.array([[5, 7], [32, 24], [50, 40], [20, 30]])
    tracks, visible, has_truth = reproject(points, depths, poses, INTRINSICS, tolerance=0.1)
    np.testing.assert_allclose(tracks[0], points, atol=1e-9)
    for number, pose in enumerate(poses):
        turn, place = pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3]  # from the first camera, which is the world's
        homography = INTRINSICS @ (turn + np.outer(place, normal) / distance) @ np.linalg.inv(INTRINSICS)
        expected = np.concatenate([points, np.ones((4, 1))], axis=1) @ homography.T
        expected = expected[:, :2] / expected[:, 2:]
        np.testing.assert_allclose(tracks[number], expected, atol=1e-9)
        inside = ((expected > -0.5) & (expected < (WIDTH - 0.5, HEIGHT - 0.5))).all(axis=1)
        np.testing.assert_array_equal(visible[number], inside)
    assert has_truth.all()


def test_a_point_is_hidden_by_nearer_or_unknown_depth():
    depths = np.full((4, HEIGHT, WIDTH), 2.0)
    depths[1, 10, 10] = 1.0  # something nearer
    depths[2, 10, 10] = 0.0  # unknown
    depths[3, 10, 10] = 2.04
    tracks, visible, has_truth = reproject(np.array([[10, 10]]), depths, np.stack([np.eye(4)] * 4), INTRINSICS)
    np.testing.assert_allclose(tracks[:, 0], np.full((4, 2), 10), atol=1e-9)
    np.testing.assert_array_equal(visible[:, 0], [True, False, False, True])
    np.testing.assert_array_equal(has_truth[:, 0], [True, True, False, True])
    assert not reproject(np.array([[10, 10]]), depths, np.stack([np.eye(4)] * 4), INTRINSICS, 0.03)[1][3, 0]


def test_points_behind_the_camera_or_out_of_the_picture_are_known_to_be_hidden():
    depths = np.full((3, HEIGHT, WIDTH), 2.0)
    poses = np.stack([np.eye(4), pose_of(np.eye(3), [0, 0, 3]), pose_of(np.eye(3), [9, 0, 0])])
    tracks, visible, has_truth = reproject(np.array([[10, 10]]), depths, poses, INTRINSICS)
    assert np.isnan(tracks[1, 0]).all()
    assert tracks[2, 0, 0] == pytest.approx(10 - 9 / 2 * 50)
    np.testing.assert_array_equal(visible[:, 0], [True, False, False])
    assert has_truth.all()


def test_registered_depth_equals_a_plane_rendered_in_the_other_camera():
    normal, distance = np.array([0.05, 0.1, 1.0]), 2.0
    colour = np.array([[40.0, 0, 32], [0, 48.0, 24], [0, 0, 1]])
    to_colour = pose_of(rotation([0.2, 1, 0], 0.05), [-0.05, 0.01, 0.02])
    found = register_depth(depth_of_plane(np.eye(4), normal, distance), INTRINSICS, colour, to_colour)
    expected = depth_of_plane(np.linalg.inv(to_colour), normal, distance, colour)
    has_depth = found > 0
    assert has_depth.mean() > 0.6
    assert np.abs(found - expected)[has_depth].max() < 0.01  # a depth pixel is up to half a pixel from the middle
    unknown = np.zeros((HEIGHT, WIDTH))
    assert not register_depth(unknown, INTRINSICS, colour, to_colour).any()


def test_the_nearest_surface_is_registered():
    depth = np.full((HEIGHT, WIDTH), 4.0)
    depth[:, 32:] = 1.0
    to_colour = pose_of(np.eye(3), [-0.22, 0, 0])  # near pixels move by 11 to the left, far ones by 2.75
    found = register_depth(depth, INTRINSICS, INTRINSICS, to_colour)
    np.testing.assert_array_equal(found[5, 21:53], np.full(32, 1.0))
    np.testing.assert_array_equal(found[5, :21], np.full(21, 4.0))


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ([64, 3], "points: expected pixels of a picture of 64 x 48, found 64, 3"),
        ([3, -1], "points: expected pixels of a picture of 64 x 48, found 3, -1"),
        ([3, 4], "points: expected pixels with known depth, found 3, 4 without"),
    ],
)
def test_points_without_depth_are_refused(point, message):
    depths = np.ones((2, HEIGHT, WIDTH))
    depths[0, 4, 3] = 0
    with pytest.raises(ValueError, match=message):
        reproject(np.array([point]), depths, np.stack([np.eye(4)] * 2), INTRINSICS)
