"""Sets of edited videos: tables, submissions to LOVEU-TGVE-2023, exact edits of the world, and what is wrong with them."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

pytest.importorskip("cv2")

from modeling_sen.evaluation.clip_results import ClipResults, nan_to_null
from modeling_sen.evaluation.editing_alignment import ImageTextEncoder
from modeling_sen.evaluation.editing_loveu import KINDS, read_edit_config, read_loveu
from modeling_sen.evaluation.editing_metrics import NUMBERS, editing_metrics
from modeling_sen.evaluation.editing_sets import open_editing_set
from modeling_sen.evaluation.measure_editing import measure_editing
from modeling_sen.world import make_scene, render


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_frames(folder, frames, suffix="png"):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.{suffix}")


def write_table(folder, *rows, name="edits.jsonl"):
    row = {"source": "source", "edited": "edited", "source_prompt": "a cat", "edit_prompt": "a dog"}
    (folder / name).write_text("".join(json.dumps(row | more) + "\n" for more in rows))


@pytest.fixture
def folder(tmp_path):
    """Two frames of 12 x 14 pixels and an edit of them."""
    write_frames(tmp_path / "source", noise(2, 12, 14, 3))
    write_frames(tmp_path / "edited", noise(2, 12, 14, 3, seed=1))
    return tmp_path


def test_a_folder_with_a_table_is_read(folder):
    mask = np.zeros((12, 14), dtype=np.uint8)
    mask[3, 4] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    write_table(folder, {"mask": "mask.png", "kind": "object"}, {"edit_prompt": " a pig "})
    found = open_editing_set(str(folder))
    assert list(found.kinds) == ["object", ""]
    assert len(set(found.keys)) == 2
    first, second = found.read(0), found.read(1)
    np.testing.assert_array_equal(first.source, noise(2, 12, 14, 3))
    np.testing.assert_array_equal(first.edited, noise(2, 12, 14, 3, seed=1))
    assert (first.source_prompt, first.edit_prompt, second.edit_prompt) == ("a cat", "a dog", "a pig")
    assert np.argwhere(first.mask).tolist() == [[0, 3, 4], [1, 3, 4]]
    assert second.mask is None
    assert open_editing_set(str(folder / "edits.jsonl")).keys == found.keys
    keys = [open_editing_set(str(folder), num=1, seed=seed).keys for seed in range(8)]
    assert {len(some) for some in keys} == {1}
    assert {some[0] for some in keys} == set(found.keys)


def test_masks_are_folders_of_objects_numbers_or_colours(folder):
    palette = Image.new("P", (14, 12))
    palette.putpalette([0, 0, 0, 0, 0, 0, 9, 9, 9])
    palette.putpixel((5, 2), 1)  # as black as the background, another object all the same
    (folder / "masks").mkdir()
    palette.save(folder / "masks" / "0.png")
    coloured = np.zeros((12, 14, 3), dtype=np.uint8)
    coloured[1, 1] = (0, 0, 7)
    Image.fromarray(coloured).save(folder / "masks" / "1.png")
    write_table(folder, {"mask": "masks"})
    assert np.argwhere(open_editing_set(str(folder)).read(0).mask).tolist() == [[0, 2, 5], [1, 1, 1]]


def test_a_changed_file_is_another_edit(folder):
    write_table(folder, {})
    before = open_editing_set(str(folder)).keys
    Image.fromarray(noise(12, 14, 3, seed=5)).save(folder / "edited" / "00001.png")
    assert open_editing_set(str(folder)).keys != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"edited": None}, r"row 0, column 'edited': expected text, found None"),
        ({"edit_prompt": " "}, r"row 0, column 'edit_prompt': expected text, found ' '"),
        ({"edited": "nowhere"}, r"row 0, column 'edited': no such file or folder .*nowhere"),
        ({"mask": "nowhere.png"}, r"row 0, column 'mask': no such file or folder .*nowhere"),
    ],
)
def test_a_cell_that_is_wrong_is_named(folder, row, message):
    write_table(folder, row)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_editing_set(str(folder))


def test_other_sources_are_refused(folder):
    with pytest.raises(FileNotFoundError, match=r"expected a table of edits, a folder with edits\.csv"):
        open_editing_set(str(folder))
    (folder / "edits.csv").write_text("source,edited,edit_prompt\nsource,edited,a dog\n")
    with pytest.raises(ValueError, match="no column 'source_prompt', only source, edited, edit_prompt"):
        open_editing_set(str(folder))
    (folder / "edits.csv").write_text("source,edited,source_prompt,edit_prompt\n")
    with pytest.raises(ValueError, match="expected at least one row, found none"):
        open_editing_set(str(folder))


def test_videos_that_do_not_fit_are_refused_when_they_are_read(folder):
    write_frames(folder / "short", noise(1, 12, 14, 3))
    write_frames(folder / "uneven", noise(1, 12, 14, 3))
    Image.fromarray(noise(12, 15, 3)).save(folder / "uneven" / "00001.png")
    (folder / "empty").mkdir()
    Image.new("L", (12, 14)).save(folder / "turned.png")
    write_table(folder, {"edited": "short"}, {"edited": "uneven"}, {"mask": "turned.png"})
    found = open_editing_set(str(folder))
    for row, message in enumerate(
        (
            r"row 0: edited: expected frames like those of the source, .*\(2, 12, 14\), found \(1, 12, 14\)",
            r"00001.png: expected an image of \(H, W\) \(12, 14\), found \(12, 15\)",
            r"turned.png: expected 2 frames of \(H, W\) \(12, 14\), found 2 of \(14, 12\)",
        )
    ):
        with pytest.raises(ValueError, match=message):
            found.read(row)
    write_table(folder, {"edited": "empty"})
    with pytest.raises(ValueError, match=r"expected images ending in \.jpg, \.jpeg, \.png, found none"):
        open_editing_set(str(folder))


# --- LOVEU-TGVE-2023 ---------------------------------------------------------------------------------------------------


def write_config(file, **changes):
    """As the files of the repository are, with fewer settings."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "pretrained_model_path": "./checkpoints/stable-diffusion-v1-4",
        "train_data": {
            "video_path": f"./data/loveu-tgve-2023/{file.parent.name}/480p_frames/{file.stem}",
            "prompt": "Several goldfish swim in a tank.",
            "num_frames": 32,
        },
        "validation_data": {"prompts": {kind: f"fish, {kind}" for kind in KINDS}, "guidance_scale": 12.5},
    }
    file.write_text(yaml.safe_dump(content | changes))


