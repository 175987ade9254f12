# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Test sets of action recognition, read from the list files of published results, which are not part of the package.

source | format
--- | ---
X-CLIP, ViFi-CLIP, BIKE, Open-VCLIP, FROSTER | `path label_number` or `path,label_number`; class names in another file
UCF101, `testlist01.txt` | `ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi`; in train lists followed by a number
HMDB51, `*_test_split1.txt`, one file per class | `clip.avi 2`: 1 is training, 2 is test, 0 neither
Kinetics, CSV | columns label, youtube_id, time_start, time_end
Something-Something V2, JSON | objects with id and template
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_sen.text_tables import csv_columns, read_csv, read_text
from modeling_sen.training.data import VIDEO_SUFFIXES, LabelledClips, open_clips

# SHA-1 of public list files -> description; computed from ViFi-CLIP@e2d1948 and Open-VCLIP@047a817.
KNOWN_LISTS = {
    "cfb3aae0b3982f7cbf1dc2868a0f24c2adf25ca9": "ViFi-CLIP HMDB51 val1",
    "aa03d518e26d710c6cd8d0abbebecb6c1e2aaa27": "ViFi-CLIP HMDB51 val2",
    "0e6764f8fb1c6c4f22cca7a976bcffd776472664": "ViFi-CLIP HMDB51 val3",
    "af89f73172c5220f9e3f8a6c5c99a7d6b80f26fc": "ViFi-CLIP UCF101 val1",
    "266a382573a6c160a241d871d126b47b0e65cda2": "ViFi-CLIP UCF101 val2",
    "df056b91750be53867837d24e7645f0f6bc2f0ee": "ViFi-CLIP UCF101 val3",
    "5b9abc2a796ecb3523e4257ac35752906af55d0d": "ViFi-CLIP K400 val",
    "054773798c073d7a8a5405e836c1e0d04b1c59c7": "ViFi-CLIP SSv2 validation",
    "8c43b740d8235d836a9f2793e6f7cdcc6ed0b369": "ViFi-CLIP K600 zero-shot split 1 (14,083 clips)",
    "96e0a7d4ef267457247a033e696d3917bd2a4331": "ViFi-CLIP K600 zero-shot split 2 (13,977 clips)",
    "c604f7c028f3d17906c6d9f252c01d696a89b9f5": "ViFi-CLIP K600 zero-shot split 3 (14,135 clips)",
    "0885debf57f0f2360fd5d8acf2da53415b66b66a": "Open-VCLIP HMDB51 split 1",
    "e5eaa26c5267fe37bcc7eab7ffb39a2f5a599607": "Open-VCLIP HMDB51 split 2",
    "8f4a7a6cbe9315c69c733a1441f2bb92142e7fc3": "Open-VCLIP HMDB51 split 3",
    "28c738dc99c1ea68a090461135730c188ae48a5e": "Open-VCLIP UCF101 split 1",
    "ad4ae08da2b2cf5c15825269cced9ece8c90df9d": "Open-VCLIP UCF101 split 2",
    "8910b6861c6a499f2e25756799bb7e75fe1ca2ef": "Open-VCLIP UCF101 split 3",
    "befc688144fdf2609d9c80a44e60cddcdc37c094": "Open-VCLIP K600 zero-shot split 1 (7,276 clips)",
    "a6490ceea2ab6f0b025dc58fa0a842745392963b": "Open-VCLIP K600 zero-shot split 2 (7,226 clips)",
    "75ab9e389b927c8c9e6aa712fbb2f4083981d75a": "Open-VCLIP K600 zero-shot split 3 (7,261 clips)",
    "1ee5175381381f04db576e70b1d6fd8b54555c68": "X-CLIP and ViFi-CLIP HMDB51 class names",
    "60e6336dad59f6f894698e03f45bf9edb47836bf": "X-CLIP and ViFi-CLIP UCF101 class names",
    "68bf36187cb141e285b58484b560c0a08ec8a7fc": "X-CLIP and ViFi-CLIP K400 class names",
    "9bd0bdfbc609e2017bf0d86f459f992784eefa7f": "X-CLIP and ViFi-CLIP K600 class names",
    "925c4134b88cafce8ae9458ea8d3e8c5f927c71f": "ViFi-CLIP SSv2 class names",
    "1fd222f1422cdfef404174008f998774fecc5b19": "K600 zero-shot split 1 class names",
    "cb81bc75cf9a08b7bca4677daaa65932fe7293ab": "K600 zero-shot split 2 class names",
    "cb1cf7f1649d83bd0a4eb9cfe2820399f6cda77f": "K600 zero-shot split 3 class names",
    "3140f6b56ab0e5d2c44086f7f72f0046ea824cf6": "Open-VCLIP HMDB51 class names",
    "04f3b4d63a29b1a8c2fb22e284f8eba620e66e29": "Open-VCLIP UCF101 class names",
}


