# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
# mypy: disable-error-code="override"
"""`pipeline("video-chat")`: answers to questions about videos."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import Dataset as TorchDataset
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils.chat_template_utils import Chat

from modeling_sen.chat.generate_answer import generate_answers, generation_options, stream_answer
from modeling_sen.chat.messages import (
    Message,
    checked_messages,
    is_conversation,
    question_message,
    videos_of,
    with_videos,
)
from modeling_sen.chat.prompts import answer_result, default_new_tokens, prompt_ids
from modeling_sen.chat.video_features import VideoFeatures, as_encoder_outputs
from modeling_sen.clip_inputs import is_clip_batch
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.pipelines.video_pipeline import VideoPipeline
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.video_windows import ChatVideo, check_sampling


@dataclass
class _Prompt:
    """A preprocessed conversation."""

    input_ids: list[int]
    videos: list[ChatVideo]
    shown: list[
        tuple[ChatVideo, str]
    ]  # videos in the order of the prompt, each with the question of its visual tokens


class VideoChatPipeline(VideoPipeline):
    """Answers questions about videos with a SEN that has a language model.

    ```python
    >>> import modeling_sen
    >>> from transformers import pipeline

    >>> chat = pipeline("video-chat", model=modeling_sen.SEN_TINY_CHAT)
    >>> chat(video="clip.mp4", question="What colour is the circle?")["answer"]
    ```

    [`ChatSession`] asks several questions about the same videos without encoding them again.
    """

    model: SENForConditionalGeneration  # type: ignore[assignment]
    processor: SENChatProcessor  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any):
        model = kwargs["model"] if "model" in kwargs else args[0]
        if not isinstance(model, SENForConditionalGeneration):
            raise ValueError(
                f"model: expected a SEN with a language model, of model type 'sen_chat', found {type(model).__name__}"
            )
        self._shared: tuple[ChatVideo, VideoFeatures] | None = None  # a video for several questions
        super().__init__(*args, **kwargs)

    def __call__(
        self, messages: Any = None, *, video: Any = None, question: Any = None, stream: bool = False, **kwargs: Any
    ) -> Any:
        """
        Args:
            messages: a conversation in Transformers' chat layout: `[{"role": "user", "content": [{"type": "video", "path":
                "clip.mp4"}, {"type": "text", "text": "What happens?"}]}]`. Videos are paths, URLs, bytes, arrays, ..., see
                [`VideoPipeline`]; a conversation may have any number of videos and must end with a question. A list of
                conversations, a generator or a dataset is a batch; `[]` returns `[]`. Items may also be dicts
                `{"video": ..., "question": ...}`.
            video, question: instead of `messages`, a video and a question. A list of either or of both is a batch; a single
                video for several questions is encoded once.
            stream: whether to yield the answer to one conversation in pieces.
            kwargs: `num_frames` or `fps`, number or rate of time steps, by default one window; `start`, `end`, the part of
                the video in seconds; `max_new_tokens`, by default 256, or a quarter of a shorter context; `batch_size`,
                `num_workers`; all others are arguments of Transformers' `generate`, which is greedy by default. Options
                passed to `pipeline(...)` are the defaults.

        Returns:
            `{"answer": str, "frame_times": a list of seconds for each video, "visual_tokens": int, "finish_reason": "stop" |
            "length"}` for one conversation; a list of these for a list; an iterator for generators and datasets. With
            `stream`, an iterator over the pieces of the answer's text, followed by this dict.

        Raises:
            ValueError: no question, a malformed message, an option out of range, a conversation that is longer than the
                language model's context, or an input that cannot be read.
            FileNotFoundError, ConnectionError, TypeError: see `read_video`.
        """
        if messages is not None and (video is not None or question is not None):
            raise ValueError("messages: expected either messages or a video and a question, found both")
        if messages is None and video is None and question is None:
            raise ValueError("messages: expected messages, or a video and a question, found neither")
        try:
            inputs = self._paired(video, question, kwargs) if messages is None else _conversations(messages)
            if stream:
                return self._stream(inputs, **kwargs)
            return super().__call__(inputs, **kwargs)
        finally:
            self._shared = None

    def _stream(self, inputs: Any, **options: Any) -> Generator[Any, None, None]:
        if not isinstance(inputs, Mapping):
            raise ValueError("stream: expected one conversation to stream, found a batch")
        preprocess, forward, _ = self._sanitize_parameters(**options)
        [prompt] = self.preprocess(inputs, **{**self._preprocess_params, **preprocess})["rows"]
        return self._pieces(prompt, self._options(**{**self._forward_params, **forward}))

    def _paired(self, video: Any, question: Any, options: Mapping[str, Any]) -> Any:
        """Items `{"video", "question"}`: one, a list or a generator."""
        if video is None:
            raise ValueError(
                "video: expected a video for the question, found None; use messages to ask without a video"
            )
        if isinstance(video, GeneratorType | TorchDataset):
            return ({"video": each, "question": question} for each in video)  # type: ignore[union-attr]
        several = isinstance(video, list | tuple) and (not video or is_clip_batch(video))
        if not isinstance(question, list | tuple):
            return (
                [{"video": each, "question": question} for each in video]
                if several
                else {"video": video, "question": question}
            )
        if not several:
            if question:  # reads the video once for all questions
                message = question_message(max(question, key=lambda each: len(str(each))), [video])
                parameters = {**self._preprocess_params, **self._sanitize_parameters(**options)[0]}
                [video] = self._read([message], **parameters)
                self._shared = (video, VideoFeatures(self.model, self.processor, video))
            video = [video] * len(question)
        if len(video) != len(question):
            raise ValueError(f"question: expected one for each of {len(video)} videos, found {len(question)}")
        return [{"video": each, "question": asked} for each, asked in zip(video, question, strict=True)]

    def _sanitize_parameters(
        self,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        check_sampling(num_frames, fps, start, end)
        preprocess: dict[str, Any] = {}
        if num_frames is not None or fps is not None:  # either option of a call replaces both of `pipeline(...)`
            preprocess |= {"num_frames": num_frames, "fps": fps}
        preprocess |= {name: value for name, value in (("start", start), ("end", end)) if value is not None}
        length = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        self._options(**length, **generate_kwargs)  # raises errors before any work is done
        return {**preprocess, **length}, {**length, **generate_kwargs}, {}

    def _options(self, max_new_tokens: int | None = None, **generate_kwargs: Any) -> dict[str, Any]:
        return generation_options(
            self.model, self.processor.tokenizer, self._length(max_new_tokens), **generate_kwargs
        )

    def _length(self, max_new_tokens: int | None) -> int:
        return default_new_tokens(self.processor) if max_new_tokens is None else max_new_tokens

    def preprocess(self, item: Any, max_new_tokens: int | None = None, **sampling: Any) -> dict[str, Any]:
        messages = _messages_of(item)
        videos = self._read(messages, max_new_tokens, **sampling)
        messages = with_videos(messages, videos)
        ids = prompt_ids(self.processor, messages, self._length(max_new_tokens))
        return {"rows": [_Prompt(ids, videos, self.processor.videos_in_prompt(messages))]}

    def _read(
        self, messages: Sequence[Message], max_new_tokens: int | None = None, **sampling: Any
    ) -> list[ChatVideo]:
        if not videos_of(messages):
            return []
        return self.processor.read_videos(messages, self._length(max_new_tokens), **sampling)

    def collate(self, rows: Sequence[_Prompt]) -> dict[str, Any]:
        return {"prompts": rows}

    def _forward(self, inputs: Mapping[str, Any], **generate_kwargs: Any) -> dict[str, list[dict[str, Any]]]:
        prompts: Sequence[_Prompt] = inputs["prompts"]
        answers = generate_answers(
            self.model, self.processor.tokenizer, self._model_inputs(prompts), self._options(**generate_kwargs)
        )
        return {"results": [self._result(*pair) for pair in zip(answers, prompts, strict=True)]}

    def postprocess(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        results = outputs["results"]
        return results[0] if isinstance(results, list) else results

    def _pieces(self, prompt: _Prompt, options: Mapping[str, Any]) -> Generator[Any, None, None]:
        inputs = self._model_inputs([prompt])
        answer = yield from stream_answer(self.model, self.processor.tokenizer, inputs, options)
        yield self._result(answer, prompt)

    def _result(self, answer: Any, prompt: _Prompt) -> dict[str, Any]:
        return answer_result(answer, prompt.videos, prompt.input_ids.count(self.processor.video_token_id))

    def _model_inputs(self, prompts: Sequence[_Prompt]) -> dict[str, Any]:
        """The model's inputs: left-padded token ids, attention mask and visual tokens."""
        length = max(len(prompt.input_ids) for prompt in prompts)
        padding = [[self.processor.tokenizer.pad_token_id] * (length - len(prompt.input_ids)) for prompt in prompts]
        ids = [pad + prompt.input_ids for pad, prompt in zip(padding, prompts, strict=True)]
        mask = [[0] * len(pad) + [1] * (length - len(pad)) for pad in padding]
        tensors = {"input_ids": ids, "attention_mask": mask}
        inputs = {name: torch.tensor(rows, device=self.model.device) for name, rows in tensors.items()}
        encoded = {id(video): self._features(video) for prompt in prompts for video in prompt.videos}
        pairs = [pair for prompt in prompts for pair in prompt.shown]
        features = [encoded[id(video)].visual_tokens(question) for video, question in pairs]
        return {**inputs, **as_encoder_outputs(features)}

    def _features(self, video: ChatVideo) -> VideoFeatures:
        if self._shared is not None and self._shared[0] is video:
            return self._shared[1]
        return VideoFeatures(self.model, self.processor, video)


def _conversations(messages: Any) -> Any:
    """One item as a dict, a list of such, or a generator or dataset as it is."""
    if isinstance(messages, Mapping) or is_conversation(messages) or isinstance(messages, str):
        return messages if isinstance(messages, Mapping) else {"messages": messages}
    if isinstance(messages, list | tuple):
        return [item if isinstance(item, Mapping) else {"messages": item} for item in messages]
    if isinstance(messages, KeyDataset):
        return (item for item in messages)  # type: ignore[attr-defined]
    return messages


def _messages_of(item: Any) -> list[Message]:
    """Checked messages of an item."""
    if isinstance(item, Chat):  # the base class made it of a list of messages
        return checked_messages(item.messages)
    if not isinstance(item, Mapping):
        return checked_messages(item)
    if "messages" in item:
        return checked_messages(item["messages"])
    if item.get("video") is None:
        raise ValueError(f"expected 'video' and 'question', or 'messages', in an item, found {sorted(item)}")
    return [question_message(item.get("question"), [item["video"]])]


__all__ = ["VideoChatPipeline"]
