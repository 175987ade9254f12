"""Clips with texts or labels, for training and evaluation: from the Hub, a folder, a table, or the generated world.

Opening a data set only reads file names, texts and labels; clips are decoded later, by the processor.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from modeling_sen.text_tables import read_csv, read_text

if TYPE_CHECKING:
    from modeling_sen.world.dataset import WorldClips

VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
)
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
# Usual names of columns, by priority.
VIDEO_COLUMNS = ("video", "path", "file_name", "video_path")
TARGET_COLUMNS = {"text": ("text", "caption", "sentence"), "label": ("label", "class", "category")}
# Columns of the world: `text` describes the whole clip, `label` the sounding object or the only object.
WORLD_COLUMNS = {"text": ("caption", "attribute_caption"), "label": ("description", "colour", "shape", "motion")}
WORLD_CLIPS = 1000


@dataclass(frozen=True)
class LabelledClips:
    """A data set of clips.

    Attributes:
        source: name in error messages.
        targets: text or label of each clip.
        keys: identifier of each clip, e.g. for a cache; it changes when a file changes.
        read: row -> the clip, an input of [`SENProcessor`].
    """

    source: str
    targets: Sequence[str]
    keys: Sequence[str]
    read: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.targets)


def open_clips(
    source: str,
    target: str,
    split: str = "train",
    video_column: str | None = None,
    target_column: str | None = None,
) -> LabelledClips:
    """Opens a data set.

    Args:
        source: a folder (with a folder of videos per class, with `metadata.jsonl`, `.csv` or `.parquet`, or saved by
            `datasets`), a table (CSV, JSONL or Parquet; paths are relative to it), the generated world
            (`world:SPLIT?num=1000&num_objects=1&seed=0&hops=2&size=64`), or the id of a data set on the Hub.
        target: "text" or "label".
        split: split of a Hub data set, or name of a sub-folder, if it exists.
        video_column, target_column: names of columns; default: the first usual name.

    Raises:
        FileNotFoundError: no such source, or a listed file does not exist.
        ValueError: no such column, a cell without text, or no rows; the message names file, row and column.
        ImportError: a data set of `datasets` or a Parquet file without the extra `train`.
    """
    if target not in TARGET_COLUMNS:
        raise ValueError(f"target is {target!r}, expected 'text' or 'label'")
    if source.startswith("world:"):
        return _open_world(source, target, target_column)
    path = Path(source)
    if path.is_file():
        return _open_table(path, target, video_column, target_column)
    if path.is_dir():
        if is_saved_dataset(path):
            return _open_dataset(source, target, split, video_column, target_column, saved=True)
        folder = path / split if (path / split).is_dir() else path
        for name in (f"metadata{suffix}" for suffix in TABLE_SUFFIXES):
            if (folder / name).exists():
                return _open_table(folder / name, target, video_column, target_column)
        return _open_class_folders(folder)
    if path.suffix in TABLE_SUFFIXES or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise FileNotFoundError(f"{source}: no such file or folder")
    return _open_dataset(source, target, split, video_column, target_column, saved=False)


def _open_table(path: Path, target: str, video_column: str | None, target_column: str | None) -> LabelledClips:
    columns = read_table(path)
    if not any(columns.values()):
        raise ValueError(f"{path}: expected at least one row, found none")
    name = _column_name(path, columns, VIDEO_COLUMNS, video_column, "video")
    target_name = _column_name(path, columns, TARGET_COLUMNS[target], target_column, target)
    files, keys = [], []
    for row, video in enumerate(columns[name]):
        if not isinstance(video, str) or not video:
            raise ValueError(f"{path}, row {row}, column {name!r}: expected a path, found {video!r}")
        if video.startswith(("http://", "https://")):
            files.append(video)
            keys.append(video)
            continue
        file = path.parent / video
        if not file.is_file():
            raise FileNotFoundError(f"{path}, row {row}, column {name!r}: no such file {file}")
        files.append(str(file))
        keys.append(file_key(file))
    return LabelledClips(str(path), _checked_targets(path, target_name, columns[target_name]), keys, files.__getitem__)


def read_table(path: Path) -> dict[str, list[Any]]:
    """Column -> cells of a CSV, JSONL or Parquet table; missing cells are `None`.

    Raises:
        ValueError: another suffix, or content that does not fit the suffix.
        ImportError: a Parquet file without the extra `train`.
    """
    if path.suffix == ".parquet":
        try:
            from pyarrow import ArrowInvalid, parquet
        except ImportError as error:
            raise ImportError("parquet files need the extra `train`: pip install 'modeling-sen[train]'") from error
        try:
            return parquet.read_table(path).to_pydict()
        except ArrowInvalid as error:
            raise ValueError(f"{path}: expected a parquet file ({error})") from error
    if path.suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: expected a table that ends in {', '.join(TABLE_SUFFIXES)}")
    text = read_text(path, f"{path.suffix} rows")
    if path.suffix == ".csv":
        names, rows = read_csv(path, text)
    else:
        try:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected .jsonl rows ({error})") from error
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{path}: expected .jsonl rows that are objects")
        names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _open_class_folders(folder: Path) -> LabelledClips:
    files = sorted(
        file
        for class_folder in folder.iterdir()
        if class_folder.is_dir()
        for file in class_folder.rglob("*")
        if file.suffix.lower() in VIDEO_SUFFIXES
    )
    if not files:
        raise ValueError(
            f"{folder}: expected videos in a folder for each class, or metadata.jsonl, metadata.csv or metadata.parquet; "
            "found neither"
        )
    labels = [file.relative_to(folder).parts[0] for file in files]
    return LabelledClips(str(folder), labels, [file_key(file) for file in files], lambda row: str(files[row]))


def file_key(file: Path) -> str:
    """Key of a file and its content: path, modification time and size."""
    status = file.stat()
    return f"{file.resolve()}:{status.st_mtime_ns}:{status.st_size}"


def load_rows(source: str, split: str, saved: bool) -> Any:
    """One split of a data set, as a `datasets.Dataset` of at least one row.

    Args:
        source: a folder saved by `datasets`, or an id on the Hub.
        split: name of the split.
        saved: whether `source` is a folder.

    Raises:
        FileNotFoundError: no such data set.
        ValueError: no such split, or no rows.
        ImportError: without the extra `train`.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data sets need the extra `train`: pip install 'modeling-sen[train]'") from error
    try:
        data: Any = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, split=split)
    except (ConnectionError, FileNotFoundError) as error:  # the library's messages are long and omit the source
        raise FileNotFoundError(f"{source}: no such folder, table or data set on the Hub ({error})") from error
    except ValueError as error:  # e.g. no such split
        raise ValueError(f"{source}: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise ValueError(f"{source}: no split {split!r}, only {', '.join(data)}")
        data = data[split]
    if not len(data):
        raise ValueError(f"{source}: expected at least one row, found none")
    return data


def _open_dataset(
    source: str, target: str, split: str, video_column: str | None, target_column: str | None, saved: bool
) -> LabelledClips:
    data = load_rows(source, split, saved)
    import datasets

    video_name = _column_name(source, data.column_names, VIDEO_COLUMNS, video_column, "video")
    target_name = _column_name(source, data.column_names, TARGET_COLUMNS[target], target_column, target)
    keys = [f"{source}:{data._fingerprint}:{row}" for row in range(len(data))]
    feature = data.features[target_name]
    targets = data[target_name][:]
    if isinstance(feature, datasets.ClassLabel):
        targets = [None if value is None else feature.int2str(value) for value in targets]
    if isinstance(data.features[video_name], datasets.Video):
        # The processor decodes, and only the sampled frames.
        data = data.cast_column(video_name, datasets.Video(decode=False))
    videos = data.select_columns([video_name])
    return LabelledClips(
        source, _checked_targets(source, target_name, targets), keys, lambda row: {"video": videos[row][video_name]}
    )


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def world_clips(source: str) -> "WorldClips":
    """The clips of `world:SPLIT?num=1000&num_objects=1&seed=0&hops=2&size=64`.

    Raises:
        ValueError: an unknown setting, a value that is no number, or values rejected by [`WorldClips`].
    """
    from modeling_sen.world.dataset import WorldClips
    from modeling_sen.world.write import parse_objects

    split, _, query = source.removeprefix("world:").partition("?")
    options: dict[str, Any] = dict(parse_qsl(query))
    numbers = ("num", "seed", "hops", "size", "num_frames")
    if unknown := set(options) - {*numbers, "num_objects"}:
        raise ValueError(f"{source}: unknown {sorted(unknown)}, expected some of {', '.join(numbers)}, num_objects")
    for name in numbers:
        if name in options:
            if not options[name].isdecimal():
                raise ValueError(f"{source}: {name} is {options[name]!r}, expected a number")
            options[name] = int(options[name])
    options["num_objects"] = parse_objects(options.get("num_objects"))
    return WorldClips(split, options.pop("num", WORLD_CLIPS), options.pop("seed", 0), **options)


def _open_world(source: str, target: str, target_column: str | None) -> LabelledClips:
    from modeling_sen.world.truth import attribute_caption, caption
    from modeling_sen.world.vocabulary import MOTIONS, describe

    clips = world_clips(source)
    column = target_column or WORLD_COLUMNS[target][0]
    if column not in (columns := [*WORLD_COLUMNS["text"], *WORLD_COLUMNS["label"]]):
        raise ValueError(f"{source}: no column {column!r}, only {', '.join(columns)}")

    def target_of(row: int) -> str:
        scene = clips.scene(row)
        if column in WORLD_COLUMNS["text"]:
            return caption(scene) if column == "caption" else attribute_caption(scene)
        sprite = scene.sounding_sprite or scene.sprites[0]
        if scene.sounding_sprite is None and len(scene.sprites) > 1:
            raise ValueError(
                f"{source}, clip {row}: {column!r} describes the only or the sounding object, found {len(scene.sprites)} "
                "silent ones; add num_objects=1 or hops=2"
            )
        described = {"description": describe(sprite), "motion": MOTIONS[sprite.motion]}
        return described.get(column) or getattr(sprite, column)

    keys = [f"{source}:{row}" for row in range(len(clips))]
    targets = [target_of(row) for row in range(len(clips))]
    return LabelledClips(source, targets, keys, lambda row: world_input(clips[row]))


def world_input(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A clip of the world as [`SENProcessor`] takes it: frames with their times, and sound."""
    return {
        "video": sample["frames"],
        "times": sample["times"],
        "audio": {"array": sample["audio"], "sampling_rate": sample["sampling_rate"]},
    }


def _column_name(source: Any, columns: Iterable[str], usual: Sequence[str], chosen: str | None, what: str) -> str:
    """The chosen column, or the first column with one of the usual names."""
    for name in usual if chosen is None else (chosen,):
        if name in columns:
            return name
    expected = repr(chosen) if chosen is not None else f"of the {what} ({', '.join(usual)})"
    raise ValueError(f"{source}: no column {expected}, only {', '.join(columns) or 'none at all'}")


def _checked_targets(source: Any, name: str, targets: Sequence[Any]) -> list[str]:
    for row, value in enumerate(targets):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{source}, row {row}, column {name!r}: expected text, found {value!r}")
    return [value.strip() for value in targets]
