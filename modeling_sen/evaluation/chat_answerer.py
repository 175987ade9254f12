# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A chat model as [`measure_chat`] asks it: each question is a chat of its own, and a clip is read and encoded once."""

from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

from modeling_sen.evaluation.question_sets import AskedClip

MAX_NEW_TOKENS = 64


class ChatAnswerer:
    """Answers by greedy decoding.

    Args:
        model: with `get_video_features`, `encode_trunks` and `generate`, as [`SENForConditionalGeneration`].
        processor: with `read_video` and `apply_chat_template`, as [`SENChatProcessor`].
        num_frames: steps in time of each clip, by default one window.
    """

    def __init__(
        self, model: Any, processor: Any, num_frames: int | None = None, max_new_tokens: int = MAX_NEW_TOKENS
    ):
        self.model, self.processor = model, processor
        self.num_frames, self.max_new_tokens = num_frames, max_new_tokens
        self._clip: AskedClip | None = None
        self._video: Any = None  # as the processor reads it
        self._encoded: Any = None  # visual tokens or, where these depend on the question, the neurons' first looks

    @torch.inference_mode()
    def __call__(self, clip: AskedClip, prompt: str, options: tuple[str, ...] = ()) -> str:
        """The answer to one question, without special tokens.

        Args:
            clip: read and encoded again only where it is another object than the last one.
            prompt: the text of the user.
            options: not read: where a model should see them, they are in the prompt.

        Raises:
            ValueError, OSError: the clip cannot be read, or its tokens do not fit in the context.
        """
        if clip is not self._clip:
            self._clip = self._encoded = None
            self._video = self.processor.read_video(
                clip.video, num_frames=self.num_frames, start=clip.start, end=clip.end
            )
            self._clip = clip
        parts = [{"type": "video", "video": self._video}, {"type": "text", "text": prompt}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            max_new_tokens=self.max_new_tokens,
        ).to(self.model.device)
        tokens = {name: inputs.pop(name) for name in ("input_ids", "attention_mask")}
        output = self.model.generate(
            **tokens,
            mm_encoder_outputs={"video": self._features(dict(inputs))},
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
        )
        answer = output[0, tokens["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(answer, skip_special_tokens=True).strip()

    def _features(self, inputs: dict[str, Any]) -> Any:
        """The visual tokens of the clip, for this question."""
        asked = self.model.config.question_neuron
        if asked is None:
            if self._encoded is None:
                self._encoded = self.model.get_video_features(**inputs)
            return self._encoded
        common = ("neuron_mask", "frame_times")
        of_question = {name: value for name, value in inputs.items() if name.startswith(f"{asked}_")}
        if self._encoded is None:
            rest = inputs.keys() - of_question.keys() - set(common)
            self._encoded = self.model.encode_trunks(**{name: inputs[name] for name in rest})
        kept = {name: inputs[name] for name in common if name in inputs}
        return self.model.get_video_features(trunks=self._encoded, **kept, **of_question)


def load_answerer(
    checkpoint: str, num_frames: int | None = None, device: str | None = None, dtype: str | None = None
) -> ChatAnswerer:
    """A chat model with its processor.

    Args:
        checkpoint: folder or Hub id.
        num_frames: as of [`ChatAnswerer`].
        device: where the model runs; by default the first GPU, or the CPU.
        dtype: of the model, e.g. `"bfloat16"`; by default the one it was saved in.

    Raises:
        ValueError: a model of another kind.
        OSError, RuntimeError: the checkpoint cannot be found or is not whole.
    """
    model = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    if not (hasattr(model, "get_video_features") and model.can_generate()):
        raise ValueError(
            f"{checkpoint}: expected a model that answers questions about videos, found one of type "
            f"{model.config.model_type!r}"
        )
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return ChatAnswerer(model, AutoProcessor.from_pretrained(checkpoint), num_frames)


__all__ = ["MAX_NEW_TOKENS", "ChatAnswerer", "load_answerer"]
