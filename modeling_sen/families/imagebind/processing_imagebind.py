# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBindProcessor: files and arrays of all six modalities as [`ImageBindModel`] takes them. The same file gives the same
tensor every time.
"""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, CLIPTokenizer, ProcessorMixin
from transformers.convert_slow_tokenizer import bytes_to_unicode

from modeling_sen.audio_io import read_audio
from modeling_sen.families.imagebind.configuration_imagebind import ImageBindConfig
from modeling_sen.families.imagebind.feature_extraction_imagebind import RATE, ImageBindFeatureExtractor
from modeling_sen.families.imagebind.imagebind_pictures import (
    MEAN,
    STD,
    depth_values,
    image_values,
    thermal_values,
    video_values,
)
from modeling_sen.hub_files import HubSource, naming_errors
from modeling_sen.video_io import is_video_batch

_FILE = "processor_config.json"
_TOKENIZER_FILE = "tokenizer_config.json"
_MERGES = 49152 - 256 - 2  # that CLIP's word pieces use, of those in its file


class ImageBindProcessor(ProcessorMixin):
    """Prepares images, videos, texts, sound, depth maps, thermal images and motion sensors.

    Args:
        image_size: pixels of each side, of all pictures.
        imu_shape: (channels, samples) of motion sensors.
        text_length: tokens that all texts are cut or padded to.
        depth_focal_length: of the camera of depth maps, in pixels of the maps; by default that of the first Kinect.
        depth_baseline: metres between the eyes of that camera.
        sound: arguments of [`ImageBindFeatureExtractor`].
        kwargs: what else stands in a saved processor's file.
    """

    def __init__(
        self,
        image_size: int = 224,
        imu_shape: Sequence[int] = (6, 2000),
        text_length: int = 77,
        depth_focal_length: float = 518.857901,
        depth_baseline: float = 0.075,
        sound: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__()
        self.image_size, self.text_length = image_size, text_length
        self.imu_channels, self.imu_samples = imu_shape
        self.depth_focal_length, self.depth_baseline = depth_focal_length, depth_baseline
        self.sound = ImageBindFeatureExtractor(**(sound or {}))
        self.tokenizer: Any = None

    @classmethod
    def for_config(cls, config: ImageBindConfig, tokenizer: str | None = None) -> "ImageBindProcessor":
        """The processor of a model.

        Args:
            tokenizer: see [`read_tokenizer`].

        Raises:
            OSError, ValueError: see [`read_tokenizer`].
            ValueError: towers of pictures that take different sizes.
        """
        pictures: Any = (config.vision_config, config.depth_config, config.thermal_config)
        sizes = {tower.image_size for tower in pictures}
        if len(sizes) > 1:
            raise ValueError(
                f"image_size of vision, depth and thermal towers: found {sorted(sizes)}, expected one size"
            )
        audio: Any = config.audio_config
        imu: Any = config.imu_config
        text: Any = config.text_config
        processor = cls(
            image_size=sizes.pop(),
            imu_shape=(imu.num_channels, imu.num_samples),
            text_length=text.max_position_embeddings,
            sound={"num_mel_bins": audio.num_mel_bins, "num_mel_frames": audio.num_mel_frames},
        )
        if tokenizer is not None:
            processor.tokenizer = read_tokenizer(tokenizer)
        return processor

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        depth: Any = None,
        thermal: Any = None,
        imu: Any = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """
        Args:
            images: one or a list of what `read_video` takes as an image: a file, a PIL image, (H, W, 3) uint8.
            text: one or a list of strings.
            videos: one or a list of videos, as `read_video` takes them.
            audio: one or a list of sounds or videos, as `read_audio` takes them.
            depth: one or a list of depth maps: files, or arrays (H, W); whole numbers are millimetres, others metres.
            thermal: one or a list of images, or (H, W) uint8.
            imu: one or a list of (6, 2000) arrays: accelerations and turns of five seconds.
            return_tensors: only `"pt"`.

        Returns:
            `pixel_values` (batch, 3, 224, 224), or of videos (batch, 15, 3, 2, 224, 224); `input_ids` and
            `attention_mask` (batch, 77) int64; `input_features` (batch, 3, 1, 128, 204); `depth_values` and
            `thermal_values` (batch, 1, 224, 224); `imu_values` (batch, 6, 2000). All but the second are float32.

        Raises:
            ValueError: nothing given, images and videos together, something of another form, a sound that is not there.
            OSError: a file that is not there.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt'")
        if images is not None and videos is not None:
            raise ValueError("expected images or videos, found both: one tower reads them")
        data: dict[str, Tensor] = {}
        if images is not None:
            data["pixel_values"] = _each("images", images, lambda image: image_values(image, self.image_size))
        if videos is not None:
            videos = list(videos) if is_video_batch(videos) else [videos]
            data["pixel_values"] = _each("videos", videos, lambda video: video_values(video, self.image_size))
        if text is not None:
            data |= self._tokens([text] if isinstance(text, str) else list(text))
        if audio is not None:
            data["input_features"] = _each("audio", audio, self._sound)
        if depth is not None:
            camera = (self.depth_focal_length, self.depth_baseline)
            data["depth_values"] = _each("depth", depth, lambda each: depth_values(each, self.image_size, *camera))
        if thermal is not None:
            data["thermal_values"] = _each("thermal", thermal, lambda each: thermal_values(each, self.image_size))
        if imu is not None:
            data["imu_values"] = _each("imu", imu, self._imu)
        if not data:
            raise ValueError(
                "ImageBindProcessor: found no input, expected some of images, text, videos, audio, depth, ..."
            )
        return BatchFeature(data)

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"text: expected a string or a list of at least one string, found {texts!r}")
        if self.tokenizer is None:
            raise ValueError(
                "text: this processor has no tokenizer; convert with --tokenizer, or set processor.tokenizer to CLIP's"
            )
        given = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.text_length, return_tensors="pt"
        )
        ids, mask = given["input_ids"], given["attention_mask"]
        return {"input_ids": ids * mask, "attention_mask": mask}  # padding is 0: the end is the highest number

    def _sound(self, audio: Any) -> Tensor:
        sound = read_audio(audio, RATE)
        if not sound.present or not len(sound.samples):
            raise ValueError("audio: found no sound in it")
        return torch.from_numpy(self.sound(sound.samples, RATE)["input_features"][0])

    def _imu(self, imu: Any) -> Tensor:
        values = torch.as_tensor(np.asarray(imu), dtype=torch.float32)
        expected = (self.imu_channels, self.imu_samples)
        if tuple(values.shape) != expected:
            raise ValueError(f"imu: found shape {tuple(values.shape)}, expected {expected}")
        return values

    # --- files -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The parts as other loaders of Transformers read them, and what else a call needs."""
        size = self.image_size
        return {
            "processor_class": type(self).__name__,
            "image_size": size,
            "imu_shape": [self.imu_channels, self.imu_samples],
            "text_length": self.text_length,
            "depth_focal_length": self.depth_focal_length,
            "depth_baseline": self.depth_baseline,
            "image_processor": {
                "image_processor_type": "CLIPImageProcessor",
                "do_resize": True,
                "size": {"shortest_edge": size},
                "do_center_crop": True,
                "crop_size": {"height": size, "width": size},
                "resample": int(Image.Resampling.BICUBIC),
                "image_mean": list(MEAN),
                "image_std": list(STD),
            },
            "feature_extractor": self.sound.to_dict(),
        }

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:  # type: ignore[override]
        """Writes `processor_config.json`, and the tokenizer's files where there is one."""
        if push_to_hub:
            raise ValueError("push_to_hub: expected False; `push_to_hub` of the folder's files uploads them")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        return [str(folder / _FILE)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "ImageBindProcessor":  # type: ignore[override]
        """The processor of a converted checkpoint.

        Raises:
            OSError: no such checkpoint, or no `processor_config.json` in it.
            ValueError: the file is damaged.
        """
        name = os.fspath(pretrained_model_name_or_path)
        source = HubSource.of(name, kwargs).at_commit()
        with naming_errors(name, "pass token=..."):
            path = source.file(_FILE)
            assert path is not None
            settings = json.loads(path.read_text(encoding="utf-8"))
            sound = {
                key: value for key, value in settings.pop("feature_extractor", {}).items() if not key.endswith("_type")
            }
            processor = cls(**settings, sound=sound)
            if source.file(_TOKENIZER_FILE, optional=True) is not None:
                processor.tokenizer = AutoTokenizer.from_pretrained(source.location, **source.arguments)
        return processor

    @property
    def model_input_names(self) -> list[str]:
        return [
            "pixel_values",
            "input_ids",
            "attention_mask",
            "input_features",
            "depth_values",
            "thermal_values",
            "imu_values",
        ]


def read_tokenizer(location: str) -> Any:
    """CLIP's tokenizer.

    Args:
        location: a hub id or folder of a tokenizer (`openai/clip-vit-base-patch32`), or the list of merges that comes with
            the original, `bpe_simple_vocab_16e6.txt.gz`.

    Raises:
        OSError: no such tokenizer or file.
        ValueError: the file is no list of merges.
    """
    if not location.endswith(".txt.gz"):
        return AutoTokenizer.from_pretrained(location)
    try:
        with gzip.open(location, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{location}: found no list of merges, or a damaged one ({error})") from error
    merges: Any = [tuple(line.split()) for line in lines[1 : _MERGES + 1] if line.strip()]
    if not merges or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{location}: expected two word pieces on each line but the first")
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocab = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges)


def _each(name: str, given: Any, read: Callable[[Any], Tensor]) -> Tensor:
    """One tensor for each entry of a list, or for what is given alone."""
    entries = given if isinstance(given, list) else [given]
    if not entries:
        raise ValueError(f"{name}: found an empty list, expected at least one")
    return torch.stack([read(entry) for entry in entries])


__all__ = ["ImageBindProcessor", "read_tokenizer"]
