# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""LanguageBindProcessor: turns files, arrays and texts into the inputs of a LanguageBind model, by its config.json.

As the original, but deterministic: frames are not flipped, and sounds are cropped at fixed places.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoConfig, BatchFeature, CLIPTokenizer, ProcessorMixin

from modeling_sen.audio_io import read_audio
from modeling_sen.families.clip_pictures import by_shorter_side, by_shorter_side_of_video, centre, normalised
from modeling_sen.families.languagebind.configuration_languagebind import LanguageBindConfig
from modeling_sen.families.languagebind.feature_extraction_languagebind import LanguageBindFeatureExtractor
from modeling_sen.hub_files import HubSource, naming_errors
from modeling_sen.video_io import is_video_batch, read_video
from modeling_sen.whole_file import replaced_folder

SHALLOWEST = 0.01  # metres; depth maps are in millimetres


class LanguageBindProcessor(ProcessorMixin):
    """Prepares the inputs of one LanguageBind model.

    Args:
        config: of the model.
        source: checkpoint from which the first call with texts reads the tokenizer.
    """

    def __init__(self, config: LanguageBindConfig, source: HubSource | None = None):
        super().__init__()
        self.config, self.source = config, source
        self.modality = config.model_type.removeprefix("LanguageBind").lower()
        self._tokenizer: Any = None

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        context_length: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """
        Args:
            images: one input of the model's modality or a list of them, as the original names them. Images and thermal
                images: paths, bytes, PIL images or (H, W) or (H, W, 3) uint8 arrays. Depth maps in millimetres: paths, bytes
                or PIL images of one channel, or (H, W) arrays of any numbers. Video: what `read_video` takes. Sound: what
                `read_audio` takes.
            text: one text or a list.
            context_length: tokens of a text; shorter ones are padded. `None`: as many as the text tower has places, 77.
            return_tensors: only `"pt"`.

        Returns:
            `pixel_values` float32, (batch, 3, height, width), of video (batch, 3, num_frames, height, width), of sound
            (batch, 3, num_mel_bins, target_length); `input_ids` and `attention_mask` (texts, context_length) int64.

        Raises:
            ValueError: no input; an image or map of another form; see `read_video` and `read_audio`.
            OSError: no such file, not an image, or a checkpoint without a tokenizer.
        """
        if images is None and text is None:
            raise ValueError(f"{type(self).__name__}: expected images, text or both, found neither")
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt'")
        data: dict[str, Any] = {}
        if text is not None:
            places = self.config.text_config.max_position_embeddings  # type: ignore[union-attr]
            tokens = self.tokenizer(
                text if isinstance(text, str) else list(text),
                max_length=context_length or places,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            )
            data |= {name: value.reshape(-1, value.shape[-1]) for name, value in tokens.items()}
        if images is not None:
            is_batch = is_video_batch(images) if self.modality == "video" else isinstance(images, list)
            data["pixel_values"] = torch.stack([self.prepare(each) for each in (images if is_batch else [images])])
        return BatchFeature(data)

    def prepare(self, entry: Any) -> Tensor:
        """One input without a batch dimension, see `__call__`."""
        config: Any = self.config.vision_config
        if self.modality == "audio":
            return self._prepare_sound(entry)
        if self.modality == "video":
            frames = read_video(entry, config.num_frames, "linspace").frames  # (T, H, W, 3) uint8
            values = normalised(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
            return _resized(values, config.input_size, "bilinear").transpose(0, 1)
        if self.modality == "depth":
            values = _depth(entry, config.max_depth).expand(1, 3, -1, -1)
        else:
            values = torch.from_numpy(_picture(entry)).permute(2, 0, 1)[None] / 255
        return normalised(_resized(values, config.input_size, "bicubic"))[0]

    def _prepare_sound(self, entry: Any) -> Tensor:
        extractor = LanguageBindFeatureExtractor.from_config(self.config)
        sound = read_audio(entry, extractor.sampling_rate)
        if not sound.present:
            raise ValueError(f"audio: found no sound in {entry if isinstance(entry, str) else type(entry).__name__}")
        features = extractor(sound.samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return features["input_features"][0]

    @property
    def tokenizer(self) -> Any:
        """CLIP's, read when it is first used.

        Raises:
            OSError: the checkpoint has none.
        """
        if self._tokenizer is None:
            if self.source is None or not self.has_tokenizer:
                where = "no checkpoint" if self.source is None else self.source.location
                raise OSError(
                    f"{where}: found neither tokenizer.json nor vocab.json, expected CLIP's tokenizer for texts"
                )
            with naming_errors(self.source.location, "pass token=..."):
                self._tokenizer = CLIPTokenizer.from_pretrained(self.source.location, **self.source.files)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was set or read, or is among the checkpoint's files."""
        if self._tokenizer is not None or self.source is None:
            return self._tokenizer is not None
        return any(self.source.file(name, optional=True) is not None for name in ("tokenizer.json", "vocab.json"))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "LanguageBindProcessor":  # type: ignore[override]
        """The processor of a checkpoint in the published layout, or one that was saved.

        Raises:
            OSError: no such checkpoint, or no readable config.json in it.
            ValueError: the checkpoint is not a LanguageBind model.
        """
        name = os.fspath(pretrained_model_name_or_path)
        source = HubSource.of(name, kwargs)
        with naming_errors(name, "pass token=..."):
            source = source.at_commit()
            config = AutoConfig.from_pretrained(source.location, **source.files)
        if not isinstance(config, LanguageBindConfig):
            raise ValueError(f"{name}: its model type is {config.model_type!r}, expected a LanguageBind model")
        return cls(config, source)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:  # type: ignore[override]
        """Saves `processor_config.json`, the tokenizer where there is one, and `config.json` where the folder has none."""
        with replaced_folder(save_directory) as folder:
            super().save_pretrained(str(folder))
            if not (Path(save_directory) / "config.json").exists():
                self.config.save_pretrained(folder)
            if self.has_tokenizer:
                self.tokenizer.save_pretrained(folder)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory))), **kwargs)
        return [str(Path(save_directory) / "processor_config.json")]

    def to_dict(self) -> dict[str, Any]:
        """Only the class: all settings are in the model's configuration."""
        return {"processor_class": type(self).__name__}

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "input_ids", "attention_mask"]


