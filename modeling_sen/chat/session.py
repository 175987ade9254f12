# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ChatSession: several questions about one or more videos; encoders and language model process each video once."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from modeling_sen.chat.generate_answer import Answer, generate_answers, generation_options, stream_answer
from modeling_sen.chat.key_value_cache import KeyValueCache
from modeling_sen.chat.messages import Message, question_message, videos_of, with_videos
from modeling_sen.chat.prompts import (
    answer_result,
    default_new_tokens,
    one_window,
    prompt_ids,
    without_inputs,
)
from modeling_sen.chat.video_features import VideoFeatures, as_encoder_outputs
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import SENChatProcessor
from modeling_sen.video_windows import ChatVideo

# Share of the context that is reserved for questions and answers.
TEXT_SHARE = 0.25
# Arguments of `generate` that exclude reuse of the keys and values of earlier turns.
_WITHOUT_CACHE = {"assistant_model", "cache_implementation", "num_beams", "prompt_lookup_num_tokens", "use_cache"}


@dataclass
class _SessionVideo:
    given: Any  # as passed by the user
    read: ChatVideo  # without inputs
    features: VideoFeatures


@dataclass
class _Place:
    """An occurrence of a video in the prompt: unique numbers of its windows, and their visual tokens."""

    windows: range
    features: Tensor  # (windows, visual_tokens, width)


