# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ImageBindProcessor: turns files and arrays of six modalities into the inputs of [`ImageBindModel`]. Nothing is random."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from modeling_sen.audio_io import read_audio
from modeling_sen.families.clip_pictures import MEAN, STD
from modeling_sen.families.clip_tokenizer import read_tokenizer
from modeling_sen.families.filter_bank import RATE
from modeling_sen.families.imagebind.configuration_imagebind import ImageBindConfig
from modeling_sen.families.imagebind.feature_extraction_imagebind import ImageBindFeatureExtractor
from modeling_sen.families.imagebind.imagebind_pictures import (
    depth_values,
    image_values,
    thermal_values,
    video_values,
)
from modeling_sen.hub_files import HubSource, naming_errors
from modeling_sen.video_io import is_video_batch

_FILE = "processor_config.json"
_TOKENIZER_FILE = "tokenizer_config.json"


class ImageBindProcessor(ProcessorMixin):
    """Prepares images, videos, texts, sound, depth maps, thermal images and motion sensors.

    Args:
        image_size: pixels of each side, of all pictures.
        imu_shape: (channels, samples) of motion sensors.
        text_length: tokens of each text; texts are cut or padded to it.
        depth_focal_length: of the camera of depth maps, in pixels of the maps; by default that of the first Kinect.
        depth_baseline: metres between the two lenses of that camera.
        sound: arguments of [`ImageBindFeatureExtractor`].
        kwargs: other fields of a saved processor's file, which are not used.
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
            ValueError: the image sizes of the vision, depth and thermal towers differ.
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
            images: one image or a list, as `read_video` takes them: files, PIL images, (H, W, 3) uint8.
            text: one or a list of strings.
            videos: one or a list of videos, as `read_video` takes them.
            audio: one or a list of sounds or videos, as `read_audio` takes them.
            depth: one or a list of depth maps: files, or arrays (H, W); whole numbers are millimetres, others metres.
            thermal: one or a list of images, or (H, W) uint8.
            imu: one or a list of (6, 2000) arrays: accelerations and rotation rates of five seconds.
            return_tensors: only `"pt"`.

        Returns:
            `pixel_values` (batch, 3, 224, 224), or of videos (batch, 15, 3, 2, 224, 224); `input_ids` and
            `attention_mask` (batch, 77) int64; `input_features` (batch, 3, 1, 128, 204); `depth_values` and
            `thermal_values` (batch, 1, 224, 224); `imu_values` (batch, 6, 2000). All but the second are float32.

        Raises:
            ValueError: no input, both images and videos, an input of another form, or no sound in `audio`.
            OSError: a file does not exist.
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
        # Padding ids become 0, so that the highest id is that of the end token, which is pooled.
        return {"input_ids": ids * mask, "attention_mask": mask}

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
        """All settings; image processor and feature extractor as the Auto classes of Transformers read them."""
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
            raise ValueError("push_to_hub is True, expected False; `hf upload` uploads the saved folder")
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


def _each(name: str, given: Any, read: Callable[[Any], Tensor]) -> Tensor:
    """Stacks the tensors of the entries of a list, or of a single entry."""
    entries = given if isinstance(given, list) else [given]
    if not entries:
        raise ValueError(f"{name}: found an empty list, expected at least one")
    return torch.stack([read(entry) for entry in entries])


__all__ = ["ImageBindProcessor"]
