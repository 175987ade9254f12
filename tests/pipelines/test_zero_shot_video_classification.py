"""`pipeline("zero-shot-video-classification")`: labels, templates, views, scores. Forms of input: test_video_pipeline.py."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from modeling_sen import SENModel, SENProcessor, ZeroShotVideoClassificationPipeline

LABELS = ["a dog", "a red circle", "someone speaks"]


@pytest.fixture(scope="module")
def classify(sen_folder) -> ZeroShotVideoClassificationPipeline:
    return pipeline("zero-shot-video-classification", model=str(sen_folder), device="cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 31, 45, 3), dtype=np.uint8)


def scores_of(result: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in result}


def same(first: list[dict], second: list[dict]) -> bool:
    return scores_of(first) == pytest.approx(scores_of(second), abs=1e-6)


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_clip_gives_its_labels_best_first_with_scores_that_sum_to_one(classify, clips):
    result = classify(clips[0], candidate_labels=LABELS)
    assert {entry["label"] for entry in result} == set(LABELS)
    assert [entry["score"] for entry in result] == sorted((entry["score"] for entry in result), reverse=True)
    assert sum(entry["score"] for entry in result) == pytest.approx(1, abs=1e-6)
    assert json.loads(json.dumps(result)) == result


def test_scores_equal_the_softmax_of_the_models_logits(classify, sen_folder, clips):
    model, processor = SENModel.from_pretrained(sen_folder), SENProcessor.from_pretrained(sen_folder)
    with torch.no_grad():
        logits = model(**processor(videos=clips[0], text=[f"a video of {label}" for label in LABELS])).logits_per_video
    expected = dict(zip(LABELS, logits.softmax(dim=-1)[0].tolist(), strict=True))
    assert scores_of(classify(clips[0], candidate_labels=LABELS)) == pytest.approx(expected, abs=1e-6)


def test_top_k_keeps_the_best(classify, clips):
    everything = classify(clips[0], candidate_labels=LABELS)
    assert classify(clips[0], candidate_labels=LABELS, top_k=2) == everything[:2]
    assert classify(clips[0], candidate_labels=LABELS, top_k=9) == everything


def test_several_templates_are_an_ensemble_of_text_embeddings(classify, clips):
    templates = ["a video of {}", "{}", "this is {}, as one sees"]
    model, processor = classify.model, classify.processor
    with torch.no_grad():
        rows = []
        for label in LABELS:
            tokens = processor(text=[template.format(label) for template in templates])
            embeds = model.get_text_features(tokens["text_input_ids"], tokens["text_attention_mask"]).pooler_output
            mean = embeds.mean(dim=0)
            rows.append(mean / mean.norm())
        video = model.get_video_features(**processor(videos=clips[0])).pooler_output[0]
        expected = (model.logit_scale.exp() * torch.stack(rows) @ video).softmax(dim=0).tolist()
    result = classify(clips[0], candidate_labels=LABELS, hypothesis_template=templates)
    assert scores_of(result) == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-6)
    assert not same(result, classify(clips[0], candidate_labels=LABELS))


def test_views_are_averaged(classify, clips):
    model, processor = classify.model, classify.processor
    with torch.no_grad():
        inputs = processor(videos=clips[0], num_views=3, text=[f"a video of {label}" for label in LABELS])
        expected = model(**inputs).logits_per_video.softmax(dim=-1).mean(dim=0).tolist()
    result = classify(clips[0], candidate_labels=LABELS, num_views=3)
    assert scores_of(result) == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-6)


# --- clips -----------------------------------------------------------------------------------------------------------


def test_modalities_are_given_by_name_and_may_be_missing(classify, clips, frames):
    whole = classify({"video": clips[0], "text": "a dog barks"}, candidate_labels=LABELS)
    assert not same(whole, classify({"video": clips[0]}, candidate_labels=LABELS))
    assert same(classify({"video": clips[0]}, candidate_labels=LABELS), classify(clips[0], candidate_labels=LABELS))
    for clip in ({"video": frames}, {"audio": clips[0]}, {"audio": (np.zeros(8000), 16_000), "text": "a dog"}):
        assert sum(scores_of(classify(clip, candidate_labels=LABELS)).values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_gives_the_results_of_its_single_clips(classify, clips, frames, batch_size):
    batch = [clips[0], frames, {"audio": clips[1]}, {"video": clips[2], "text": "a man speaks"}]
    results = classify(batch, candidate_labels=LABELS, batch_size=batch_size, num_views=2)
    assert len(results) == 4
    for clip, result in zip(batch, results, strict=True):
        assert same(result, classify(clip, candidate_labels=LABELS, num_views=2))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "at least one label, found None"),
        ([], "at least one label"),
        ("", "at least one label and no empty one"),
        (["a", " "], "no empty one"),
        (["a", "b", "a"], r"duplicate labels \['a'\]"),
        ("a, b,a", r"duplicate labels \['a'\]"),
        ([1, 2], r"expected strings, found \[1, 2\]"),
        (5, "expected strings, found 5"),
    ],
)
def test_bad_labels_are_refused(classify, clips, labels, message):
    with pytest.raises(ValueError, match=f"candidate_labels: .*{message}|candidate_labels: {message}"):
        classify(clips[0], candidate_labels=labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hypothesis_template": "a video"}, "hypothesis_template"),
        ({"hypothesis_template": []}, "hypothesis_template"),
        ({"top_k": 0}, "top_k is 0"),
        ({"num_views": 0}, "num_views is 0"),
    ],
)
def test_bad_options_are_refused(classify, clips, options, message):
    with pytest.raises(ValueError, match=message):
        classify(clips[0], candidate_labels=LABELS, **options)


def test_unknown_options_are_refused(classify, clips):
    with pytest.raises(TypeError, match="hypotesis_template"):
        classify(clips[0], candidate_labels=LABELS, hypotesis_template="{}")


def test_an_unaligned_untrained_sen_warns(towers, clips, make_sen, caplog):
    model = make_sen(neurons=[towers["videomae"]])
    untrained = ZeroShotVideoClassificationPipeline(model=model, processor=SENProcessor(model.config))
    logger = "modeling_sen.pipelines.zero_shot_video_classification"
    with caplog.at_level("WARNING", logger=logger):
        untrained(clips[0], candidate_labels=LABELS)
    assert "its zero-shot scores are meaningless" in caplog.text


# --- the object ------------------------------------------------------------------------------------------------------


def test_labels_are_embedded_once_and_kept(classify, clips, monkeypatch):
    calls = []
    embed = classify.model.get_text_features
    monkeypatch.setattr(
        classify.model, "get_text_features", lambda *args: calls.append(args[0].shape[0]) or embed(*args)
    )
    labels = ["one label", "another label"]
    for _ in range(3):
        classify(list(clips), candidate_labels=labels, batch_size=1)
    assert calls == [2]
    classify(clips[0], candidate_labels=labels, hypothesis_template="{}")
    assert calls == [2, 2]
    for number in range(8):  # eight sets are kept
        classify(clips[0], candidate_labels=[f"label {number}"])
    classify(clips[0], candidate_labels=labels)
    assert len(calls) == 11


def test_many_labels_are_embedded_in_parts(classify, clips):
    labels = [f"number {number}" for number in range(300)]
    result = scores_of(classify(clips[0], candidate_labels=labels))
    assert len(result) == 300
    assert sum(result.values()) == pytest.approx(1, abs=1e-5)
    two = scores_of(classify(clips[0], candidate_labels=["number 7", "number 299"]))
    assert two["number 7"] / two["number 299"] == pytest.approx(result["number 7"] / result["number 299"], rel=1e-4)


def test_options_may_be_given_as_defaults(sen_folder, clips, classify):
    settled = pipeline(
        "zero-shot-video-classification",
        model=str(sen_folder),
        device="cpu",
        candidate_labels=LABELS,
        hypothesis_template="{}",
        top_k=1,
    )
    assert same(settled(clips[0]), classify(clips[0], candidate_labels=LABELS, hypothesis_template="{}", top_k=1))
    assert len(settled(clips[0], top_k=2)) == 2


def test_it_is_built_from_a_model_and_a_processor_too(sen_folder, clips, classify):
    model, processor = AutoModel.from_pretrained(sen_folder), AutoProcessor.from_pretrained(sen_folder)
    built = pipeline("zero-shot-video-classification", model=model, processor=processor, device="cpu")
    assert same(built(clips[0], candidate_labels=LABELS), classify(clips[0], candidate_labels=LABELS))


def test_bfloat16(sen_folder, clips, classify):
    half = pipeline("zero-shot-video-classification", model=str(sen_folder), device="cpu", dtype="bfloat16")
    assert half.device == torch.device("cpu")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    result = scores_of(half(clips[0], candidate_labels=LABELS))
    assert sum(result.values()) == pytest.approx(1, abs=1e-6)
    assert result == pytest.approx(scores_of(classify(clips[0], candidate_labels=LABELS)), abs=0.02)


def test_only_a_checkpoint_of_the_model_is_saved(classify, clips, tmp_path):
    """The stock method writes the task's registration, with paths of this machine, into config.json."""
    classify.save_pretrained(tmp_path / "saved")
    written = (tmp_path / "saved" / "config.json").read_text()
    assert "custom_pipelines" not in written
    assert "/" not in written.replace("./neuron_", "")
    again = pipeline("zero-shot-video-classification", model=str(tmp_path / "saved"), device="cpu")
    assert same(again(clips[0], candidate_labels=LABELS), classify(clips[0], candidate_labels=LABELS))