class ChatSession:
    """A conversation about videos.

    A turn that fails or is interrupted does not change the session's messages and videos.

    ```python
    session = ChatSession(model, processor)
    session.ask("What happens?", video="clip.mp4")["answer"]
    for piece in session.ask("And then?", stream=True):  # pieces of text, then the result
        ...
    ```

    Args:
        model, processor: of a chat checkpoint.
        max_new_tokens: tokens of an answer at most; by default 256, or a quarter of a shorter context.
        generate_kwargs: arguments of Transformers' `generate` for all answers.

    Raises:
        ValueError: `max_new_tokens` below 1.
    """

    def __init__(
        self,
        model: SENForConditionalGeneration,
        processor: SENChatProcessor,
        *,
        max_new_tokens: int | None = None,
        **generate_kwargs: Any,
    ):
        self.model, self.processor = model, processor
        self.generate_kwargs = {**generate_kwargs, "max_new_tokens": max_new_tokens or default_new_tokens(processor)}
        generation_options(model, processor.tokenizer, **self.generate_kwargs)
        self._numbers = count()  # unique window numbers
        self._stream: Generator[Any, None, None] | None = None
        self.reset()

    def reset(self, keep_videos: bool = False) -> None:
        """Starts a new conversation.

        Args:
            keep_videos: whether to add the videos so far to the next question, without encoding them again.
        """
        self._close_stream()
        self._pending: list[_SessionVideo] = [*self._videos, *self._pending] if keep_videos else []
        self._videos: list[_SessionVideo] = []  # the videos of the messages
        self._messages: list[Message] = []  # with videos as passed by the user
        self._prompt: list[Message] = []  # with videos as read
        self._places: list[_Place] = []
        self._cache = KeyValueCache(self.model.config.text_config)  # type: ignore[arg-type]

    @property
    def messages(self) -> list[Message]:
        """The conversation in Transformers' chat layout, with videos as passed; a valid input of `pipeline("video-chat")`."""
        return list(self._messages)

    def add_video(
        self,
        video: Any,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> ChatVideo:
        """Reads and encodes a video and adds it to the next question.

        Args:
            video: path, URL, bytes, file object, (T, H, W, 3) uint8 array, list of images, or dict of modalities.
            num_frames, fps, start, end: see [`SENChatProcessor.read_video`]. The number of frames is reduced if they exceed
                the context left by the conversation so far and by a quarter reserved for questions and answers.

        Returns:
            The video with `frame_times` (windows, steps) and `has_sound`, without `inputs`.

        Raises:
            ValueError, OSError, TypeError: see [`SENChatProcessor.read_video`].
        """
        self._close_stream()
        sampling = {"num_frames": num_frames, "fps": fps, "start": start, "end": end}
        read = self._read(video, self._pending, "?", self.generate_kwargs["max_new_tokens"], sampling)
        self._pending.append(read)
        return read.read

    def ask(
        self,
        question: str,
        video: Any = None,
        *,
        stream: bool = False,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        """Answers a question about all videos so far.

        Args:
            question: the question.
            video: a new video, placed before the question in the prompt; see [`add_video`].
            stream: whether to yield the answer in pieces. Generation ends after the current token if the iterator is closed
                or interrupted.
            num_frames, fps, start, end: sampling of `video`, see [`add_video`].
            generate_kwargs: `max_new_tokens` and other arguments of `generate` for this answer.

        Returns:
            `{"answer": str, "frame_times": a list of seconds for each video so far, "visual_tokens": int, "finish_reason":
            "stop" | "length"}`; with `stream`, an iterator over the pieces of the answer's text, followed by this dict.

        Raises:
            ValueError: no question; a conversation longer than the context; and see [`add_video`]. With `stream`, the call
                raises errors of the question and the video, and the iterator raises errors of generation.
        """
        self._close_stream()
        question_message(question, [])  # checked before any work
        options = generation_options(
            self.model, self.processor.tokenizer, **{**self.generate_kwargs, **generate_kwargs}
        )
        turn_videos = list(self._pending)
        if video is not None:
            sampling = {"num_frames": num_frames, "fps": fps, "start": start, "end": end}
            turn_videos.append(self._read(video, turn_videos, question, options["max_new_tokens"], sampling))
        videos = [*self._videos, *turn_videos]
        prompt = [*self._prompt, question_message(question, [each.read for each in turn_videos])]
        ids = prompt_ids(self.processor, prompt, options["max_new_tokens"])
        asked = question_message(question, [each.given for each in turn_videos])
        # As in `SENChatProcessor.videos_in_prompt`: with a question neuron, each question is preceded by all videos.
        shown = turn_videos if self.processor.config.question_neuron is None else videos
        places = [*self._places, *(self._place(each, question) for each in shown)]
        turn = self._turn(asked, prompt, ids, videos, places, options, stream)
        if stream:
            self._stream = turn
            return turn
        return list(turn)[-1]

    # --- one turn ----------------------------------------------------------------------------------------------------

    def _read(
        self,
        video: Any,
        before: Sequence[_SessionVideo],
        question: str,
        max_new_tokens: int,
        sampling: dict[str, Any],
    ) -> _SessionVideo:
        """Reads and encodes a video that follows the videos `before` in the same message."""
        messages = [*self._prompt, question_message(question, [*(each.read for each in before), video])]
        room, context = max_new_tokens, self.processor.context_length
        if context is not None:
            least = with_videos(messages, [*videos_of(messages)[:-1], one_window(self.processor)])
            left = context - len(prompt_ids(self.processor, least, max_new_tokens))
            room = max(room, min(round(TEXT_SHARE * context), left))
        *_, read = self.processor.read_videos(messages, room, **sampling)
        return _SessionVideo(video, without_inputs(read), VideoFeatures(self.model, self.processor, read))

    def _turn(
        self,
        asked: Message,
        prompt: Sequence[Message],
        ids: list[int],
        videos: list[_SessionVideo],
        places: list[_Place],
        options: dict[str, Any],
        stream: bool,
    ) -> Generator[Any, None, None]:
        """Yields the result, with `stream` after the pieces; changes the session only when the answer is complete."""
        answer = yield from self._answer(ids, places, options, stream)
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer.text}]}
        self._messages += [asked, reply]
        self._prompt = [*prompt, reply]
        self._videos, self._places, self._pending, self._stream = videos, places, [], None
        yield answer_result(answer, [each.read for each in videos], ids.count(self.processor.video_token_id))

    def _place(self, video: _SessionVideo, question: str) -> _Place:
        first = next(self._numbers)
        windows = range(first, first + video.read.num_windows)
        self._numbers = count(windows.stop)
        return _Place(windows, video.features.visual_tokens(question))

    def _answer(
        self, ids: list[int], places: Sequence[_Place], options: dict[str, Any], stream: bool
    ) -> Generator[str, None, Answer]:
        """Returns the answer, with `stream` after yielding its pieces; processes only tokens that are not in the cache."""
        keys = self._keys(ids, places)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self.model.device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        uses_cache = not _WITHOUT_CACHE & set(options)
        start = self._cache.cut(self._start(keys)) if uses_cache else 0
        if uses_cache:
            inputs["cache"] = self._cache.cache
        inputs |= as_encoder_outputs(self._features(keys[start:], places))
        answer: Answer | None = None
        try:
            if stream:
                answer = yield from stream_answer(self.model, self.processor.tokenizer, inputs, options)
            else:
                [answer] = generate_answers(self.model, self.processor.tokenizer, inputs, options)
        finally:
            if uses_cache and answer is None:  # generation failed; the first `start` tokens are still valid
                self._cache.cut(start, changed=True)
        if uses_cache:
            self._cache.grown([*keys, *answer.token_ids])
        return answer

    def _keys(self, ids: Sequence[int], places: Sequence[_Place]) -> list[int]:
        """Token ids, with a unique negative number in place of each visual token."""
        size = self.processor.config.visual_tokens
        visual = iter(
            [-1 - window * size - token for place in places for window in place.windows for token in range(size)]
        )
        return [next(visual) if token == self.processor.video_token_id else token for token in ids]

    def _start(self, keys: Sequence[int]) -> int:
        """Position of the first token to process; a window's visual tokens are processed together."""
        start = self._cache.common(keys)
        size = self.processor.config.visual_tokens
        first = next((key for key in keys[start:] if key < 0), None)
        return start if first is None else min(start, keys.index(first + (-1 - first) % size))

    def _features(self, keys: Sequence[int], places: Sequence[_Place]) -> list[Tensor]:
        """Visual tokens of the windows that occur among the keys."""
        size = self.processor.config.visual_tokens
        read = {(-1 - key) // size for key in keys if key < 0}
        found = [
            (place, [number for number, window in enumerate(place.windows) if window in read]) for place in places
        ]
        return [place.features[numbers] for place, numbers in found if numbers]

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


__all__ = ["ChatSession"]
