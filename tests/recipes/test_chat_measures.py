"""Two measures of sen-tiny-chat agree: answers of `sen eval`, generated from clips, and the recipe's single pass."""

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from modeling_sen import SEN_TINY_CHAT
from modeling_sen.evaluation.chat_answerer import load_answerer
from modeling_sen.evaluation.measure_chat import score_answer
from modeling_sen.evaluation.question_sets import open_question_set
from modeling_sen.training.data import world_clips
from modeling_sen.world.chat_questions import chat_questions
from recipes.sen_tiny import train_tiny_chat as recipe
from recipes.sen_tiny.chat_batches import ChatBatches, window_inputs


class AsWritten:
    """Draws with which a question keeps its small letters, its spelling and its last sign."""

    def random(self, count):
        return np.array([1.0, 1.0, 0.0])


@pytest.mark.parametrize("split", ["test", "unseen_pairs"])
def test_each_answer_is_right_in_both_or_in_none(split):
    source = f"world:{split}?num=1&num_objects=2&seed=3"
    answerer, asked = load_answerer(SEN_TINY_CHAT, device="cpu"), open_question_set(source)
    clip, some = asked.read(0), asked.questions[::3]
    generated = [score_answer(one, answerer(clip, one.question), asked.prompt)[1] for one in some]

    scene = world_clips(source).scene(0)
    batches = ChatBatches(answerer.model.config, 0, 1)
    row = batches._row(AsWritten(), chat_questions(scene), batches.prefix(0.0, 1), False)
    names = ("input_ids", "labels", "position_ids", "turns")
    batch = {name: torch.tensor([values]) for name, values in zip(names, row, strict=True)}
    batch |= {**window_inputs([scene], 1), "is_conversation": torch.tensor(False)}
    (passed,) = recipe.right_answers(recipe.ChatTraining(answerer.model), batch)
    assert generated == passed[::3]
    assert 0.3 < sum(passed) / len(passed) < 1
