# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""SENChatProcessor: from a chat with videos to token ids with a placeholder for each visual token, and the SEN's inputs.

A video is cut into windows, each of which is a clip for the SEN and a fixed number of visual tokens for the language model.
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from .chat_prompt import (
    DEFAULT_TEMPLATE,
    VIDEO,
    VIDEO_PAD,
    add_placeholders,
    check_length,
    expanded_prompt,
    message_videos,
    prompts_and_questions,
    rendered,
    video_questions,
    videos_of_prompts,
    with_all_videos,
)
from .configuration_sen_chat import SENChatConfig
from .hub_files import HubSource, naming_errors
from .processing_sen import SENProcessor
from .text_reader import TOKENIZER_FILES
from .video_windows import ChatVideo, check_sampling, plan_windows
from .window_reader import log_reduction, read_to_fit, read_windows

# Tokens of the context that are left for the answer where nothing else is said.
ANSWER_TOKENS = 64


class SENChatProcessor(ProcessorMixin):
    """Prepares chats with videos for a [`SENForConditionalGeneration`].

    Args:
        config: the model's configuration, whose `video_token_id` is the tokenizer's id of `<|video_pad|>`.
        tokenizer: the language model's, with the placeholders as special tokens; see [`from_llm`].
        chat_template: by default the tokenizer's or, where it has none, a plain one.
        source: as of [`SENProcessor`].

    Raises:
        ValueError: the tokenizer has no placeholder, or another id for it.
    """

    def __init__(self, config: Any, tokenizer: Any, chat_template: str | None = None, source: HubSource | None = None):
        templates = tokenizer.chat_template
        own = templates.get("default") if isinstance(templates, dict) else templates
        super().__init__(tokenizer, chat_template=chat_template or own or DEFAULT_TEMPLATE)
        self.config, self.source = config, source
        self.sen_processor = SENProcessor(config.sen_config, source)
        found = tokenizer.get_vocab().get(VIDEO_PAD)
        if found != config.video_token_id:
            raise ValueError(
                f"tokenizer: expected {VIDEO_PAD!r} as its token {config.video_token_id}, which is "
                f"config.video_token_id, found {'no such token' if found is None else found}"
            )
        self.video_token, self.video_token_id = VIDEO, found
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"  # answers are written behind the prompts

    @property
    def commit(self) -> str | None:
        """The commit of the checkpoint that it was loaded from, where that is a Hub repository."""
        return None if self.source is None else self.source.commit

    @property
    def context_length(self) -> int | None:
        """Tokens that the language model has positions for; `None` where it has no bound."""
        return getattr(self.config.text_config, "max_position_embeddings", None)

    # --- videos ------------------------------------------------------------------------------------------------------

    def read_video(
        self,
        video: Any,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        text: str | None = None,
        max_windows: int | None = None,
    ) -> ChatVideo:
        """Reads a video once, for any number of questions: the result is taken wherever a video is.

        Args:
            video: one clip, as [`SENProcessor`] takes it.
            num_frames: steps in time in the prompt, rounded up to whole windows of `config.window_frames`; one window
                without `num_frames` and `fps`.
            fps: steps per second instead.
            start, end: seconds of the stretch that is read; the whole video without them.
            text: the question, for `config.question_neuron`.
            max_windows: a larger number of windows is reduced to it, and logged.

        Raises:
            ValueError: a stretch outside of the video, or a number out of range; and as [`SENProcessor`].
            OSError, TypeError: as [`SENProcessor`].
        """
        check_sampling(num_frames, fps, start, end)
        if max_windows is not None and max_windows < 1:
            raise ValueError(f"max_windows: expected at least 1, found {max_windows}")
        with self.sen_processor.open_clip(video) as clip:
            plan = plan_windows(clip.duration, self.config.window_frames, num_frames, fps, start, end)
            if max_windows is not None and plan.count > max_windows:
                log_reduction(self.config, plan.count, max_windows, f"there is room for {max_windows} windows")
                plan = replace(plan, count=max_windows)
            read = read_windows(self.sen_processor, self.config, clip, plan)
        return read if text is None else self.ask(read, text)

    def read_videos(
        self, messages: Sequence[Mapping[str, Any]], max_new_tokens: int = ANSWER_TOKENS, **sampling: Any
    ) -> list[ChatVideo]:
        """Reads the videos of a chat, with no more frames than leave room in the context for its text and the answer.

        Args:
            messages: as [`apply_chat_template`] takes them; of a video that was read before, the windows are kept.
            sampling: `num_frames`, `fps`, `start`, `end` as in [`read_video`].

        Raises:
            ValueError, OSError, TypeError: as of a call.

        Returns:
            One for each video of the messages, without a question.
        """
        budget = None if self.context_length is None else self.context_length - max_new_tokens
        text = self.apply_chat_template(messages, add_generation_prompt=True)
        videos = [video for video, _ in self.videos_in_prompt(messages)]
        read = self._with_videos(text, videos, budget, sampling, add_special_tokens=False)[1]
        found = dict(zip(map(id, videos), read, strict=True))
        return [found[id(video)] for video in message_videos(messages)]

    def videos_in_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[tuple[Any, str]]:
        """The videos of a chat's prompt in order, each with the question that its visual tokens depend on.

        With `config.question_neuron`, each message of the user begins with all videos of the messages before it, so that a
        video occurs once for each question.

        Raises:
            ValueError: as [`apply_chat_template`].
        """
        shown = self._shown(messages)
        return list(zip(message_videos(shown), video_questions(shown), strict=True))

    def _shown(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """A chat as its prompt has it."""
        return messages if self.config.question_neuron is None else with_all_videos(messages)

    def ask(self, video: ChatVideo, text: str) -> ChatVideo:
        """A video that was read before, with another question for `config.question_neuron`."""
        if (neuron := self.config.question_neuron) is None:
            return video
        rows = [{**row, f"{neuron}_input_ids": text} for row in video.inputs]
        return ChatVideo(rows, video.frame_times, video.has_sound)

    # --- prompts -----------------------------------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        videos: Any = None,
        images: None = None,
        audio: None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_length: int | None = None,
        max_new_tokens: int = ANSWER_TOKENS,
        questions: str | Sequence[str | Sequence[str]] | None = None,
        padding: bool | str = True,
        truncation: bool = False,
        add_special_tokens: bool = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """
        Args:
            text: prompts, with one `<|video|>` for each video.
            videos: the videos of all prompts in order, or a list of them for each prompt; each as [`SENProcessor`] takes a
                clip, or read before by [`read_video`].
            images, audio: `None`; a clip's images and sound are entries of the clip.
            num_frames, fps, start, end: as in [`read_video`], for all videos that were not read before.
            max_length: tokens of a prompt with its answer; the language model's context without it.
            max_new_tokens: those of them that are left for the answer. Frames are reduced to what fits.
            questions: what `config.question_neuron` reads with each prompt, or with each video of each prompt; by default the
                prompt without its videos.
            padding: as of tokenizers; prompts are padded on the left.
            truncation: whether prompts without video that are too long are cut. No prompt with video ever is.
            return_tensors: only `"pt"`.

        Returns:
            `input_ids` and `attention_mask` (prompts, tokens) int64, and the SEN's inputs, as of [`SENProcessor`], with one
            row for each window of all videos, in order of the prompts; without videos there are none.

        Raises:
            ValueError: numbers of videos and placeholders differ; a `<|video_pad|>` in a text; a prompt that is too long
                with one window of each video; and as [`read_video`].
            OSError, TypeError: as [`SENProcessor`].
        """
        if images is not None or audio is not None:
            raise ValueError("SENChatProcessor: expected text and videos, found images or audio")
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}, expected 'pt'")
        texts, asked = prompts_and_questions(text, questions)
        check_sampling(num_frames, fps, start, end)
        length = self.context_length if max_length is None else max_length
        budget = None if length is None else length - max_new_tokens
        sampling = {"num_frames": num_frames, "fps": fps, "start": start, "end": end}
        prompts, rows = [], []
        for line, own_questions, own in zip(texts, asked, videos_of_prompts(texts, videos), strict=True):
            if own:
                line, read = self._with_videos(line, own, budget, sampling, add_special_tokens)
                pairs = zip(read, own_questions, strict=True)
                rows += [row for video, question in pairs for row in self.ask(video, question).inputs]
            elif budget is not None and not truncation:
                check_length(self._length(line, add_special_tokens), budget)
            prompts.append(line)
        tokens = self.tokenizer(
            prompts,
            padding=padding,
            truncation=truncation and budget is not None,
            max_length=budget if truncation or padding == "max_length" else None,
            add_special_tokens=add_special_tokens,
            return_tensors="pt",
        )
        data = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return BatchFeature(data | (self.sen_processor.collate(rows) if rows else {}))

    def _with_videos(
        self,
        text: str,
        videos: Sequence[Any],
        budget: int | None,
        sampling: Mapping[str, Any],
        add_special_tokens: bool,
    ) -> tuple[str, list[ChatVideo]]:
        """A prompt with its placeholders expanded, in at most `budget` tokens, and its videos, without a question."""

        def length(times: Sequence[torch.Tensor]) -> int:
            return self._length(self._expanded(text, times), add_special_tokens)

        read = read_to_fit(self.sen_processor, self.config, videos, sampling, budget, length)
        times = [video.frame_times for video in read]
        if budget is not None:
            check_length(length(times), budget)
        return self._expanded(text, times), read

    def _expanded(self, text: str, frame_times: Sequence[torch.Tensor]) -> str:
        return expanded_prompt(text, frame_times, self.config.tokens_per_frame, self.config.num_answer_tokens)

    def _length(self, text: str, add_special_tokens: bool) -> int:
        # Not verbose: of texts that are too long we say it ourselves.
        return len(self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Makes a prompt of a chat and, with `tokenize`, a call of it.

        Args:
            conversation: a list of messages `{"role", "content"}`, or a list of such lists. Content is a string or a list of
                parts `{"type": "text", "text": ...}` and `{"type": "video", "video" or "path" or "url": ...}`.
            chat_template: instead of the processor's own.
            add_generation_prompt, continue_final_message: as of tokenizers.
            processor_kwargs: arguments of the call, such as `num_frames`. It is not changed.
            kwargs: the same, or variables of the template.

        Returns:
            The prompt, or a list of them; with `tokenize` their `input_ids`, with `return_dict` all of [`__call__`].

        Raises:
            ValueError: a placeholder in a text, a part of another type, and as a call.
            OSError, TypeError: as a call.
        """
        is_batch = len(conversation) > 0 and isinstance(conversation[0], list | tuple)
        chats = list(conversation) if is_batch else [conversation]
        if not all(chats):
            raise ValueError("conversation: expected at least one message, found none")
        chats = [self._shown(messages) for messages in chats]
        videos = [message_videos(messages) for messages in chats]
        arguments = {name: kwargs.pop(name) for name in list(kwargs) if name in _CALL_ARGUMENTS}
        arguments |= processor_kwargs or {}

        def render(messages: list[dict[str, Any]], **ending: bool) -> str:
            template = chat_template or self.chat_template
            return self.tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, **ending, **kwargs
            )

        endings = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        prompts = [rendered(render, messages, **endings) for messages in chats]
        if not tokenize:
            return prompts if is_batch else prompts[0]
        defaults = {"questions": [video_questions(messages) for messages in chats], "add_special_tokens": False}
        inputs = self(prompts, videos, return_tensors=return_tensors, **{**defaults, **arguments})
        return inputs if return_dict else inputs["input_ids"]

    # --- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_llm(
        cls, llm: str | os.PathLike, config: Any, source: HubSource | None = None, **kwargs: Any
    ) -> "SENChatProcessor":
        """The processor for a new model, with a language model's tokenizer and chat template.

        The placeholders become special tokens of the tokenizer. `<|video_pad|>` gets the id `config.video_token_id`, outside
        of the language model's vocabulary, so that no embedding changes. Where the tokenizer has it already, or more tokens
        than that, `config.video_token_id` is set to its id instead.

        Args:
            llm: hub id or folder of the language model.
            config: the model's.
            source: of the SEN, where its neurons stand beside its checkpoint: `model.sen.neurons.base`.
            kwargs: of `AutoTokenizer.from_pretrained`.

        Raises:
            OSError: no such language model, or none with a tokenizer.
        """
        with naming_errors(str(llm), "pass token=..."):
            tokenizer = AutoTokenizer.from_pretrained(os.fspath(llm), **kwargs)
        add_placeholders(tokenizer, config.video_token_id)
        config.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_PAD)
        return cls(config, tokenizer, source=source)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "SENChatProcessor":  # type: ignore[override]
        """The processor of a checkpoint: its tokenizer and chat template, and the settings of its configuration.

        Raises:
            OSError: no such checkpoint, or a file is missing in it.
            ValueError: the checkpoint is not a SEN with a language model.
        """
        name = os.fspath(pretrained_model_name_or_path)
        source = HubSource.of_checkpoint(name, kwargs)
        with naming_errors(name, "pass token=..."):
            source.prefetch("config.json", "chat_template.jinja", *TOKENIZER_FILES)
            settings, _ = PreTrainedConfig.get_config_dict(source.location, **source.files)
            if (model_type := settings.get("model_type")) != "sen_chat":
                raise ValueError(f"{name}: its model type is {model_type!r}, expected 'sen_chat'")
            config = SENChatConfig.from_pretrained(source.location, **source.files)
            tokenizer = AutoTokenizer.from_pretrained(source.location, **source.arguments)
        return cls(config, tokenizer, source=source)

    save_pretrained = SENProcessor.save_pretrained  # type: ignore[assignment]
    push_to_hub = SENProcessor.push_to_hub  # type: ignore[assignment]
    to_dict = SENProcessor.to_dict

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.sen_processor.model_input_names]


_CALL_ARGUMENTS = frozenset(inspect.signature(SENChatProcessor.__call__).parameters) - {"self", "text"}

__all__ = ["SENChatProcessor"]
