# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What video chat is trained on: the answers of conversations, each with the token that ends it; questions have no loss."""

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

IGNORED = -100  # label of a token that has no loss
SHARD_WINDOWS = 64
CACHED_AT_ONCE = 8


def answer_labels(tokens: Sequence[int], prompts: Sequence[Sequence[int]], end_tokens: Collection[int]) -> list[int]:
    """Labels of a conversation: the tokens of its answers, up to and with the first end token of each.

    Args:
        tokens: of the whole conversation.
        prompts: tokens of the conversation up to each answer, in order, with what opens an answer.
        end_tokens: ids at any of which generation stops.

    Returns:
        One label a token: its own id in an answer, -100 elsewhere.

    Raises:
        ValueError: a prompt is not how the conversation begins; an answer is not ended by an end token.
    """
    labels = [IGNORED] * len(tokens)
    limits = [*map(len, prompts[1:]), len(tokens)]
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        start = len(prompt)
        if list(tokens[:start]) != list(prompt):
            raise ValueError(
                f"answer {number}: the tokens of its prompt are not those at the start of the conversation; expected a chat "
                "template that renders earlier turns the same whatever follows"
            )
        stop = next((place + 1 for place in range(start, limit) if tokens[place] in end_tokens), None)
        if stop is None:
            raise ValueError(
                f"answer {number}: found none of the end tokens {sorted(end_tokens)} behind it; expected a chat "
                "template that ends an answer, without which generation would not stop"
            )
        labels[start:stop] = tokens[start:stop]
    return labels


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """One conversation as a model takes it.

    Attributes:
        row: its number in all data sets of a run.
        tokens, labels: as long as each other.
        windows: inputs of the SEN, one dict for each window; none where they are cached.
    """

    row: int
    tokens: list[int]
    labels: list[int]
    windows: list[dict[str, Any]]