@dataclass(frozen=True)
class TestSet:
    """Labelled clips and all class names.

    Attributes:
        clips: the clips, whose targets are class names.
        class_names: all classes, including those without clips; labels are indices into it.
        listed: sources: `file`, `sha1`, `known_as` of the list and the class names; `id`, `revision` of Hub data.
        missing: number of listed clips whose file does not exist.
    """

    clips: LabelledClips
    class_names: tuple[str, ...]
    listed: tuple[dict[str, str | None], ...]
    missing: int = 0

    __test__ = False  # pytest must not collect it

    @property
    def labels(self) -> list[int]:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return [numbers[name] for name in self.clips.targets]


def take_clips(clips: LabelledClips, rows: Sequence[int]) -> LabelledClips:
    """The clips of a data set in the given rows."""
    return LabelledClips(
        clips.source,
        [clips.targets[row] for row in rows],
        [clips.keys[row] for row in rows],
        lambda row: clips.read(rows[row]),
    )


def read_class_names(path: Path) -> list[str]:
    """Class names by number, from a CSV file with the columns id and name, or JSON `{"0": name}` or `{name: "0"}`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, numbers other than 0, 1, 2, ..., or missing or duplicate names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of class names")
    text = read_text(path, "class names")
    rows = [] if path.suffix == ".json" else read_csv(path, text)[1]
    try:
        if path.suffix == ".json":
            items = json.loads(text).items()
            pairs = [(key, value) if str(key).isdecimal() else (value, key) for key, value in items]
        else:
            pairs = [(row["id"], row["name"]) for row in rows]
        names = {int(number): "" if name is None else str(name).strip() for number, name in pairs}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected a csv with the columns id and name, or json of number and name") from error
    if not names or sorted(names) != list(range(len(pairs))):
        raise ValueError(f"{path}: expected the class numbers 0, 1, 2, ..., found {len(names)} of {len(pairs)} lines")
    if "" in names.values():
        raise ValueError(f"{path}: expected a name for each class, found classes without one")
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path}: expected a different name for each class, found duplicates")
    return [names[number] for number in range(len(names))]


def open_test_sets(
    sources: Sequence[str],
    root: Path | None = None,
    class_names: Sequence[Path] = (),
    split: str = "test",
    skip_missing: bool = False,
    column: str | None = None,
) -> list[TestSet]:
    """Opens test sets: list files if `root` is given; else folders, tables, the world, or Hub ids.

    Args:
        sources: the sources. For HMDB51's lists, their folder, which gives all three splits; a Hub id may end in `@COMMIT`.
        root: folder of the clips in list files.
        class_names: no file of class names, one for all sources, or one for each source.
        split: split of a folder or Hub data set.
        skip_missing: as for `open_test_list`.
        column: label column of a table or the world; default: the first usual name.

    Raises:
        ValueError, FileNotFoundError: as for the functions for each kind of source, or if the number of files of class names
            does not fit.
    """
    if len(class_names) not in (0, 1, len(sources)):
        raise ValueError(f"expected one file of class names or {len(sources)}, found {len(class_names)}")
    found: list[TestSet] = []
    for number, source in enumerate(sources):
        names = class_names[number % len(class_names)] if class_names else None
        if root is not None and Path(source).is_dir():
            found += [open_test_list(Path(source), root, names, part, skip_missing) for part in (1, 2, 3)]
        elif root is not None:
            found.append(open_test_list(Path(source), root, names, skip_missing=skip_missing))
        elif not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@\w+)?", source):
            hub_id, _, revision = source.partition("@")
            found.append(open_hub_test_set(hub_id, revision or None, split))
        else:
            found.append(open_labelled_clips(source, split, names, column))
    return found


def open_test_list(
    path: Path, root: Path, class_names: Path | None = None, split: int = 1, skip_missing: bool = False
) -> TestSet:
    """Opens a list file, or the folder of HMDB51's lists, and finds its clips.

    Args:
        path: the list file or folder.
        root: folder to which the list's paths are relative; a clip may also be in a folder of its class there.
        class_names: file of class names, see `read_class_names`; needed if the list only has numbers. Default: the sorted
            names in the list.
        split: number of HMDB51's split.
        skip_missing: whether to leave out and count clips whose file does not exist, as for videos removed from Kinetics.

    Raises:
        FileNotFoundError: no such file or folder, or clips are missing.
        ValueError: an unsupported format, a class without a name, or no clips.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such list of clips")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of clips")
    names = None if class_names is None else read_class_names(class_names)
    rows = _read_hmdb_lists(path, split) if path.is_dir() else _read_list(path, names)
    all_names = sorted({name for _, name in rows}) if names is None else names
    if unknown := sorted({name for _, name in rows} - set(all_names)):
        raise ValueError(f"{path}: class {unknown[0]!r} is not among the {len(all_names)} of {class_names}")
    find = _finder(root)
    found = [(find(clip, name), name) for clip, name in rows]
    missing = [clip for (clip, _), (file, _) in zip(rows, found, strict=True) if file is None]
    if missing and (not skip_missing or len(missing) == len(rows)):
        raise FileNotFoundError(f"{path}: {len(missing)} of {len(rows)} clips are not in {root}, first {missing[0]!r}")
    files = [str(file) for file, _ in found if file is not None]
    statuses = [Path(file).stat() for file in files]
    clips = LabelledClips(
        source=str(path),
        targets=[name for file, name in found if file is not None],
        keys=[f"{file}:{status.st_mtime_ns}:{status.st_size}" for file, status in zip(files, statuses, strict=True)],
        read=files.__getitem__,
    )
    sources = [path] if class_names is None else [path, class_names]
    return TestSet(clips, tuple(all_names), tuple(map(_listed, sources)), len(missing))


