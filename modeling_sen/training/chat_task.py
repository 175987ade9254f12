# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training task of video chat: a loss on the answers of conversations, each with its end token, and none on questions."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import EvalPrediction

from modeling_sen.chat.messages import with_videos
from modeling_sen.modeling_sen_chat import SENForConditionalGeneration
from modeling_sen.processing_sen_chat import ChatVideo, SENChatProcessor
from modeling_sen.training.conversations import Conversations, Message
from modeling_sen.training.feature_cache import FeatureCache
from modeling_sen.whole_file import whole_file

IGNORED = -100  # label of tokens without loss
SHARD_WINDOWS = 64
CACHED_AT_ONCE = 8


def answer_labels(tokens: Sequence[int], prompts: Sequence[Sequence[int]], end_tokens: Collection[int]) -> list[int]:
    """Labels of a conversation: the tokens of its answers, each including its first end token.

    Args:
        tokens: tokens of the whole conversation.
        prompts: for each answer in order, the tokens of the conversation before it, including the generation prompt.
        end_tokens: ids at which generation stops.

    Returns:
        One label per token: its id in an answer, -100 elsewhere.

    Raises:
        ValueError: the conversation does not begin with a prompt's tokens; an answer has no end token.
    """
    labels = [IGNORED] * len(tokens)
    limits = [*map(len, prompts[1:]), len(tokens)]
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        start = len(prompt)
        if list(tokens[:start]) != list(prompt):
            raise ValueError(
                f"answer {number}: the conversation does not begin with the tokens of its prompt; expected a chat template "
                "that renders earlier turns independently of later ones"
            )
        stop = next((place + 1 for place in range(start, limit) if tokens[place] in end_tokens), None)
        if stop is None:
            raise ValueError(
                f"answer {number}: found none of the end tokens {sorted(end_tokens)} after it; expected a chat template "
                "that ends each answer with one, so that generation can stop"
            )
        labels[start:stop] = tokens[start:stop]
    return labels


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """A tokenised conversation.

    Attributes:
        row: its number, unique among all data sets of a run.
        tokens, labels: lists of equal length.
        windows: inputs of the SEN, one dict per window; empty if they are cached.
    """

    row: int
    tokens: list[int]
    labels: list[int]
    windows: list[dict[str, Any]]