class ConversationDataset(Dataset):
    """Tokens, labels and windows of conversations.

    Args:
        conversations: the data set.
        processor: of the model.
        end_tokens: ids at any of which generation stops, see [`end_tokens_of`].
        num_frames: of each clip; by default those of one window.
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
            given = self.conversations.read_videos(index)
            videos = [self.processor.read_video(video, num_frames=self.num_frames) for video in given]
        shown = self.processor.videos_in_prompt(with_videos(messages, videos))
        rows = [row for video, question in shown for row in self.processor.ask(video, question).inputs]
        videos = [dataclasses.replace(video, inputs=[]) for video in videos]  # of which prompts have the times
        tokens = self._tokens(messages, videos)
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = [self._tokens(messages[:number], videos) for number in answers]
        labels = answer_labels(tokens, prompts, self.end_tokens)
        return Tokenized(self.first_row + index, tokens, labels, rows)

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the model takes of a batch of this data set: its tensors, or first looks from the cache."""
        inputs = {name: value for name, value in batch.items() if name != "rows"}
        if self.cache is None:
            return inputs
        rows = (batch["rows"] - self.first_row).tolist()
        return inputs | self.cache.inputs([key for row in rows for key in self.conversations.video_keys[row]])

    def _tokens(self, messages: list[Message], videos: Sequence[ChatVideo]) -> list[int]:
        """Of a part of a conversation, with what opens an answer where it ends in a question."""
        filled, is_prompt = with_videos(messages, videos), messages[-1]["role"] == "user"
        # The answers are part of it.
        ids = self.processor.apply_chat_template(filled, None, is_prompt, tokenize=True, max_new_tokens=0)
        return ids[0].tolist()

    def collate(self, items: Sequence[Tokenized]) -> dict[str, Tensor]:
        """`rows` (batch,) int64, `input_ids`, `attention_mask`, `labels` (batch, tokens) padded on the right, where causal
        attention needs no mask; and without a cache the SEN's inputs, one row for each window.
        """
        tokens = [torch.tensor(item.tokens) for item in items]
        labels = [torch.tensor(item.labels) for item in items]
        padding = self.processor.tokenizer.pad_token_id or 0  # no token reads it
        windows = [window for item in items for window in item.windows]
        return {
            "rows": torch.tensor([item.row for item in items]),
            "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding),
            "attention_mask": pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            **(self.processor.sen_processor.collate(windows) if windows else {}),
        }

    def use_cache(self, model: SENForConditionalGeneration, folder: str | os.PathLike, dtype: torch.dtype) -> None:
        """Takes first looks from the cache from now on; builds what is missing there first, and says its size before.

        Conversations without a clip have nothing to cache.

        Raises:
            ValueError, OSError: a clip cannot be read; a neuron reads the question, so that first looks depend on it.
        """
        if model.config.question_neuron is not None:
            raise ValueError(
                f"cache: neuron {model.config.question_neuron!r} reads the question, so that clips have no first look "
                "of their own; train without a cache"
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
    """First looks at the windows of clips, on disk, and the times that prompts state.

    Args:
        model: with its towers.
        processor: of the model.
        folder: where the cache lives; several models and processes may share it.
        keys: what identifies each clip.
        read: key -> the clip, of as many windows as any other.
        num_frames: of each clip, part of what identifies its windows.
        dtype: of what is stored.

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
        # Of a window, beside its tower's own settings.
        config = model.sen.config
        specs = [(spec.name, spec.num_frames, spec.sampling) for spec in config.neuron_specs]
        seen = json.dumps([model.config.window_frames, num_frames, config.depth_estimator, specs], default=str)
        suffix = hashlib.sha256(seen.encode()).hexdigest()[:8]
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
        """Processes share the work, and wait for each other."""
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

        # By its number, as one process may see what another has written already.
        own = [number for number in missing if number % state.num_processes == state.process_index]
        cache.build(inputs_of, CACHED_AT_ONCE, own)
        state.wait_for_everyone()

    def _video(self, key: str) -> ChatVideo:
        """The windows of one clip follow each other, so that it is read once."""
        if self._last is None or self._last[0] != key:
            self._last = key, self._read(key)
        return self._last[1]

    def inputs(self, keys: Sequence[str]) -> dict[str, Any]:
        """What the model takes for the windows of some clips, in their order; nothing for no clips."""
        if not keys:
            return {}
        rows = [self._places[key] * self.num_windows + number for key in keys for number in range(self.num_windows)]
        return {"trunks": self._cache.trunks(rows), "neuron_mask": self._cache.neuron_mask(rows)}

    def drop_trunks(self) -> None:
        """Frees the weights that are not run on stored first looks, see [`FeatureCache.drop_trunks`]."""
        self._cache.drop_trunks()


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Which answers are predicted token for token, given what stands before: those that greedy decoding would give.

    Args:
        logits: (batch, tokens, vocabulary).
        labels: (batch, tokens) int64, see [`answer_labels`].

    Returns:
        (batch, answers) int64: 1 right, 0 wrong, -100 behind the last answer of a conversation.
    """
    is_answer = labels != IGNORED
    starts = is_answer & ~torch.cat([torch.zeros_like(is_answer[:, :1]), is_answer[:, :-1]], dim=1)
    number = starts.cumsum(dim=1)  # of the answer, from 1
    right = torch.cat([torch.ones_like(labels[:, :1]), logits[:, :-1].argmax(dim=-1)], dim=1) == labels
    found = torch.full((len(labels), int(number.max())), IGNORED, device=labels.device)
    for answer in range(found.shape[1]):
        own = is_answer & (number == answer + 1)
        exists = own.any(dim=1)
        found[exists, answer] = (right | ~own).all(dim=1)[exists].long()
    return found


def answer_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the answers of the validation conversations that are right, see [`right_answers`]; each conversation once."""
    _, places = np.unique(prediction.label_ids, return_index=True)
    answers = np.asarray(prediction.predictions)[places]
    return {"answer_accuracy": float(answers[answers != IGNORED].mean())}


def end_tokens_of(model: SENForConditionalGeneration, processor: SENChatProcessor) -> set[int]:
    """Ids at which generation stops.

    Raises:
        ValueError: neither the language model nor its tokenizer has any.
    """
    given: Any = model.generation_config.eos_token_id
    found = {*(given if isinstance(given, list) else [given]), processor.tokenizer.eos_token_id} - {None}
    if not found:
        raise ValueError("expected an eos_token_id of the language model or its tokenizer, found none")
    return found