def open_hub_test_set(hub_id: str, revision: str | None = None, split: str = "test") -> TestSet:
    """Opens a Hub data set with a video column and a label column of named classes.

    Raises:
        ImportError: `datasets` is not installed.
        FileNotFoundError: no such data set.
        ValueError: no such split, or no named classes.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data sets need the extra `train`: pip install 'modeling-sen[train]'") from error
    try:
        data: Any = datasets.load_dataset(hub_id, split=split, revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"{hub_id}: no such data set on the Hub, or no connection to it ({error})") from error
    named = [name for name, feature in data.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(named) != 1 or "video" not in data.features:
        raise ValueError(
            f"{hub_id}: expected a column video and one of named classes, found {', '.join(data.features)}"
        )
    names = data.features[named[0]].names
    if isinstance(data.features["video"], datasets.Video):
        data = data.cast_column("video", datasets.Video(decode=False))
    videos = data.select_columns(["video"])
    keys = [f"{hub_id}@{revision}:{data._fingerprint}:{row}" for row in range(len(data))]
    # "brush_hair" becomes "brush hair", as in mteb.
    words = tuple(name.replace("_", " ") for name in names)
    targets = [words[number] for number in data[named[0]]]
    clips = LabelledClips(hub_id, targets, keys, lambda row: {"video": videos[row]["video"]})
    return TestSet(clips, words, ({"id": hub_id, "revision": revision},))


def open_labelled_clips(
    source: str, split: str = "test", class_names: Path | None = None, column: str | None = None
) -> TestSet:
    """Opens a folder of class folders, a table with a label column, or the generated world; see `open_clips`.

    Raises:
        ValueError, FileNotFoundError: as for `open_clips` and `read_class_names`, or a label that is not a class name.
    """
    clips = open_clips(source, "label", split, target_column=column)
    names = sorted(set(clips.targets)) if class_names is None else read_class_names(class_names)
    if unknown := sorted(set(clips.targets) - set(names)):
        raise ValueError(f"{source}: label {unknown[0]!r} is not among the {len(names)} of {class_names}")
    files = [file for file in (Path(source), class_names) if file is not None and file.is_file()]
    listed = [_listed(file) for file in files] if files else [{"file": source, "sha1": None, "known_as": None}]
    return TestSet(clips, tuple(names), tuple(listed))


def _read_list(path: Path, names: Sequence[str] | None) -> list[tuple[str, str]]:
    """(path or name of the clip, class name) of each line."""
    text = read_text(path, "a list")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix == ".json":
        return _read_something_something(path, text)
    if not lines:
        raise ValueError(f"{path}: expected one clip per line, found none")
    if path.suffix == ".csv" and {"label", "youtube_id", "time_start", "time_end"} <= set(csv_columns(text)):
        return [_kinetics_clip(path, row) for row in read_csv(path, text)[1]]
    return [_split_line(path, number, line, names) for number, line in enumerate(lines, 1)]


def _split_line(path: Path, number: int, line: str, names: Sequence[str] | None) -> tuple[str, str]:
    match = re.fullmatch(r"(.+?)(?:[\s,]+(\d+))?", line)
    clip, label = match.groups() if match else (line, None)
    folder = Path(clip).parent.name
    if label is None or (folder if names is None else folder in names):
        if Path(clip).suffix.lower() not in VIDEO_SUFFIXES or not folder:
            raise ValueError(
                f"{path}, line {number}: expected a clip and its class number, or CLASS/clip; found {line!r}"
            )
        return clip, folder
    if names is None:
        raise ValueError(f"{path}: its classes are numbers; the file with their names is needed (--class-names)")
    if int(label) >= len(names):
        raise ValueError(f"{path}, line {number}: class {label}, expected one of 0..{len(names) - 1}")
    return clip, names[int(label)]


def _read_hmdb_lists(folder: Path, split: int) -> list[tuple[str, str]]:
    files = sorted(folder.glob(f"*_test_split{split}.txt"))
    if not files:
        raise FileNotFoundError(f"{folder}: no lists *_test_split{split}.txt of HMDB51 in it")
    rows = []
    for file in files:
        name = file.name.removesuffix(f"_test_split{split}.txt").replace("_", " ")
        for line in read_text(file, "a list").splitlines():
            clip, _, use = line.strip().rpartition(" ")
            if use == "2":
                rows.append((clip.strip(), name))
    if not rows:
        raise ValueError(f"{folder}: expected test clips (lines that end in 2) in *_test_split{split}.txt, found none")
    return rows


def _read_something_something(path: Path, text: str) -> list[tuple[str, str]]:
    try:
        return [(f"{row['id']}.webm", row["template"].translate({91: None, 93: None})) for row in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: expected a json list of objects with id and template ({error})") from error


def _kinetics_clip(path: Path, row: dict[str, str | None]) -> tuple[str, str]:
    try:
        start, end = int(row["time_start"] or ""), int(row["time_end"] or "")
    except ValueError as error:
        raise ValueError(
            f"{path}: expected whole seconds, found {row['time_start']!r}, {row['time_end']!r}"
        ) from error
    if not row["youtube_id"] or not row["label"]:
        raise ValueError(
            f"{path}: expected a clip's youtube_id and label, found {row['youtube_id']!r}, {row['label']!r}"
        )
    return f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4", row["label"].strip()


def _finder(root: Path) -> Callable[[str, str], Path | None]:
    """A function that finds a clip's file, at its path or in a folder of its class."""

    def find(clip: str, name: str) -> Path | None:
        paths = (root / clip, root / name / clip, root / name.replace(" ", "_") / clip)
        return next((path for path in paths if path.is_file()), None)

    return find


def _listed(path: Path) -> dict[str, str | None]:
    files = sorted(path.glob("*_test_split*.txt")) if path.is_dir() else [path]
    digest = hashlib.sha1(b"".join(file.read_bytes() for file in files)).hexdigest()
    return {"file": str(path), "sha1": digest, "known_as": KNOWN_LISTS.get(digest)}