@pytest.fixture
def loveu(tmp_path):
    write_config(tmp_path / "configs" / "DAVIS_480p" / "gold-fish.yaml")
    write_frames(tmp_path / "data" / "DAVIS_480p" / "480p_frames" / "gold-fish", noise(2, 480, 480, 3), "jpg")
    for number, kind in enumerate(KINDS):
        frames = noise(2, 32, 48, 3, seed=number)
        write_frames(tmp_path / "submission" / "DAVIS_480p" / "gold-fish" / kind, frames, "jpg")
    return tmp_path


def test_a_submission_to_loveu_is_read(loveu):
    source = f"loveu:{loveu / 'submission'}?configs={loveu / 'configs'}&data={loveu / 'data'}"
    found = open_editing_set(source)
    assert list(found.kinds) == ["style", "object", "background", "multiple"]
    assert len(set(found.keys)) == 4
    video = found.read(2)
    assert (video.source_prompt, video.edit_prompt) == ("Several goldfish swim in a tank.", "fish, background")
    assert video.source.shape == video.edited.shape == (2, 480, 480, 3)
    with Image.open(loveu / "submission" / "DAVIS_480p" / "gold-fish" / "background" / "00001.jpg") as image:
        np.testing.assert_array_equal(video.edited[1], np.asarray(image.resize((480, 480))))
    assert video.mask is None