class ConversationDataset(Dataset):
    """Tokens, labels and windows of conversations.

    Args:
        conversations: the data set.
        processor: the model's processor.
        end_tokens: ids at which generation stops, see [`end_tokens_of`].
        num_frames: frames per clip; by default one window.
        first_row: number of the first conversation.
    """

    def __init__(
        self,
        conversations: Conversations,
        processor: SENChatProcessor,
        end_tokens: Collection[int],
        num_frames: int | None = None,
        first_row: int = 0,
    ):
        self.conversations, self.processor, self.end_tokens = conversations, processor, end_tokens
        self.num_frames, self.first_row = num_frames, first_row
        self.cache: WindowCache | None = None

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Tokenized:
        """
        Raises:
            ValueError, OSError: a conversation cannot be read, naming data set and row.
        """
        try:
            return self._read(index)
        except (OSError, ValueError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"{self.conversations.source}, row {index}: {error}") from error

    def _read(self, index: int) -> Tokenized:
        messages = self.conversations.messages[index]
        if self.cache is not None:
            videos = [self.cache.videos[key] for key in self.conversations.video_keys[index]]
        else:
            unread = self.conversations.read_videos(index)
            videos = [self.processor.read_video(video, num_frames=self.num_frames) for video in unread]
        shown = self.processor.videos_in_prompt(with_videos(messages, videos))
        rows = [row for video, question in shown for row in self.processor.ask(video, question).inputs]
        videos = [dataclasses.replace(video, inputs=[]) for video in videos]  # prompts only need the times
        tokens = self._tokens(messages, videos)
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = [self._tokens(messages[:number], videos) for number in answers]
        labels = answer_labels(tokens, prompts, self.end_tokens)
        return Tokenized(self.first_row + index, tokens, labels, rows)

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The model's inputs for a batch of this data set: its tensors, and first looks from the cache, if any."""
        inputs = {name: value for name, value in batch.items() if name != "rows"}
        if self.cache is None:
            return inputs
        rows = (batch["rows"] - self.first_row).tolist()
        return inputs | self.cache.inputs([key for row in rows for key in self.conversations.video_keys[row]])

    def _tokens(self, messages: list[Message], videos: Sequence[ChatVideo]) -> list[int]:
        """Tokens of the first messages of a conversation, with the generation prompt if the last one is a question."""
        filled, is_prompt = with_videos(messages, videos), messages[-1]["role"] == "user"
        # No room is needed for new tokens, because the answers are part of the conversation.
        ids = self.processor.apply_chat_template(filled, None, is_prompt, tokenize=True, max_new_tokens=0)
        return ids[0].tolist()

    def collate(self, items: Sequence[Tokenized]) -> dict[str, Tensor]:
        """`rows` (batch,) int64; `input_ids`, `attention_mask` and `labels` (batch, tokens), right-padded; and, without a
        cache, the SEN's inputs with one row per window.
        """
        tokens = [torch.tensor(item.tokens) for item in items]
        labels = [torch.tensor(item.labels) for item in items]
        padding = self.processor.tokenizer.pad_token_id or 0  # never attended to
        windows = [window for item in items for window in item.windows]
        return {
            "rows": torch.tensor([item.row for item in items]),
            "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding),
            "attention_mask": pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            **(self.processor.sen_processor.collate(windows) if windows else {}),
        }

    def use_cache(self, model: SENForConditionalGeneration, folder: str | os.PathLike, dtype: torch.dtype) -> None:
        """Uses cached first looks from now on; prints the size of missing ones and computes them first.

        Conversations without a clip have nothing to cache.

        Raises:
            ValueError, OSError: a clip cannot be read; a neuron reads the question, so that first looks depend on it.
        """
        if model.config.question_neuron is not None:
            raise ValueError(
                f"cache: neuron {model.config.question_neuron!r} reads the question, on which first looks then depend; "
                "train without a cache"
            )
        places = {
            key: (row, number)
            for row, keys in enumerate(self.conversations.video_keys)
            for number, key in enumerate(keys)
        }

        def read(key: str) -> ChatVideo:
            row, number = places[key]
            try:
                video = self.conversations.read_videos(row)[number]
                return self.processor.read_video(video, num_frames=self.num_frames)
            except (OSError, ValueError) as error:
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(f"{self.conversations.source}, row {row}: {error}") from error

        if places:
            self.cache = WindowCache(model, self.processor, folder, list(places), read, self.num_frames, dtype)


