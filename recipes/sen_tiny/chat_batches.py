"""Batches of world clips with questions for sen-tiny-chat: a batch is a function of seed and step alone.

A clip is read once and asked many questions. They follow one another behind one prefix of visual tokens, and each sees the
prefix and itself alone, so that no answer is copied from an earlier one; in some batches they are a conversation instead.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_sen.configuration_sen_chat import SENChatConfig
from modeling_sen.world.chat_questions import KINDS, ChatQuestion, chat_questions
from modeling_sen.world.drawing import render
from modeling_sen.world.scene import FRAMES_PER_SECOND, Scene, make_scene
from modeling_sen.world.sound import SAMPLING_RATE, sound_of
from recipes.sen_tiny.chat_texts import TRAINED_KINDS, as_typed, description
from recipes.sen_tiny.chat_tokenizer import ASSISTANT, END, USER, build_tokenizer
from recipes.sen_tiny.tiny_batches import MIDDLE_FRAME, VIDEO_FRAMES, log_mel, luma
from recipes.sen_tiny.tiny_towers import DEPTH_MEAN, DEPTH_STD, PICTURE_MEAN, PICTURE_STD, as_colour, normalise
from recipes.sen_tiny.train_tiny_association import NEURONS

IGNORED = -100  # label of tokens without a loss
# From which part of the run on clips have so many objects. What belongs to what is learnt from clips of two; until it
# is, more objects make it harder.
CURRICULUM = ((0.0, (1, 1)), (0.05, (2, 2)), (0.2, (2, 3)), (0.4, (1, 4)))
CONVERSATIONS, TWO_WINDOWS = 0.25, 0.125  # share of batches
DEPTH_GIVEN, SOUND_GIVEN = 0.5, 0.9  # share of clips; an mp4 brings no depth
LATER = 0.5  # share of clips whose times do not begin at 0
LATEST = 60.0  # seconds
WINDOW = 16  # frames, 2 seconds


@dataclass
class ChatBatches:
    """`ChatBatches(...)(step)` is the batch of a step.

    Attributes:
        config: of the model, for the visual tokens of a clip.
        seed: of the run; step s takes clips s * batch_size ... of the world with this seed.
        batch_size: clips.
        steps: of the run, for the curriculum; 0 for clips as after its end.
        num_questions: about each clip, where so many can be asked, beside the one for a description.
        split: of the world.
        num_objects: instead of the curriculum.
        num_windows: of each clip; by default one, and two in some batches.
    """

    config: SENChatConfig
    seed: int
    batch_size: int
    steps: int = 0
    num_questions: int = 8
    split: str = "train"
    num_objects: int | tuple[int, int] | None = None
    num_windows: int | None = None
    tokenizer: Any = field(default_factory=lambda: cached_tokenizer())

    def __call__(self, step: int) -> dict[str, Tensor]:
        """One batch of B clips with K questions each, the one for a description among them.

        Returns:
            Inputs of the SEN, one row for each window of each clip; `input_ids`, `labels`, `position_ids`, `turns` (B, L)
            int64, padded on the right: `labels` is IGNORED but on answers and the end token behind them, `turns` is 0 in the
            prefix and the number of the question behind it, from 1; `kinds` (B, K) int64, indices into TRAINED_KINDS, -1
            where there are fewer; `is_conversation` () bool, whether a question sees the ones before it.
        """
        random = np.random.default_rng([self.seed, step])
        is_conversation = bool(random.random() < CONVERSATIONS)
        windows = self.num_windows or 1 + int(random.random() < TWO_WINDOWS)
        first = step * self.batch_size
        several = self.num_objects or self.objects_at(step)
        scenes = [
            make_scene(self.split, self.seed, index, num_objects=several, num_frames=WINDOW * windows)
            for index in range(first, first + self.batch_size)
        ]
        draws = random.random((self.batch_size, 3))
        # the hiss of a silent clip is a sound track too
        sound_given = [0.5 if scene.sounding is None else SOUND_GIVEN for scene in scenes]
        given = np.ones((self.batch_size, len(NEURONS)), dtype=bool)
        given[:, NEURONS.index("audio")] = draws[:, 0] < sound_given
        given[:, NEURONS.index("depth")] = draws[:, 1] < DEPTH_GIVEN
        rows, kinds = [], torch.full((self.batch_size, self.num_questions + 1), -1)
        for number, scene in enumerate(scenes):
            modalities = {name for name, here in zip(NEURONS, given[number], strict=True) if here}
            asked = self._draw(random, [each for each in chat_questions(scene) if each.modalities <= modalities])
            asked.append(description(random, scene))
            kinds[number, : len(asked)] = torch.tensor([TRAINED_KINDS.index(each.kind) for each in asked])
            start = float(random.uniform(0, LATEST)) if draws[number, 2] < LATER else 0.0
            rows.append(self._row(random, asked, self.prefix(start, windows), is_conversation))
        return {
            **window_inputs(scenes, windows),
            "neuron_mask": torch.from_numpy(given).repeat_interleave(windows, dim=0),
            "input_ids": _padded([row[0] for row in rows], self.tokenizer.pad_token_id),
            "labels": _padded([row[1] for row in rows], IGNORED),
            "position_ids": _padded([row[2] for row in rows], 0),
            "turns": _padded([row[3] for row in rows], 0),
            "kinds": kinds,
            "is_conversation": torch.tensor(is_conversation),
        }

    def objects_at(self, step: int) -> tuple[int, int]:
        """The least and the most objects of the clips of a step."""
        done = step / self.steps if self.steps else 1.0
        return [objects for start, objects in CURRICULUM if done >= start][-1]

    def _draw(self, random: np.random.Generator, questions: list[ChatQuestion]) -> list[ChatQuestion]:
        """Questions of all kinds alike, none twice."""
        by_kind = {kind: [each for each in questions if each.kind == kind] for kind in KINDS}
        chosen: list[ChatQuestion] = []
        for _ in range(min(self.num_questions, len(questions))):
            kinds = [kind for kind, left in by_kind.items() if left]
            left = by_kind[kinds[random.integers(len(kinds))]]
            chosen.append(left.pop(random.integers(len(left))))
        return chosen

    def _row(
        self, random: np.random.Generator, questions: list[ChatQuestion], prefix: list[int], is_conversation: bool
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        """Token ids, labels, positions and turns of one clip."""
        ids = list(prefix)
        labels, positions, turns = [IGNORED] * len(ids), list(range(len(ids))), [0] * len(ids)
        length = len(ids)
        for number, question in enumerate(questions, start=1):
            text = as_typed(question.question, *(random.random(3) < (0.5, 0.3, 0.8)))
            asked = [*self.ids(text), *self.ids(END), *self.ids(ASSISTANT)]
            if is_conversation and number > 1:
                asked = [*self.ids(USER), *asked]
            answer = [*self.ids(question.answer), *self.ids(END)]
            ids += asked + answer
            labels += [IGNORED] * len(asked) + answer
            first = positions[-1] + 1 if is_conversation else length
            positions += range(first, first + len(asked) + len(answer))
            turns += [number] * (len(asked) + len(answer))
        return ids, labels, positions, turns

    def prefix(self, start: float, windows: int) -> list[int]:
        """What stands before the first question of a clip that starts at this second."""
        config = self.config
        ids = list(self.ids(USER))
        for window in range(windows):
            times = start + (np.array(VIDEO_FRAMES) + WINDOW * window) / FRAMES_PER_SECOND
            for step in np.array_split(times, config.window_frames):
                ids += [*self.ids(f"<{step.mean():.1f}s>"), *[config.video_token_id] * config.tokens_per_frame]
            ids += [config.video_token_id] * config.num_answer_tokens
        return ids

    def ids(self, text: str) -> tuple[int, ...]:
        return _ids(self.tokenizer, text)


def window_inputs(scenes: list[Scene], windows: int) -> dict[str, Tensor]:
    """Inputs of sen-tiny as its processor makes them, straight from scenes: one row for each window of 2 seconds."""
    samples = SAMPLING_RATE * WINDOW // FRAMES_PER_SECOND
    images, videos, sounds, depths = [], [], [], []
    for scene in scenes:
        sound = sound_of(scene).astype(np.float32) / 32768
        for window in range(windows):
            clip = render(scene, [WINDOW * window + frame for frame in (*VIDEO_FRAMES, MIDDLE_FRAME)])
            videos.append(luma(clip.frames[:-1]))
            images.append(clip.frames[-1])
            depths.append(clip.depth[-1])
            sounds.append(log_mel(sound[samples * window : samples * (window + 1)]))
    image, video, sound, depth = (torch.from_numpy(np.stack(each)) for each in (images, videos, sounds, depths))
    return {
        "image_pixel_values": normalise(image.movedim(-1, 1), PICTURE_MEAN, PICTURE_STD)[:, None],
        "video_pixel_values": normalise(as_colour(video), PICTURE_MEAN, PICTURE_STD),
        "audio_input_features": sound,
        "depth_pixel_values": normalise(as_colour(depth), DEPTH_MEAN, DEPTH_STD)[:, None],
    }


@cache
def cached_tokenizer() -> Any:
    """The tokenizer, built once a process."""
    return build_tokenizer()


@cache
def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _padded(rows: list[list[int]], value: int) -> Tensor:
    """(rows, longest) int64."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