def _opened(entry: Any) -> Image.Image:
    """An image of a path, bytes or a file object, upright.

    Raises:
        OSError: no such file, or no image.
    """
    if isinstance(entry, Image.Image):
        return ImageOps.exif_transpose(entry)
    with Image.open(io.BytesIO(entry) if isinstance(entry, bytes) else entry) as image:
        return ImageOps.exif_transpose(image)


def _picture(entry: Any) -> np.ndarray:
    """(H, W, 3) uint8 of a path, bytes, an image or an array."""
    if isinstance(entry, np.ndarray | Tensor):
        pixels = np.asarray(entry)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
            raise ValueError(f"images: found {pixels.shape} {pixels.dtype}, expected (H, W) or (H, W, 3) uint8")
        return pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=-1)
    return np.array(_opened(entry).convert("RGB"))


def _depth(entry: Any, deepest: float) -> Tensor:
    """Millimetres -> (1, 1, H, W) float32 in 0..1."""
    values = np.asarray(entry if isinstance(entry, np.ndarray | Tensor) else _opened(entry)).astype(np.float32)
    if values.ndim != 2:
        raise ValueError(f"depth: found shape {values.shape}, expected one channel (H, W) in millimetres")
    metres = np.maximum(values / 1000, SHALLOWEST)
    metres = np.minimum(metres, deepest) / deepest if deepest else metres / metres.max()
    return torch.from_numpy(metres.astype(np.float32))[None, None]


def _resized(values: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(n, channels, H, W) -> (n, channels, *size): resized to the shorter side of `size`, centre crop.

    Modes: `"bicubic"`, with antialiasing, as torchvision resizes images; `"bilinear"`, without, as pytorchvideo does frames.
    """
    height, width = values.shape[-2:]
    is_image = mode == "bicubic"
    target = (by_shorter_side if is_image else by_shorter_side_of_video)(height, width, min(size))
    if target != (height, width):
        values = F.interpolate(values, target, mode=mode, align_corners=False, antialias=is_image)
    return centre(values, *size)


__all__ = ["LanguageBindProcessor"]
