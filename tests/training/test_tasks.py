"""What a SEN is trained on: losses and measures of recognition and retrieval."""

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from transformers import EvalPrediction

from modeling_sen import SENModel, SENProcessor
from modeling_sen.training.clip_dataset import ClipDataset
from modeling_sen.training.data import LabelledClips
from modeling_sen.training.losses import contrastive_loss, gramian_loss, sigmoid_loss
from modeling_sen.training.tasks import Recognition, Retrieval

LABELS = ["cat", "dog", "cat", "hen", "dog", "hen"]


@pytest.fixture(scope="module")
def sen(sen_folder):
    return SENModel.from_pretrained(sen_folder), SENProcessor.from_pretrained(sen_folder)


def make_clips(processor, targets, first_row=0):
    frames = np.random.default_rng(0).integers(0, 255, (len(targets), 4, 24, 24, 3), dtype=np.uint8)
    clips = LabelledClips(
        "clips", targets, [f"{row}" for row in range(len(targets))], lambda row: {"video": frames[row]}
    )
    return ClipDataset(clips, processor, first_row)


def batch_of(dataset, rows):
    return dataset.collate([dataset[row] for row in rows])


def prediction_of(model, dataset, rows):
    """What the Trainer gathers of validation."""
    batch = batch_of(dataset, rows)
    numbers = batch.pop("rows")
    with torch.no_grad():
        return EvalPrediction(predictions=model(**batch).fused_embeds.numpy(), label_ids=numbers.numpy())


def test_recognition_is_the_models_own_loss_over_all_labels(sen):
    model, processor = sen
    clips = make_clips(processor, LABELS)
    task = Recognition(model, processor, [clips], ["a video of {}", "a {}"])
    batch = batch_of(clips, [0, 1, 3, 4])
    results = task(model, batch)
    templates = [[f"a video of {label}", f"a {label}"] for label in ("cat", "dog", "hen")]
    embeds = []
    for texts in templates:
        tokens = processor.tokenize(texts)
        found = model.get_text_features(tokens["text_input_ids"], tokens["text_attention_mask"]).pooler_output
        embeds.append(torch.nn.functional.normalize(found.mean(0), dim=0))
    given = {name: value for name, value in batch.items() if name != "rows"}
    expected = model(**given, text_embeds=torch.stack(embeds), labels=torch.tensor([0, 1, 2, 1]))
    torch.testing.assert_close(results["loss"], expected.loss, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(results["fused_embeds"], expected.fused_embeds)


def test_recognition_is_measured_on_every_clip_once(sen):
    model, processor = sen
    train, validation = make_clips(processor, ["cat", "dog", "hen"]), make_clips(processor, LABELS, first_row=3)
    task = Recognition(model, processor, [train, validation], ["{}"])
    prediction = prediction_of(model, validation, range(6))
    right = (prediction.predictions @ task.class_embeds.numpy().T).argmax(1) == np.array([0, 1, 0, 2, 1, 2])
    assert task.measure(prediction) == {"top1": pytest.approx(right.mean())}  # three labels: no top five
    again = prediction_of(model, validation, [5, 4, 3, 2, 1, 0, 0, 0])  # as one that stands in for others
    assert task.measure(again) == task.measure(prediction)


def test_labels_of_validation_are_labels_too(sen, caplog):
    model, processor = sen
    datasets = [make_clips(processor, LABELS), make_clips(processor, ["cat", "cow"], first_row=6)]
    assert Recognition(model, processor, datasets, ["{}"]).labels == ["cat", "cow", "dog", "hen"]
    assert "no clip to train on has the labels cow" in caplog.text
    with pytest.raises(ValueError, match=r"at least two labels, found \['cat'\]"):
        Recognition(model, processor, [make_clips(processor, ["cat", "cat"])], ["{}"])


TEXTS = ["a cat sits", "a dog runs", "two hens", "a cow far away"]


def with_text(model, processor, batch, loss):
    """The task's loss, written out."""
    tokens = processor.tokenize([TEXTS[row] for row in batch["rows"].tolist()])
    texts = model.get_text_features(tokens["text_input_ids"], tokens["text_attention_mask"]).pooler_output
    given = {name: value for name, value in batch.items() if name != "rows"}
    output, scale = model(**given, output_all_rounds=True), model.logit_scale.exp()
    paired = {
        "contrastive": lambda embeds: contrastive_loss(embeds, texts, scale),
        "sigmoid": lambda embeds: sigmoid_loss(embeds, texts, scale, torch.tensor(-10.0)),
        "gram": lambda embeds: contrastive_loss(embeds, texts, scale),
    }[loss]
    first = paired(output.fused_embeds)
    if loss == "gram":
        first = gramian_loss(texts, [output.fused_embeds, output.all_rounds[-1].neuron_embeds["image"]], scale)
    rounds = output.association_embeds.unbind(1)
    return first + model.config.association_loss * sum(map(paired, rounds)) / len(rounds)


@pytest.mark.parametrize("loss", ["contrastive", "sigmoid", "gram"])
def test_retrieval_trains_the_fused_embedding_and_every_round(sen_folder, loss):
    model, processor = SENModel.from_pretrained(sen_folder), SENProcessor.from_pretrained(sen_folder)
    clips = make_clips(processor, TEXTS)
    task = Retrieval(model, processor, [clips], loss)
    batch = batch_of(clips, [2, 0, 3])
    results = task(model, batch)
    torch.testing.assert_close(results["loss"], with_text(model, processor, batch, loss), atol=1e-4, rtol=1e-4)
    results["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is not None and p.grad.any()}
    assert {"gate", "logit_scale"} <= trained
    assert any(name.startswith("blocks.0.") for name in trained)
    assert ("logit_bias" in trained) == (loss == "sigmoid")


def test_retrieval_is_measured_both_ways(sen):
    model, processor = sen
    clips = make_clips(processor, TEXTS)
    prediction = prediction_of(model, clips, range(4))
    found = Retrieval(model, processor, [clips]).measure(prediction)
    tokens = processor.tokenize(TEXTS)
    embeds = model.get_text_features(tokens["text_input_ids"], tokens["text_attention_mask"]).pooler_output
    fused = torch.from_numpy(prediction.predictions)
    for name, scores in (("text_to_video", embeds @ fused.T), ("video_to_text", fused @ embeds.T)):
        assert found[f"{name}_R@1"] == pytest.approx((scores.argmax(1) == torch.arange(4)).float().mean().item())
        assert found[f"{name}_R@5"] == 1.0
    assert found["R@1"] == pytest.approx((found["text_to_video_R@1"] + found["video_to_text_R@1"]) / 2)


def test_the_gramian_loss_needs_an_aligned_neuron(towers, make_sen):
    model = make_sen(neurons=[towers["videomae"]])
    processor = SENProcessor(model.config)
    clips = make_clips(processor, TEXTS)
    with pytest.raises(ValueError, match="'gram' needs three vectors per clip"):
        Retrieval(model, processor, [clips], "gram")
    with pytest.raises(ValueError, match="loss is 'hinge'"):
        Retrieval(model, processor, [clips], "hinge")
