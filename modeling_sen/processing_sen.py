# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENProcessor: converts clips (video, sound, depth and other modalities) and texts to the inputs of all neurons.

Each file is opened once and each frame decoded once, for any number of neurons.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.utils import logging

from .clip_inputs import OpenedClip, as_depth, as_frames, listed_clips, naming_clip, opened_clip
from .clip_sound import sound_inputs
from .configuration_sen import NeuronSpec, SENConfig
from .depth_estimation import DepthEstimator
from .family_settings import load_feature_extractor
from .frame_sampling import FrameRequest
from .frame_transform import FrameTransform, hub_settings
from .hub_files import HubSource, commit_folder, naming_errors, naming_hub_errors
from .sentence_layout import tower_source
from .text_reader import TextReader
from .video_io import VideoFrames, opened_video
from .whole_file import replaced_folder

logger = logging.get_logger(__name__)

# Number of decoded frames of a clip's windows in memory at a time; at 4k they take 1.6 GB.
FRAMES_AT_ONCE = 64

# Modality of a neuron -> entry of the clip from which it gets frames.
_FRAME_SOURCES = {"image": "video", "video": "video", "depth": "depth", "thermal": "thermal"}


class SENProcessor(ProcessorMixin):
    """Prepares clips and texts for a [`SENModel`].

    Args:
        config: the SEN's configuration. Sizes, means and sampling rates come from the processors in the neurons' checkpoints;
            each neuron's `preprocessing` overrides them.
        source: the checkpoint that relative hub ids refer to, with the download options for the neurons' processors.
    """

    def __init__(self, config: SENConfig, source: HubSource | None = None):
        super().__init__()
        self.config, self.source = config, source
        self._fetch = {} if source is None else source.fetch
        self._specs = config.neuron_specs
        estimator = config.depth_estimator
        self._estimator = None if estimator is None else DepthEstimator(estimator, self._fetch)
        self._parts: dict[str, Any] = {}  # neuron -> transform, feature extractor or tokenizer, made when first used

    @property
    def commit(self) -> str | None:
        """The commit of the Hub repository that the processor was loaded from; `None` for other sources."""
        return None if self.source is None else self.source.commit

    # --- clips -------------------------------------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        videos: Any = None,
        text: str | Sequence[str] | None = None,
        num_views: int = 1,
        return_tensors: str = "pt",
        images: Any = None,
        padding: bool | str = True,
    ) -> BatchFeature:
        """
        Args:
            videos: one clip, a list of clips or a (clips, T, H, W, 3) uint8 array. A clip is anything `read_video` reads,
                or a dict with any of `video`, `image`, `audio`, `depth`, `thermal` (as for `read_video` or `read_audio`),
                `imu` (channels, samples), `text` (a string for text neurons) and `times` (seconds of array frames). Depth
                and thermal maps may also be (T, H, W) uint8; (H, W, 3) is one frame in colour. Depth is brighter for nearer
                points, or 16-bit in millimetres. Files may be `{"path", "bytes"}`, sound `{"array", "sampling_rate"}`.
            text: class texts.
            num_views: number of temporal views per clip; each is a row, and rows of one clip are adjacent.
            return_tensors: `"pt"` or `"np"`.
            images: one image, a list or an (images, H, W, 3) uint8 array, instead of videos; each is a clip of one frame.
            padding: `True` or `"longest"`: rows of a batch are always padded to the longest.

        Returns:
            `{neuron}_pixel_values` (rows, T, 3, H, W) float32; `{neuron}_input_features` float32, the output of the neuron's
            feature extractor, (rows, time, bins) or another shape, waveforms padded with zeros;
            `{neuron}_imu_values` (rows, channels, samples) float32;
            `{neuron}_input_ids` and `{neuron}_attention_mask` (rows, tokens or samples of sound) int64;
            `neuron_mask` (rows, neurons) bool; `frame_times` (rows, T) float64 seconds, of the neuron with the most frames,
            padded with NaN; `text_input_ids` and `text_attention_mask` (texts, tokens) int64; nothing
            for neurons without inputs in any clip.

        Raises:
            ValueError: no or bad arguments, an unknown modality, a clip without inputs for any neuron, frames of two sizes.
        """
        if videos is None and text is None and images is None:
            raise ValueError("SENProcessor: expected videos, images or text, found none")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt' or 'np'")
        if padding not in (True, "longest"):
            raise ValueError(f"padding is {padding!r}, expected True or 'longest'")
        data: dict[str, Any] = {}
        if not (videos is None and images is None):
            rows: list[dict[str, Any]] = []
            for number, clip in enumerate(clips := listed_clips(videos, images)):
                with naming_clip(number, len(clips)):
                    rows += self.read_clip(clip, num_views)
            data |= self.collate(rows)
        if text is not None:
            data |= self.tokenize(text)
        return BatchFeature(data if return_tensors == "pt" else {name: data[name].numpy() for name in data})

    def read_clip(
        self, clip: Any, num_views: int = 1, windows: Sequence[tuple[float, float]] | None = None
    ) -> list[dict[str, Any]]:
        """One clip's inputs: one dict per row, with neuron inputs without a batch dimension, and `frame_times` (T,).

        Args:
            clip: as for a call, with the same errors.
            num_views: number of rows; their frames interleave over the whole clip.
            windows: (start, end) seconds, one row each, instead of views. Each neuron gets frames and sound of the window.
        """
        with self.open_clip(clip) as opened:
            return self.read_views(opened, num_views) if windows is None else self.read_windows(opened, windows)

    @contextmanager
    def open_clip(self, clip: Any) -> Iterator[OpenedClip]:
        """Opens a clip for [`read_windows`], so that the caller can choose windows by its duration."""
        with ExitStack() as stack:
            entries = stack.enter_context(opened_clip(clip))
            sources, wanted = dict(_FRAME_SOURCES), {spec.modality for spec in self._specs}
            if self._estimator is not None and "depth" not in entries:
                sources["depth"] = "video"  # depth is estimated from the frames themselves
            videos = {
                source: stack.enter_context(opened_video(_frames_of(source, entries), entries.get("times")))
                for source in dict.fromkeys(sources.values())
                if source in entries and any(sources.get(modality) == source for modality in wanted)
            }
            yield OpenedClip(entries, videos, sources)

    def read_views(self, clip: OpenedClip, num_views: int = 1) -> list[dict[str, Any]]:
        """As `read_clip` with `num_views`."""
        requests = {spec.name: FrameRequest((spec.num_frames or 1) * num_views, spec.sampling) for spec in self._specs}
        seen = self._read_frames(clip, [requests])[0]
        shares = [
            {name: _every(frames, view, num_views) for name, frames in seen.items()} for view in range(num_views)
        ]
        return [self._row(clip, share, _span(share), (view, num_views)) for view, share in enumerate(shares)]

    def read_windows(self, clip: OpenedClip, windows: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
        """As `read_clip` with `windows`. Holds at most `FRAMES_AT_ONCE` decoded frames, or those of one window."""
        size = max(1, FRAMES_AT_ONCE // max(1, sum(spec.num_frames or 1 for spec in self._specs)))
        rows = []
        for part in (windows[first : first + size] for first in range(0, len(windows), size)):
            requests = [
                {spec.name: FrameRequest(spec.num_frames or 1, spec.sampling, window) for spec in self._specs}
                for window in part
            ]
            seen = self._read_frames(clip, requests)
            rows += [self._row(clip, frames, window, (0, 1)) for frames, window in zip(seen, part, strict=True)]
        return rows

    def _row(
        self,
        clip: OpenedClip,
        seen: Mapping[str, VideoFrames],
        span: tuple[float, float] | None,
        view: tuple[int, int],
    ) -> dict[str, Any]:
        """One row's inputs, from the neurons' frames and, of the span's sound, the part of view (number, number of views)."""
        inputs: dict[str, Any] = {}
        for spec in self._specs:
            if spec.name in seen:
                inputs[f"{spec.name}_pixel_values"] = self._transform(spec)(seen[spec.name].frames)
            elif spec.modality == "audio" and (source := clip.sound) is not None:
                inputs |= sound_inputs(spec, self._extractor(spec), source, span, view)
            elif spec.modality in ("imu", "text") and spec.modality in clip.entries:
                inputs[f"{spec.name}_{spec.input_name}"] = clip.entries[spec.modality]
        if not inputs:
            wanted = sorted({spec.modality for spec in self._specs})
            raise ValueError(
                f"clip: found {', '.join(clip.entries) or 'nothing'}, but the neurons read {', '.join(wanted)}"
            )
        if seen:
            most = max(seen.values(), key=lambda frames: len(frames.times))
            inputs["frame_times"] = torch.from_numpy(most.times)
        return inputs

    def _read_frames(
        self, clip: OpenedClip, requests: Sequence[Mapping[str, FrameRequest]]
    ) -> list[dict[str, VideoFrames]]:
        """For each entry of `requests`: neuron -> its frames. Each source is read in one pass."""
        seen: list[dict[str, VideoFrames]] = [{} for _ in requests]
        for source, video in clip.videos.items():
            specs = [spec for spec in self._specs if clip.sources.get(spec.modality) == source]
            read = iter(video.read([row[spec.name] for row in requests for spec in specs]))
            for row in seen:
                for spec in specs:
                    frames = next(read)
                    if spec.modality == "depth" and source == "video" and self._estimator is not None:
                        frames = replace(frames, frames=as_frames(self._estimator(frames.frames)))
                    row[spec.name] = frames
        return seen

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Rows of [`read_clip`] -> batched inputs. Absent inputs are zeros, with `False` in `neuron_mask`."""
        data: dict[str, Tensor] = {}
        mask = torch.zeros(len(rows), len(self._specs), dtype=torch.bool)
        for number, spec in enumerate(self._specs):
            key = f"{spec.name}_{spec.input_name}"
            has = [key in row for row in rows]
            mask[:, number] = torch.tensor(has)
            if not any(has):
                continue
            if spec.modality == "text":
                tokens = self._text_reader(spec)([row.get(key, "") for row in rows])
                data[key], data[f"{spec.name}_attention_mask"] = tokens
                continue
            sizes = sorted({tuple(row[key].shape[-2:]) for row in rows if key in row})
            if spec.takes_frames and len(sizes) > 1:
                raise ValueError(
                    f"neuron {spec.name!r}: a batch has frames of one size, found (height, width) {sizes[0]} and {sizes[1]}; "
                    "give [height, width] as size in the neuron's preprocessing"
                )
            data[key] = _stacked([row.get(key) for row in rows], 0.0)
            mask_key = f"{spec.name}_attention_mask"
            if any(mask_key in row for row in rows):
                data[mask_key] = _stacked([row.get(mask_key) for row in rows], 1)
        data["neuron_mask"] = mask
        if any("frame_times" in row for row in rows):
            no_times = torch.empty(0, dtype=torch.float64)
            times = [row.get("frame_times", no_times) for row in rows]
            data["frame_times"] = torch.nn.utils.rnn.pad_sequence(times, batch_first=True, padding_value=float("nan"))
        return data

    def tokenize(self, text: str | Sequence[str]) -> dict[str, Tensor]:
        """Class texts -> `text_input_ids`, `text_attention_mask`.

        Raises:
            ValueError: no text tower, or no texts.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(line, str) for line in texts):
            raise ValueError(f"text: expected a string or a list of at least one string, found {text!r}")
        input_ids, attention_mask = self.text_reader(texts)
        return {"text_input_ids": input_ids, "text_attention_mask": attention_mask}

    @property
    def text_reader(self) -> TextReader:
        """The text tower's tokenizer and settings, for class texts.

        Raises:
            ValueError: no text tower.
        """
        spec = self.config.text_tower_spec
        if spec is None:
            raise ValueError("this SEN has no text tower (config.text_tower is None), so it takes no class texts")
        return self._text_reader(spec)

    @property
    def tokenizer(self) -> Any:
        """A tokenizer without special tokens: `Trainer` copies them to the configuration, where a SEN has none."""
        return SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)

    # --- the neurons' own processors ---------------------------------------------------------------------------------

    def _part(self, spec: NeuronSpec, make: Callable[[HubSource], Any]) -> Any:
        """A neuron's preprocessing, created on first use from the files of its checkpoint.

        Raises:
            OSError: the checkpoint cannot be found or read.
            ValueError: its files are damaged or lack a needed setting.
        """
        if spec.name not in self._parts:
            source = HubSource.of_neuron(spec, self.source, self._fetch)
            with naming_errors(f"neuron {spec.name!r} ({spec.hub_id})", "pass token=..."):
                self._parts[spec.name] = make(source)
        return self._parts[spec.name]

    def _transform(self, spec: NeuronSpec) -> FrameTransform:
        return self._part(spec, lambda source: FrameTransform.from_settings(hub_settings(tower_source(source)), spec))

    def frame_size(self, neuron: str) -> tuple[int, int]:
        """(height, width) of the pixel values of an image or video neuron.

        Raises:
            KeyError: no such neuron.
            ValueError: its frames keep different sizes.
        """
        transform = self._transform({spec.name: spec for spec in self._specs if spec.takes_frames}[neuron])
        size = transform.crop or transform.size
        if not isinstance(size, tuple):
            raise ValueError(f"neuron {neuron!r}: its frames are not brought to one height and width")
        return size

    def _extractor(self, spec: NeuronSpec) -> Any:
        return self._part(spec, lambda source: load_feature_extractor(tower_source(source).at_commit()))

    def _text_reader(self, spec: NeuronSpec) -> TextReader:
        return self._part(spec, lambda source: TextReader(spec, source))

    # --- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "SENProcessor":  # type: ignore[override]
        """The processor of a SEN checkpoint, made from the checkpoint's config.json.

        Raises:
            OSError: no such checkpoint, or no readable config.json in it.
            ValueError: the checkpoint is not a SEN.
        """
        name = os.fspath(pretrained_model_name_or_path)
        source = HubSource.of_checkpoint(name, kwargs)
        with naming_errors(name, "pass token=..."):
            source.prefetch("config.json")
            settings, _ = PreTrainedConfig.get_config_dict(source.location, **source.files)
        if (model_type := settings.get("model_type")) != SENConfig.model_type:
            raise ValueError(f"{name}: its model type is {model_type!r}, expected 'sen'")
        return cls(SENConfig.from_pretrained(source.location, **source.files), source)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:  # type: ignore[override]
        """Saves `processor_config.json` and the processor's other files, and `config.json` if the folder has none."""
        with replaced_folder(save_directory) as folder:
            ProcessorMixin.save_pretrained(self, str(folder))
            if not (Path(save_directory) / "config.json").exists():
                self.config.save_pretrained(folder)
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(repo_id, **kwargs)
        return [str(Path(save_directory) / "processor_config.json")]

    def push_to_hub(self, repo_id: str, *, token: bool | str | None = None, **kwargs: Any) -> str:  # type: ignore[override]
        """Pushes `processor_config.json`, and `config.json` unless the repository has one, which may have more settings.

        Args:
            kwargs: of `HfApi.create_repo` (`private`) and `HfApi.create_commit` (`commit_message`, `revision`, ...).

        Raises:
            OSError: the Hub refuses or fails.
        """
        with naming_hub_errors(repo_id), tempfile.TemporaryDirectory() as folder:
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True).repo_id
            self.save_pretrained(folder)
            if api.file_exists(repo_id, "config.json", revision=kwargs.get("revision")):
                Path(folder, "config.json").unlink()
            return commit_folder(api, repo_id, folder, **{"commit_message": f"Upload {type(self).__name__}", **kwargs})

    def to_dict(self) -> dict[str, Any]:
        """Only the class; the settings are in the model's configuration."""
        return {
            "processor_class": type(self).__name__,
            **({"auto_map": self.auto_map} if hasattr(self, "auto_map") else {}),
        }

    @property
    def model_input_names(self) -> list[str]:
        names = [f"{spec.name}_{spec.input_name}" for spec in self._specs]
        names += [f"{spec.name}_attention_mask" for spec in self._specs if spec.modality == "text"]
        return [*names, "neuron_mask", "frame_times", "text_input_ids", "text_attention_mask"]


