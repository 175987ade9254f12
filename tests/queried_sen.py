"""A SEN whose prompts run alone through the crown, with weights as after training; its inputs and its gradients."""

import torch
from random_sen import random_inputs, random_weights

from modeling_sen import SENModel

TEXTS = {"text_input_ids": torch.tensor([[512, 5, 9, 513], [512, 40, 7, 513], [512, 8, 8, 513]])}
LABELS = {"labels": torch.tensor([0, 2])}


def sen(make_sen, **overrides) -> SENModel:
    return random_weights(make_sen(**{"prompt": "queries", **overrides}))


def with_words(towers) -> list:
    return [{"hub_id": towers["clip"], "num_frames": 2}, towers["videomae"], towers["bert"]]


def words_and_frames(batch_size: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    inputs = random_inputs(batch_size, seed)
    del inputs["audio_input_features"]
    ids = torch.randint(1, 40, (batch_size, 9), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < torch.tensor([6, 9, 3, 8])[:batch_size, None]).long()
    return {**inputs, "words_input_ids": ids, "words_attention_mask": mask}


def gradients(model, inputs, **given) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs, **TEXTS, **LABELS, **given).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected, atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=atol, rtol=1e-4, msg=name)
