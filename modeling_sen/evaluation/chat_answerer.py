# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A chat model as an `Answerer` for [`measure_chat`]: each question is a separate chat; each clip is encoded once."""

import torch
from transformers import AutoModel, AutoProcessor

from modeling_sen.chat.generate_answer import generate_answers, generation_options
from modeling_sen.chat.messages import question_message
from modeling_sen.chat.prompts import default_new_tokens, prompt_ids
from modeling_sen.chat.video_features import VideoFeatures, as_encoder_outputs
from modeling_sen.evaluation.question_sets import AskedClip
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.video_windows import ChatVideo

MAX_NEW_TOKENS = 64


class ChatAnswerer:
    """Answers by greedy decoding.

    Args:
        model, processor: of a chat checkpoint.
        num_frames: number of time steps of each clip, by default one window.
        max_new_tokens: tokens of an answer at most, by default 64, or a quarter of the context if that is less.
    """

    def __init__(
        self,
        model: SENForConditionalGeneration,
        processor: SENChatProcessor,
        num_frames: int | None = None,
        max_new_tokens: int | None = None,
    ):
        self.model, self.processor, self.num_frames = model, processor, num_frames
        self.max_new_tokens = max_new_tokens or min(MAX_NEW_TOKENS, default_new_tokens(processor))
        self._last: tuple[AskedClip, ChatVideo, VideoFeatures] | None = None

    def __call__(self, clip: AskedClip, prompt: str, options: tuple[str, ...] = ()) -> str:
        """Answers one question, without special tokens.

        Args:
            clip: the clip, which is read and encoded unless it is the same object as in the last call.
            prompt: the user's text.
            options: not used, because the prompt lists them if its format requires it.

        Raises:
            ValueError, OSError: the clip cannot be read, or its tokens do not fit in the context.
        """
        video, encoded = self._encoded(clip)
        ids = prompt_ids(self.processor, [question_message(prompt, [video])], self.max_new_tokens)
        tokens = torch.tensor([ids], device=self.model.device)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        tokenizer = self.processor.tokenizer
        (answer,) = generate_answers(
            self.model,
            tokenizer,
            inputs | as_encoder_outputs([encoded.visual_tokens(prompt)]),
            generation_options(self.model, tokenizer, self.max_new_tokens),
        )
        return answer.text.strip()

    def _encoded(self, clip: AskedClip) -> tuple[ChatVideo, VideoFeatures]:
        if self._last is None or self._last[0] is not clip:
            self._last = None  # frees its memory before the next clip is read
            video = self.processor.read_video(clip.video, self.num_frames, start=clip.start, end=clip.end)
            self._last = clip, video, VideoFeatures(self.model, self.processor, video)
        return self._last[1:]


def load_answerer(
    checkpoint: str, num_frames: int | None = None, device: str | None = None, dtype: str | None = None
) -> ChatAnswerer:
    """Loads a chat model with its processor.

    Args:
        checkpoint: folder or Hub id.
        num_frames: see [`ChatAnswerer`].
        device: device of the model; by default the first GPU, or the CPU.
        dtype: dtype of the model, e.g. `"bfloat16"`; by default that of the checkpoint.

    Raises:
        ValueError: not a chat model.
        OSError, RuntimeError: the checkpoint cannot be found or is incomplete.
    """
    model = AutoModel.from_pretrained(checkpoint, **({} if dtype is None else {"dtype": dtype}))
    if not isinstance(model, SENForConditionalGeneration):
        raise ValueError(
            f"{checkpoint}: expected a model that answers questions about videos, found one of type "
            f"{model.config.model_type!r}"
        )
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    model.eval()
    return ChatAnswerer(model, AutoProcessor.from_pretrained(checkpoint), num_frames)


__all__ = ["MAX_NEW_TOKENS", "ChatAnswerer", "load_answerer"]