def _span(seen: Mapping[str, VideoFrames]) -> tuple[float, float] | None:
    """(start, end) seconds that cover the frames of all neurons."""
    spans = [frames.span for frames in seen.values()]
    return (min(start for start, _ in spans), max(end for _, end in spans)) if spans else None


def _frames_of(source: str, entries: Mapping[str, Any]) -> Any:
    return as_frames(as_depth(entries[source]) if source == "depth" else entries[source])


def _every(frames: VideoFrames, view: int, num_views: int) -> VideoFrames:
    """The frames of one view: every `num_views`-th frame, starting at `view`."""
    if num_views == 1:
        return frames
    chosen = slice(view, None, num_views)
    return replace(frames, frames=frames.frames[chosen], times=frames.times[chosen], indices=frames.indices[chosen])


def _stacked(rows: Sequence[Tensor | None], absent: float) -> Tensor:
    """Stacks rows: shorter ones are padded with zeros, missing ones filled with `absent`."""
    found = [row for row in rows if row is not None]
    length = max(row.shape[-1] for row in found)
    missing = torch.full_like(found[0], absent)
    full = [missing if row is None else row for row in rows]
    return torch.stack([torch.nn.functional.pad(row, (0, length - row.shape[-1])) for row in full])


__all__ = ["SENProcessor"]
