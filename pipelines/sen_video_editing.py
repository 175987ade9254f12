# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override"
"""SENVideoEditingPipeline: edits a video by a prompt, with an adapter that was tuned on that video.

It follows Tune-A-Video (arXiv 2212.11565), uses a current Diffusers, and conditions the UNet on a SEN.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_sen.editing.base_parts import BaseParts, load_base_parts
from modeling_sen.editing.ddim import Predict, invert, sample
from modeling_sen.editing.edit_frames import EditFrames, read_stretch, resized
from modeling_sen.editing.edit_mask import (
    blend_latents,
    blend_pixels,
    latent_mask,
    points_mask,
    read_mask,
    resized_mask,
)
from modeling_sen.editing.flow_edit import flow_edit
from modeling_sen.editing.frame_windows import windowed
from modeling_sen.editing.latents import decode_latents, edit_size, encode_frames, encode_prompts
from modeling_sen.editing.noise_levels import NoiseLevels
from modeling_sen.editing.tuning import TuningResult, TuningSettings, tune_adapter
from modeling_sen.editing.tuning_record import name_of, settings_for, tuning_record
from modeling_sen.modeling_sen_editing import SENForVideoEditing
from modeling_sen.tracking.tracking_output import SENTrackingOutput

from diffusers import DiffusionPipeline  # isort: skip  # after ours, whose ImportError names the missing extra

INVERSIONS = ("ddim", "none")


@dataclass(frozen=True)
class VideoEditingOutput:
    """An edited video.

    Attributes:
        frames: (T, H, W, 3) uint8 edited frames, in the size of the base model.
        source_frames: (T, H, W, 3) uint8 frames of the source video in the same size.
        times: (T,) float64, times of the frames in seconds from the start of the video.
        fps: frames per second.
        mask: (T, H, W) bool, true where frames may differ from the source; `None` without a mask.
        settings: settings of the edit, JSON-serialisable.
    """

    frames: np.ndarray
    source_frames: np.ndarray
    times: np.ndarray
    fps: float
    mask: np.ndarray | None
    settings: dict[str, Any]


class SENVideoEditingPipeline(DiffusionPipeline):
    """Tunes the adapter of a [`SENForVideoEditing`] on one video, and edits the video by prompts.

    The components are the model (SEN, adapter and UNet) and the base model's VAE, text encoder, tokenizer and scheduler.

    ```python
    >>> from modeling_sen import SENForVideoEditing, SENVideoEditingPipeline

    >>> model = SENForVideoEditing.from_base("stable-diffusion-v1-5/stable-diffusion-v1-5", "path/to/a-sen")
    >>> pipe = SENVideoEditingPipeline.from_model(model).to("cuda")
    >>> pipe.tune("skiing.mp4", "a man is skiing")
    >>> edited = pipe.edit("skiing.mp4", "an astronaut is skiing", "a man is skiing")
    >>> edited.frames.shape, edited.fps
    ((24, 512, 512, 3), 8.0)
    >>> pipe.save_pretrained("skiing")  # without the base model
    ```
    """

    model: SENForVideoEditing
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    model_cpu_offload_seq = "text_encoder->model->vae"

    def __init__(self, model: SENForVideoEditing, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any):
        """
        Args:
            model: the editing model, with its UNet attached.
            vae: an `AutoencoderKL` or a `PixelUnshuffle`.
            tokenizer: the text encoder's tokenizer.
            text_encoder: a `CLIPTextModel`.
            scheduler: a `DDIMScheduler` with `clip_sample=False`.
        """
        super().__init__()
        self.register_modules(  # type: ignore[attr-defined]
            model=model, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )

    # --- loading and saving ------------------------------------------------------------------------------------------

    @classmethod
    def from_model(
        cls, model: SENForVideoEditing, base_kwargs: Mapping[str, Any] | None = None
    ) -> "SENVideoEditingPipeline":
        """Builds a pipeline for a model, with the other parts of its base model in the UNet's dtype on the model's device.

        Args:
            model: the editing model.
            base_kwargs: arguments of Diffusers' `from_pretrained`, such as `variant`.

        Raises:
            OSError, RuntimeError: a part cannot be found or read.
            ValueError: the model was built from a UNet object; or the VAE or scheduler has an unsupported type.
        """
        if model.base_source is None:
            raise ValueError(
                "model: its base was given as a UNet, without the location of the other parts; expected "
                "SENVideoEditingPipeline(model, vae, text_encoder, tokenizer, scheduler)"
            )
        parts = load_base_parts(model.base_source, **{"torch_dtype": model.unet.dtype, **(base_kwargs or {})})
        pipe: Any = cls(model, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler)
        return pipe.to(model.device)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        base_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "SENVideoEditingPipeline":
        """Loads a checkpoint of a [`SENForVideoEditing`] and the base model that its configuration names.

        Args:
            pretrained_model_name_or_path: folder or Hub id of the checkpoint.
            base_kwargs: arguments of Diffusers' `from_pretrained` for the base model, such as `variant`.
            kwargs: arguments of the model's `from_pretrained`.

        Raises:
            OSError, RuntimeError, ValueError: see `SENForVideoEditing.from_pretrained` and [`from_model`].
        """
        model = SENForVideoEditing.from_pretrained(pretrained_model_name_or_path, base_kwargs=base_kwargs, **kwargs)
        return cls.from_model(model, base_kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the model with its adapter, without the base model; `kwargs` are of the model's `save_pretrained`."""
        self.model.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Pushes the model with its adapter, without the base model; `kwargs` are of the model's `push_to_hub`."""
        return self.model.push_to_hub(repo_id, **kwargs)

    @property
    def parts(self) -> BaseParts:
        """The base model's parts without the UNet."""
        return BaseParts(self.vae, self.text_encoder, self.tokenizer, self.scheduler)

    # --- tuning ------------------------------------------------------------------------------------------------------

    def tune(
        self,
        video: Any,
        prompt: str,
        settings: TuningSettings | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
        fps: float | None = None,
        output_dir: str | Path | None = None,
        progress: bool = True,
        video_name: str | None = None,
    ) -> TuningResult:
        """Tunes the adapter on a video, once for all edits of that video.

        The adapter's configuration stores a record of the tuning (`model.adapter.config.tuning`, see [`tuning_record`]).

        Args:
            video, start, end, fps: as in [`edit`]; pass the same values to both.
            prompt: a sentence that describes the video.
            settings: settings of tuning; by default those in the model's configuration.
            output_dir, progress: see `tune_adapter`.
            video_name: name of the video in the record; by default its file name.

        Raises:
            ImportError, KeyboardInterrupt: see `tune_adapter`.
            ValueError: see `tune_adapter`, and [`edit`] for the video.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        settings = settings or settings_for(self.model)
        frames = self._read(video, start, end, fps)[1]
        result = tune_adapter(self.model, self.parts, frames, prompt, settings, output_dir, progress)
        record = tuning_record(video_name or name_of(video), prompt, frames, settings, result)
        self.model.adapter.register_to_config(tuning=record)
        return result

    # --- editing -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def edit(
        self,
        video: Any,
        prompt: str | Sequence[str],
        source_prompt: str,
        *,
        inversion: str = "ddim",
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        negative_prompt: str = "",
        mask: Any = None,
        start: float = 0.0,
        end: float | None = None,
        fps: float | None = None,
        window: int = 24,
        overlap: int = 8,
        refinements: int = 1,
        skip: float = 0.3,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Edits a video. With `prompt` equal to `source_prompt` and a guidance of 1, the result is the reconstruction.

        Args:
            video: a path, URL, bytes, file object, (T, H, W, 3) uint8 array or list of images, see `read_video`; or
                [`EditFrames`] that have already been read.
            prompt: description of the edited video; several prompts share reading, encoding and inversion.
            source_prompt: description of the source video, as in tuning.
            inversion: `"ddim"` inverts the video to noise and samples from it under the prompt. `"none"` follows FlowEdit: it
                avoids inversion, which may fail, but needs two predictions per step and prompt.
            num_inference_steps: number of noise levels.
            guidance_scale: weight of classifier-free guidance; 1 disables it. It is not applied to the source.
            negative_prompt: text of the unconditional prediction of guidance.
            mask: where the edit may change the video: an input of [`read_mask`] in the size and number of the source frames,
                or a [`SENTrackingOutput`] for these frames, in which case the mask is drawn around its points.
            start, end: start and end of the edited part in seconds.
            fps: frames per second that are edited; by default every frame.
            window, overlap: number of frames per UNet call, and number of frames shared by two windows of a longer video.
            refinements: refinements of each inversion step; each costs one prediction. With an exact predictor of velocity
                for a mixture of Gaussians, the first one gained more than twice the steps.
            skip: without inversion, the share of noisy steps that are left out; a larger share stays closer to the source.
            seed: seed of the noise without inversion; inversion is deterministic.
            progress: called with (done, total) after each prediction.

        Returns:
            [`VideoEditingOutput`], or a list of these for several prompts.

        Raises:
            ValueError: an empty prompt or one with too many tokens; arguments out of range; a mask of the wrong size; a video
                that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt: expected at least one, found an empty list")
        steps = self.check_options(inversion, num_inference_steps, guidance_scale)
        # 1. Texts, before the video is read, so that errors in them show early.
        without_text, source_text = encode_prompts(self.parts, [source_prompt], negative_prompt).split(1)
        texts = [encode_prompts(self.parts, [each]) for each in prompts]  # separately: bit-equal for any other prompts
        # 2. Frames and mask, latents, features.
        read, frames = self._read(video, start, end, fps)
        _, height, width, _ = frames.shape
        inside = None if mask is None else resized_mask(as_mask(mask, read.frames), (height, width))
        read = replace(read, frames=frames)  # frees the original frames, which may take gigabytes
        latents = encode_frames(self.vae, frames).float()
        features = self._features_of(frames)
        # 3. The source at each noise level; without inversion the clean latents at all of them.
        predictions = _Predictions(self.model, len(frames), window, overlap, progress)
        predict_source = predictions.of(source_text, features(source_prompt))
        if inversion == "ddim":
            predictions.total = steps * (1 + refinements + len(prompts))
            kept = inside is not None
            trajectory = invert(predict_source, latents, self.scheduler, steps, refinements, keep=kept)
        else:
            predictions.total = 2 * len(prompts) * (steps - int(skip * steps))
            trajectory = [latents] * (steps + 1)
        blend = None if inside is None else blend_latents(latent_mask(inside, latents.shape[-2:]), trajectory)
        # 4. Each prompt.
        outputs = []
        for words, text in zip(prompts, texts, strict=True):
            predict = predictions.of(text, features(words), guidance_scale, without_text)
            if inversion == "ddim":
                edited = sample(predict, trajectory[-1], self.scheduler, steps, blend)
            else:
                edited = flow_edit(
                    predict_source, predict, latents, self.scheduler, steps, skip=skip, seed=seed, blend=blend
                )
            result = decode_latents(self.vae, edited)
            settings = {
                "prompt": words,
                "source_prompt": source_prompt,
                "negative_prompt": negative_prompt,
                "inversion": inversion,
                "num_inference_steps": steps,
                "guidance_scale": guidance_scale,
                "window": window,
                "overlap": overlap,
                **({"refinements": refinements} if inversion == "ddim" else {"skip": skip, "seed": seed}),
            }
            outputs.append(
                VideoEditingOutput(
                    frames=result if inside is None else blend_pixels(inside, result, frames),
                    source_frames=frames,
                    times=read.times,
                    fps=read.fps,
                    mask=inside,
                    settings=settings,
                )
            )
        return outputs[0] if isinstance(prompt, str) else outputs

    def check_options(
        self, inversion: str = "ddim", num_inference_steps: int = 50, guidance_scale: float = 7.5
    ) -> int:
        """Checks options of [`edit`] and returns the number of noise levels.

        Raises:
            ValueError: an option is out of range.
        """
        if inversion not in INVERSIONS:
            raise ValueError(f"inversion is {inversion!r}, expected one of {', '.join(INVERSIONS)}")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale: expected at least 0, found {guidance_scale}")
        return len(NoiseLevels.of(self.scheduler, num_inference_steps))

    def _read(self, video: Any, start: float, end: float | None, fps: float | None) -> tuple[EditFrames, np.ndarray]:
        """The frames in their original size, and resized for the base model."""
        read = video if isinstance(video, EditFrames) else read_stretch(video, start, end, fps)
        _, height, width, _ = read.frames.shape
        return read, resized(read.frames, edit_size(height, width, self.vae, self.model.unet))

    def _features_of(self, frames: np.ndarray) -> Callable[[str], dict[str, Tensor]]:
        """A cached function from a prompt to the SEN's features; without a text neuron it computes them only once."""
        reads_text = any(spec.modality == "text" for spec in self.model.sen.specs.values())

        @cache
        def features(prompt: str | None) -> dict[str, Tensor]:
            return self.model.video_features(frames, prompt)

        return lambda prompt: features(prompt if reads_text else None)


