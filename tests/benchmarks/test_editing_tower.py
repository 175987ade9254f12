"""The evaluation tower of editing: its labels are those of the scene, and what it reads goes by place and by words."""

import numpy as np
import pytest
import torch

from benchmarks import editing_tower
from benchmarks.editing_tower import PAIRS, EditingTower, draw_batch, load_tower, main
from modeling_sen.world import BACKGROUNDS, COLOURS, SHAPES, make_scene, render


def test_labels_are_those_of_the_scene():
    frames, sprites, colours, shapes, backgrounds = draw_batch(2)
    assert frames.shape == (editing_tower.BATCH, 64, 64, 3)
    index = 2 * editing_tower.BATCH + 5
    scene = make_scene("train", editing_tower.SEED, index)
    clip = render(scene, [index % 16])
    np.testing.assert_array_equal(frames[5], clip.frames[0])
    assert BACKGROUNDS[backgrounds[5]] == scene.background.kind
    assert sprites[5].any()
    for y, x in np.ndindex(16, 16):
        label = clip.masks[0, 4 * y, 4 * x]
        assert sprites[5, y, x] == (label > 0)
        if label:
            sprite = scene.sprites[label - 1]
            assert (list(COLOURS)[colours[5, y, x]], SHAPES[shapes[5, y, x]]) == (sprite.colour, sprite.shape)


@pytest.fixture
def tower(monkeypatch):
    """A tower that sees a blue star in the cell of y 8, x 4 (pixels), and a striped background, in each frame."""
    tower = EditingTower()

    def forward(frames):
        there = torch.full((len(frames), 1, 16, 16), -20.0)
        colour, shape = torch.zeros((2, len(frames), 8, 16, 16))
        there[:, 0, 2, 1] = 20
        colour[:, list(COLOURS).index("blue"), 2, 1] = shape[:, SHAPES.index("star"), 2, 1] = 20
        background = torch.nn.functional.one_hot(torch.tensor([BACKGROUNDS.index("striped")] * len(frames)), 4) * 20.0
        return there, colour, shape, background

    monkeypatch.setattr(tower, "forward", forward)
    return tower


def test_sprites_are_read_at_their_centres(tower):
    frames = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    found = tower.read_sprites(frames, np.array([[4.9, 7.2], [40, 8]]))  # x, y
    assert (found["colour"][0], found["shape"][0]) == ("blue", "star")
    assert (found["colour"][1], found["shape"][1]) == (next(iter(COLOURS)), SHAPES[0])
    assert tower.read_backgrounds(frames) == ["striped"] * 2


def test_frames_and_texts_meet_where_they_name_the_same(tower):
    frames = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    texts = ["a blue star moving left and a red ring over a striped background", "a red circle bouncing"]
    images, words = tower.encode(frames, texts)
    striped = len(PAIRS) + BACKGROUNDS.index("striped")
    assert np.flatnonzero(words[0]).tolist() == [PAIRS.index("red ring"), PAIRS.index("blue star"), striped]
    assert np.flatnonzero(words[1]).tolist() == [PAIRS.index("red circle")]
    np.testing.assert_allclose(images[0, [PAIRS.index("blue star"), striped]], 1, atol=1e-3)
    assert images.sum() == pytest.approx(2, abs=1e-2)


def test_the_script_trains_once_and_prints_a_row_for_each_kind(tmp_path, capsys):
    file = tmp_path / "tower.safetensors"
    main([str(file), "--steps", "3", "--num", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| exact", "| copy"))]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"{kind}, {attribute}" for kind in ("exact", "copy") for attribute in ("colour", "shape", "background")
    ]
    weights = load_tower(file).sprite.weight
    main([str(file), "--num", "1"])
    assert "step" not in capsys.readouterr().out
    assert torch.equal(load_tower(file).sprite.weight, weights)