class WindowCache:
    """Disk cache of first looks at the windows of clips, and of the windows' times, which prompts contain.

    Args:
        model: the model, with loaded towers.
        processor: its processor.
        folder: folder of the cache; several models and processes may share it.
        keys: identifier of each clip.
        read: key -> the clip; all clips have the same number of windows.
        num_frames: frames per clip, part of the windows' identifiers.
        dtype: dtype of stored tensors.

    Attributes:
        videos: key -> the clip without inputs.
    """

    def __init__(
        self,
        model: SENForConditionalGeneration,
        processor: SENChatProcessor,
        folder: str | os.PathLike,
        keys: Sequence[str],
        read: Callable[[str], ChatVideo],
        num_frames: int | None,
        dtype: torch.dtype,
    ):
        self._read, self._collate = read, processor.sen_processor.collate
        self._last: tuple[str, ChatVideo] | None = None
        self.videos: dict[str, ChatVideo] = {}
        self.num_windows = self._video(keys[0]).num_windows
        self._places = {key: number for number, key in enumerate(keys)}
        # A window's inputs also depend on these settings, which are not those of its tower.
        config = model.sen.config
        specs = [(spec.name, spec.num_frames, spec.sampling) for spec in config.neuron_specs]
        sampling = json.dumps([model.config.window_frames, num_frames, config.depth_estimator, specs], default=str)
        suffix = hashlib.sha256(sampling.encode()).hexdigest()[:8]
        windows = [f"{key}#{suffix}:{number}" for key in keys for number in range(self.num_windows)]
        self._cache = FeatureCache(model.sen, folder, windows, dtype, SHARD_WINDOWS)
        name = f"times-{hashlib.sha256(json.dumps(windows).encode()).hexdigest()[:16]}"
        times = [Path(folder, f"{name}-{number:05d}.json") for number in range(self._cache.num_shards)]
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._build(Path(folder), times, keys)
        self._last = None
        for file in times:
            for key, (seconds, has_sound) in json.loads(file.read_text()).items():
                self.videos[key] = ChatVideo([], torch.tensor(seconds, dtype=torch.float64), has_sound)

    def _build(self, folder: Path, times: Sequence[Path], keys: Sequence[str]) -> None:
        """Computes missing shards. Processes share the work and wait for each other."""
        from accelerate import PartialState

        state, cache = PartialState(), self._cache
        missing = sorted(
            {*cache.missing_shards(), *(number for number, file in enumerate(times) if not file.exists())}
        )
        if missing and state.is_main_process:
            size = cache.bytes_for(self._collate(self._video(keys[0]).inputs)) / len(cache.clips)
            windows = sum(len(cache.shard_rows(number)) for number in missing)
            total = len(cache.clips)
            print(f"{folder}: {windows} of {total} windows to cache, {size * windows / 1e6:,.1f} MB", flush=True)
        found: dict[str, tuple[list[list[float]], bool]] = {}

        def inputs_of(rows: Sequence[int]) -> dict[str, Tensor]:
            inputs, own = [], cache.shard_rows(rows[0] // SHARD_WINDOWS)
            if rows[0] == own[0]:
                found.clear()
            for row in rows:
                key = keys[row // self.num_windows]
                video = self._video(key)
                found[key] = (video.frame_times.tolist(), video.has_sound)
                inputs.append(video.inputs[row % self.num_windows])
            if rows[-1] == own[-1]:
                with whole_file(times[rows[0] // SHARD_WINDOWS]) as unfinished:
                    unfinished.write_text(json.dumps(found))
            return self._collate(inputs)

        # Assigned by number, because the processes' lists of missing shards may differ.
        own = [number for number in missing if number % state.num_processes == state.process_index]
        cache.build(inputs_of, CACHED_AT_ONCE, own)
        state.wait_for_everyone()

    def _video(self, key: str) -> ChatVideo:
        """Reads a clip, and keeps the last one, because its windows are processed consecutively."""
        if self._last is None or self._last[0] != key:
            self._last = key, self._read(key)
        return self._last[1]

    def inputs(self, keys: Sequence[str]) -> dict[str, Any]:
        """The model's inputs for the windows of some clips, in order; empty without clips."""
        if not keys:
            return {}
        rows = [self._places[key] * self.num_windows + number for key in keys for number in range(self.num_windows)]
        return {"trunks": self._cache.trunks(rows), "neuron_mask": self._cache.neuron_mask(rows)}

    def drop_trunks(self) -> None:
        """Frees the weights that stored first looks replace, see [`FeatureCache.drop_trunks`]."""
        self._cache.drop_trunks()


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which answers equal those of greedy decoding: every token is the most likely one, given the true tokens before it.

    Args:
        logits: (batch, tokens, vocabulary).
        labels: (batch, tokens) int64, see [`answer_labels`].

    Returns:
        (batch, answers) int64: 1 for correct, 0 for wrong, -100 after the last answer of a conversation.
    """
    is_answer = labels != IGNORED
    starts = is_answer & ~torch.cat([torch.zeros_like(is_answer[:, :1]), is_answer[:, :-1]], dim=1)
    number = starts.cumsum(dim=1)  # number of the answer, starting at 1
    right = torch.cat([torch.ones_like(labels[:, :1]), logits[:, :-1].argmax(dim=-1)], dim=1) == labels
    found = torch.full((len(labels), int(number.max())), IGNORED, device=labels.device)
    for answer in range(found.shape[1]):
        own = is_answer & (number == answer + 1)
        exists = own.any(dim=1)
        found[exists, answer] = (right | ~own).all(dim=1)[exists].long()
    return found


def answer_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of correct answers in the validation conversations, each counted once; see [`right_answers`]."""
    _, places = np.unique(prediction.label_ids, return_index=True)
    answers = np.asarray(prediction.predictions)[places]
    return {"answer_accuracy": float(answers[answers != IGNORED].mean())}


def end_tokens_of(model: SENForConditionalGeneration, processor: SENChatProcessor) -> set[int]:
    """Ids at which generation stops.

    Raises:
        ValueError: neither the language model nor its tokenizer has an end token.
    """
    of_model: Any = model.generation_config.eos_token_id
    found = {*(of_model if isinstance(of_model, list) else [of_model]), processor.tokenizer.eos_token_id} - {None}
    if not found:
        raise ValueError("expected an eos_token_id of the language model or its tokenizer, found none")
    return found