def test_missing_parts_of_a_submission_are_named(loveu):
    folders = (loveu / "configs", loveu / "submission", loveu / "data")
    with pytest.raises(FileNotFoundError, match=r"gold-fish.yaml: no folder .*nowhere"):
        read_loveu(folders[0], "nowhere", folders[2])
    with pytest.raises(FileNotFoundError, match=r"expected SET/VIDEO.yaml, found none"):
        read_loveu(loveu, *folders[1:])
    with pytest.raises(ValueError, match=r"expected loveu:SUBMISSION\?configs=FOLDER&data=FOLDER"):
        open_editing_set("loveu:somewhere?configs=here")
    write_config(loveu / "configs" / "DAVIS_480p" / "gold-fish.yaml", validation_data={"prompts": ["a", "b"]})
    with pytest.raises(ValueError, match="expected style, object, background, multiple, found no style"):
        read_loveu(*folders)


def test_configurations_of_tune_a_video_are_read_too(tmp_path):
    file = tmp_path / "data" / "man-skiing.yaml"
    write_config(file, validation_data={"prompts": ["mickey mouse is skiing", "spider man is skiing "]})
    config = read_edit_config(file)
    assert config.edit_prompts == {"0": "mickey mouse is skiing", "1": "spider man is skiing"}
    assert config.video_path == "./data/loveu-tgve-2023/data/480p_frames/man-skiing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "expected a YAML file"),
        ("- 1", "expected validation_data.prompts, found none"),
        ("validation_data: {prompts: {}}", "validation_data.prompts: expected prompts by kind or a list of them"),
        ("validation_data: {prompts: [a]}\ntrain_data: {prompt: b}", "expected train_data.video_path, found none"),
        (
            "validation_data: {prompts: [3]}\ntrain_data: {prompt: b, video_path: c}",
            "validation_data.prompts.0: expected text, found 3",
        ),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(tmp_path, content, message):
    (tmp_path / "one.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"one.yaml.*{message}"):
        read_edit_config(tmp_path / "one.yaml")


# --- the world and measuring -------------------------------------------------------------------------------------------


def test_exact_edits_of_the_world(tmp_path):
    found = open_editing_set("world:test?num=2&num_frames=3&num_objects=1")
    assert list(found.kinds) == ["colour", "shape", "background"] * 2
    video = found.read(3)
    np.testing.assert_array_equal(video.source, render(make_scene("test", 0, 1, num_frames=3, num_objects=1)).frames)
    np.testing.assert_array_equal(video.mask, (video.source != video.edited).any(-1))
    assert video.source_prompt != video.edit_prompt


def still(frames, queries):
    tracks = np.tile(queries[:, 1:], (len(frames), 1, 1))
    return type("Tracks", (), {"tracks": tracks, "visibility": np.ones(tracks.shape[:2], dtype=bool)})


def test_an_interrupted_measurement_resumes(folder):
    encoded = []

    def encode(images, texts):
        encoded.append(list(texts))
        return images.mean((1, 2)), [[len(text), 1, ord(text[-1]) - 96] for text in texts]

    encoder = ImageTextEncoder("toy", encode)
    write_table(folder, {"kind": "object"}, {"kind": "style", "edit_prompt": "a cat, comic"})
    results = ClipResults(folder / "results.json")
    sets = [open_editing_set(str(folder))]
    found = measure_editing(encoder, still, sets, results)
    assert len(encoded) == 2
    rows = [
        editing_metrics(video.source, video.edited, video.source_prompt, video.edit_prompt, encoder, still)
        for video in map(sets[0].read, (0, 1))
    ]
    (part,) = found["splits"]
    assert (part["source"], part["clips"], found["encoder"]) == (str(folder), 2, "toy")
    for name in NUMBERS:
        assert part[name] == pytest.approx(np.mean([row[name] for row in rows])), name
        assert part["by_kind"]["style"][name] == pytest.approx(rows[1][name])
    spread = abs(rows[0]["loveu_text_alignment"] - rows[1]["loveu_text_alignment"]) / 2
    assert part["standard_errors"]["loveu_text_alignment"] == pytest.approx(spread)
    encoded.clear()
    again = measure_editing(encoder, still, sets, ClipResults(folder / "results.json"))
    assert nan_to_null(again) == nan_to_null(found)
    assert encoded == []
    with pytest.raises(ValueError, match="sets: expected at least one, found none"):
        measure_editing(encoder, still, [], results)