class _Predictions:
    """Predictions of the video UNet for all frames of a clip, with a count for progress reports.

    Attributes:
        done: number of predictions so far.
        total: expected number of predictions.
    """

    def __init__(
        self,
        model: SENForVideoEditing,
        num_frames: int,
        window: int,
        overlap: int,
        progress: Callable[[int, int], None] | None,
    ):
        self.model, self.windows, self.progress = model, (num_frames, window, overlap), progress
        self.done = self.total = 0

    def of(
        self, text: Tensor, features: Mapping[str, Tensor], guidance: float = 1.0, without_text: Tensor | None = None
    ) -> Predict:
        """The predictor under a text (1, tokens, width), guided away from `without_text`; both share the SEN's features."""
        rows = text if without_text is None or guidance == 1 else torch.cat([without_text, text])

        def predict_window(latents: Tensor, timestep: int, frames: list[int]) -> Tensor:
            batch = latents.to(self.model.unet.dtype).expand(len(rows), -1, -1, -1, -1)
            own = {name: values[:, frames] for name, values in features.items()}
            output = self.model.predict(batch, timestep, rows, own).to(latents.dtype)
            return output if len(rows) == 1 else torch.lerp(output[:1], output[1:], guidance)

        predict_all = windowed(predict_window, *self.windows)

        def predict(latents: Tensor, timestep: int) -> Tensor:
            output = predict_all(latents, timestep)
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)
            return output

        return predict


def as_mask(mask: Any, frames: np.ndarray) -> np.ndarray:
    """Converts any mask that [`SENVideoEditingPipeline.edit`] accepts to (T, H, W) bool."""
    if isinstance(mask, SENTrackingOutput):
        mask = points_mask(mask.tracks, mask.visibility, mask.frame_size)
    num_frames, height, width, _ = frames.shape
    return read_mask(mask, num_frames, (height, width))


__all__ = ["SENVideoEditingPipeline", "VideoEditingOutput", "as_mask"]
