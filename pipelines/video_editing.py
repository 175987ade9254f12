# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override"
"""`pipeline("video-editing")`: edits a clip by a prompt with a diffusion model that is first tuned on the clip."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel

from modeling_sen.clip_inputs import clip_entries, opened_clip
from modeling_sen.modeling_sen_editing import SENForVideoEditing
from modeling_sen.pipelines.video_pipeline import VideoPipeline
from modeling_sen.presets import SEN_TINY_TRACKING

# Options passed to `SENVideoEditingPipeline.edit` unchanged.
EDIT_OPTIONS = (
    *("inversion", "num_inference_steps", "guidance_scale", "negative_prompt", "mask", "window", "overlap"),
    *("refinements", "skip", "seed"),
)
OPTIONS = (
    *("source_prompt", "edit_prompt", "adapter", "tune", "tuning", "scorer", "progress", "start", "end", "fps"),
    *EDIT_OPTIONS,
)


@dataclass(frozen=True)
class _Whole:
    """Wraps a value so that the base class does not split it into items."""

    value: Any


class VideoEditingPipeline(VideoPipeline):
    """Edits videos with a SEN that has an editing adapter on a diffusion model.

    ```python
    >>> import modeling_sen
    >>> from transformers import pipeline

    >>> edit = pipeline("video-editing", model=modeling_sen.SEN_TINY_EDITING)
    >>> edited = edit("clip.mp4", source_prompt="a red circle moving left", edit_prompt="a blue circle moving left")
    >>> edited.save("edited.mp4")
    >>> again = edit("clip.mp4", "a red circle moving left", "a red star moving left", adapter=edited.adapter)
    ```

    Each tuning starts from the checkpoint's adapter and does not change the adapters of earlier results.
    """

    model: SENForVideoEditing  # type: ignore[assignment]
    _load_processor = False  # the model prepares frames itself

    def __init__(self, *args: Any, **kwargs: Any):
        model = kwargs["model"] if "model" in kwargs else args[0]
        if not isinstance(model, SENForVideoEditing):
            raise ValueError(
                f"model: expected a SEN with an editing adapter, of model type 'sen_editing', found {type(model).__name__}"
            )
        super().__init__(*args, **kwargs)
        from modeling_sen.pipelines.sen_video_editing import SENVideoEditingPipeline

        self.editor: Any = SENVideoEditingPipeline.from_model(self.model)
        self._loaded = self.model.adapter

    def __call__(
        self,
        video: Any = None,
        source_prompt: str | None = None,
        edit_prompt: str | Sequence[str] | None = None,
        *,
        adapter: Any = None,
        tune: bool | None = None,
        tuning: Any = None,
        scorer: str | None = None,
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            video: one or several videos, see [`VideoPipeline`]. From a dict of modalities, only the video is used.
            source_prompt: description of the clip.
            edit_prompt: description of the edited clip. Several prompts in a list share tuning, reading and inversion.
            adapter: adapter to use instead of tuning: that of an earlier result, or the folder or Hub id of an adapter or a
                checkpoint.
            tune: whether to tune the adapter on the clip and `source_prompt` first. By default it is tuned if no `adapter` is
                given and the checkpoint's adapter has no record of a tuning (`model.adapter.config.tuning is None`).
            tuning: a `TuningSettings`.
            scorer: folder or Hub id of a CLIP, or of a SEN with a text tower, which computes the alignment scores.
            progress: whether to show progress on standard error; by default on terminals.
            kwargs: `start`, `end` (seconds) and `fps` of the edited part, by default every frame of the clip; `mask`,
                `inversion`, `num_inference_steps`, `guidance_scale`, `negative_prompt`, `window`, `overlap`, `refinements`,
                `skip`, `seed`, see `SENVideoEditingPipeline.edit`. All arguments except `video` may also be passed to
                `pipeline(...)` as defaults.

        Returns:
            [`SENEditingOutput`] for one video and prompt; a list of these for a list of prompts; a list of either for a list
            of videos; an iterator for generators and datasets.

        Raises:
            ValueError: a prompt that is missing, empty or too long; an option out of range; a mask of the wrong size; an
                adapter of another base model; or an input that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        given = {
            "source_prompt": source_prompt,
            "edit_prompt": edit_prompt,
            "adapter": adapter,
            "tune": tune,
            "tuning": tuning,
            "scorer": scorer,
            "progress": progress,
        }
        options = {name: value for name, value in given.items() if value is not None}
        return super().__call__(video, **options, **kwargs)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise TypeError(f"unknown options {', '.join(unknown)}, expected some of {', '.join(OPTIONS)}")
        return {}, options, {}

    def preprocess(self, video: Any) -> dict[str, Any]:
        return {"rows": [video]}

    def collate(self, rows: Sequence[Any]) -> dict[str, Any]:
        return {"clips": _Whole(rows)}  # edited one after the other

    def _forward(self, inputs: Mapping[str, Any], **options: Any) -> dict[str, list[_Whole]]:
        return {"results": [_Whole(self._edit(clip, **options)) for clip in inputs["clips"].value]}

    def postprocess(self, outputs: Mapping[str, Any]) -> Any:
        results = outputs["results"]
        return (results[0] if isinstance(results, list) else results).value

    def _edit(
        self,
        clip: Any,
        source_prompt: str | None = None,
        edit_prompt: str | Sequence[str] | None = None,
        adapter: Any = None,
        tune: bool | None = None,
        tuning: Any = None,
        scorer: str | None = None,
        progress: bool | None = None,
        start: float = 0.0,
        end: float | None = None,
        fps: float | None = None,
        mask: Any = None,
        **options: Any,
    ) -> Any:
        from modeling_sen.editing.edit_frames import read_stretch
        from modeling_sen.editing.tuning_record import name_of

        for name, prompt in (("source_prompt", source_prompt), ("edit_prompt", edit_prompt)):
            if prompt is None:
                raise ValueError(f"{name}: expected a description of the {name.removesuffix('_prompt')}, found None")
        video = clip_entries(clip).get("video")
        with opened_clip(clip) as entries:
            if "video" not in entries:
                raise ValueError(f"clip: expected a video, found {', '.join(entries) or 'nothing'}")
            read = read_stretch(entries["video"], start, end, fps)
        options = {**(self.model.config.edit_settings or {}), **options}
        mask = self._checked_mask(
            read, source_prompt, edit_prompt, mask, options
        )  # before tuning, which takes minutes
        encoder = None if scorer is None else self._encoder(scorer)
        if self._choose_adapter(adapter, tune):
            with torch.enable_grad():  # the base class disables gradients in `_forward`
                shown = {} if progress is None else {"progress": progress}
                self.editor.tune(read, source_prompt, tuning, video_name=name_of(video), **shown)
        with tqdm(desc="edit", disable=None if progress is None else not progress) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            found = self.editor.edit(read, edit_prompt, source_prompt, mask=mask, progress=show, **options)
        edits = [found] if isinstance(edit_prompt, str) else found
        results = [self._scored(edit, video, scorer, encoder) for edit in edits]
        return results[0] if isinstance(edit_prompt, str) else results

    def _checked_mask(
        self, read: Any, source_prompt: Any, edit_prompt: Any, mask: Any, options: Mapping[str, Any]
    ) -> np.ndarray | None:
        """Checks prompts, options and mask as `SENVideoEditingPipeline.edit` does; returns the mask, (T, H, W) bool."""
        from modeling_sen.editing.frame_windows import frame_windows
        from modeling_sen.editing.latents import encode_prompts
        from modeling_sen.pipelines.sen_video_editing import as_mask

        prompts = [edit_prompt] if isinstance(edit_prompt, str) else list(edit_prompt)
        if not prompts:
            raise ValueError("edit_prompt: expected at least one, found an empty list")
        encode_prompts(self.editor.parts, [source_prompt, *prompts], options.get("negative_prompt"))
        for check, names in (
            (self.editor.check_options, ("inversion", "num_inference_steps", "guidance_scale")),
            (partial(frame_windows, len(read.frames)), ("window", "overlap")),
        ):
            check(**{name: options[name] for name in names if name in options})
        return None if mask is None else as_mask(mask, read.frames)

    def _choose_adapter(self, adapter: Any, tune: bool | None) -> bool:
        """Attaches the adapter for an edit to the model; returns whether it must be tuned first."""
        if adapter is not None and tune:
            raise ValueError("adapter, tune: expected at most one of them, found an adapter and tune=True")
        from modeling_sen.editing.open_adapter import fresh_copy, open_adapter

        if isinstance(adapter, str | os.PathLike):
            adapter = open_adapter(str(adapter))
        tunes = adapter is None and (self._loaded.config.tuning is None if tune is None else tune)
        chosen = fresh_copy(self._loaded) if tunes else self._loaded if adapter is None else adapter
        if chosen is not self.model.adapter:
            self.model.attach_adapter(chosen.eval())
        return tunes

    def _scored(self, edit: Any, video: Any, scorer: str | None, encoder: Any) -> Any:
        from modeling_sen.editing.editing_output import SENEditingOutput
        from modeling_sen.editing.tuning_record import name_of
        from modeling_sen.evaluation.editing_scores import editing_scores, has_opencv

        source_prompt, prompt = edit.settings["source_prompt"], edit.settings["prompt"]
        track = self._tracker().track if has_opencv() else None
        scores = editing_scores(edit.source_frames, edit.frames, source_prompt, prompt, edit.mask, encoder, track)
        own = {name: value for name, value in edit.settings.items() if name not in ("prompt", "source_prompt")}
        adapter = self.model.adapter
        return SENEditingOutput(
            frames=edit.frames,
            source_frames=edit.source_frames,
            times=edit.times,
            fps=edit.fps,
            source_prompt=source_prompt,
            edit_prompt=prompt,
            scores=scores,
            settings={
                "video": name_of(video),
                "model": self.model.name_or_path,
                "settings": own,
                "has_mask": edit.mask is not None,
                "tuning": adapter.config.tuning,
                "scorer": scorer,
                "tracker": None if track is None else "sen-tiny",
            },
            adapter=adapter,
            video=video,
        )

    @cache  # noqa: B019 (a pipeline usually exists until the program ends)
    def _encoder(self, checkpoint: str) -> Any:
        from modeling_sen.evaluation.editing_encoders import load_encoder

        return load_encoder(checkpoint, str(self.device)).encoder

    @cache  # noqa: B019
    def _tracker(self) -> Any:
        return AutoModel.from_pretrained(SEN_TINY_TRACKING).to(self.device).eval()


__all__ = ["VideoEditingPipeline"]
