"""A SEN with trained encoders of frames, speech and text (`real_models.py`), on real clips. `pytest -s` prints figures."""

import copy
import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from real_models import MODELS, needs_models, sentence_model
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    EfficientNetForImageClassification,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from benchmarks.association.second_look_frames import mean_average_precision
from modeling_sen import SENEncoder, SENModel, SENProcessor, read_video
from modeling_sen.audio_io import read_audio
from modeling_sen.training.feature_cache import FeatureCache

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Short clips, all but two with sound, and a caption for each.
CAPTIONS = {
    "editing/tune-a-video/man-skiing.mp4": "a man is skiing",
    "editing/tune-a-video/rabbit-watermelon.mp4": "a rabbit is eating a watermelon",
    "multimodal/gram/video1.mp4": "a dog is barking",
    "multimodal/gram/video3.mp4": "a red cat is meowing",
    "recognition/PaddleVideo/example.avi": "a man is practising archery",
    "recognition/mmaction2/test.avi": "a woman is applying eye makeup",
    "editing/tokenflow/wolf.mp4": "a wolf turns its head",
    "recognition/torchvision/RATRACE_wave_f_nm_np1_fr_goo_37.avi": "a person is waving",
}
SKIING, GUITAR = "editing/tune-a-video/man-skiing.mp4", "recognition/ask-anything/playing_guitar.mp4"
TELESCOPE = "multimodal/decode_edge/nasa_13013.mp4"
VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4")


def make_sen(text_tower: str, **settings) -> SENModel:
    """An untrained SEN that reads frames (a middle layer of the ViT), speech and text; its gate is open."""
    torch.manual_seed(0)
    neurons = [
        {"hub_id": str(MODELS / "vit"), "name": "image", "output_layer": 6, "num_frames": 2},
        {"hub_id": str(MODELS / "speech"), "name": "speech"},
        {"hub_id": text_tower, "name": "words"},
    ]
    model = SENModel.from_neurons(neurons, text_tower=text_tower, **settings)
    model.gate.data.fill_(0.8)
    return model


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory) -> str:
    return sentence_model(tmp_path_factory.mktemp("text") / "minilm")


@pytest.fixture(scope="module")
def sen(text_tower) -> SENModel:
    return make_sen(text_tower)


@needs_models("vit", "speech", "text")
def test_each_neuron_returns_the_output_of_its_encoder(sen, text_tower, shared_data):
    clip, words = str(shared_data / SKIING), CAPTIONS[SKIING]
    inputs = SENProcessor(sen.config)(videos={"video": clip, "text": words})
    with torch.no_grad():
        states = sen(**inputs).neuron_states
    video = read_video(clip, num_frames=2)
    sound = read_audio(clip, 16_000, span=video.span).samples
    vit, speech, text = (AutoModel.from_pretrained(MODELS / name).eval() for name in ("vit", "speech", "text"))
    pixels = AutoImageProcessor.from_pretrained(MODELS / "vit")(list(video.frames), return_tensors="pt")
    features = WhisperFeatureExtractor.from_pretrained(MODELS / "speech")(
        sound, sampling_rate=16_000, return_tensors="pt"
    )
    tokens = AutoTokenizer.from_pretrained(MODELS / "text")(words, return_tensors="pt")
    with torch.no_grad():
        frames = vit(**pixels, output_hidden_states=True).hidden_states[6][:, 1:]  # without the class token
        windows = speech.encoder(**features).last_hidden_state
        pieces = text(**tokens).last_hidden_state
    expected = {"image": frames.flatten(0, 1)[None], "speech": windows, "words": pieces}
    for name, each in expected.items():
        torch.testing.assert_close(states[name].last_hidden_state, each, atol=2e-4, rtol=1e-4, msg=name)
    assert states["image"].grid == (2, 16, 16)
    embedding = torch.nn.functional.normalize(pieces.mean(1), dim=-1).numpy()
    np.testing.assert_allclose(SENEncoder(sen, SENProcessor(sen.config)).encode_text(words), embedding, atol=1e-5)


@needs_models("vit", "speech", "text")
def test_clips_are_encoded_with_their_sound(sen, shared_data):
    with open(shared_data / "MANIFEST.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "video" and row["has_audio"] == "yes"]
    clips = [shared_data / row["path"].removeprefix("shared/") for row in rows]
    assert len(clips) > 10
    processor = SENProcessor(sen.config)
    inputs = processor(videos=[str(clip) for clip in clips])
    assert inputs["neuron_mask"].tolist() == [[True, True, False]] * len(clips)
    with torch.no_grad():
        embeds = sen(**inputs).fused_embeds
        mask = inputs["neuron_mask"] & torch.tensor([True, False, True])
        without_sound = sen(**{**inputs, "neuron_mask": mask}).fused_embeds
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(len(clips)))
    assert ((embeds - without_sound).norm(dim=-1) > 1e-3).all()
    similarity = embeds @ embeds.T - 2 * torch.eye(len(clips))
    print(f"\n{len(clips)} clips; most similar two {similarity.max():.4f}")
    assert similarity.max() < 1 - 1e-4


@needs_models("vit", "speech", "text")
@pytest.mark.parametrize("prompt", ["queries", "tokens"])
def test_a_saved_and_loaded_sen_encodes_clips_as_before(prompt, text_tower, shared_data, tmp_path):
    model = make_sen(text_tower, prompt=prompt)
    clips = [{"video": str(shared_data / clip), "text": CAPTIONS[clip]} for clip in list(CAPTIONS)[:2]]
    clips.append(str(shared_data / list(CAPTIONS)[-1]))  # a clip without sound and without text
    expected = SENEncoder(model, SENProcessor(model.config)).encode(clips)
    for include_neurons in (False, True):
        folder = tmp_path / f"with_neurons_{include_neurons}"
        model.save_pretrained(folder, include_neurons=include_neurons)
        SENProcessor(model.config).save_pretrained(folder)
        loaded = SENEncoder.from_pretrained(folder, device="cpu")
        state = loaded.model.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
        difference = np.abs(loaded.encode(clips) - expected).max()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        print(f"\n{prompt}: {folder.name}, {size:.1f} MB, largest difference {difference:.1e}")
        assert difference < 1e-5


class Rows(torch.utils.data.Dataset):
    """The row numbers of the clips."""

    def __len__(self) -> int:
        return len(CAPTIONS)

    def __getitem__(self, row: int) -> int:
        return row


@needs_models("vit", "speech", "text")
def test_twenty_steps_train_the_association_and_leave_the_encoders_unchanged(text_tower, shared_data, tmp_path):
    pytest.importorskip("accelerate")
    from modeling_sen.training.trainer import SENTrainer, SENTrainingArguments

    model = make_sen(text_tower)
    processor = SENProcessor(model.config)
    # Half of the clips have a text for the text neuron, which is not their caption.
    words = [{"text": Path(clip).stem} if number % 2 else {} for number, clip in enumerate(CAPTIONS)]
    clips = [{"video": str(shared_data / clip), **more} for clip, more in zip(CAPTIONS, words, strict=True)]
    texts = torch.from_numpy(SENEncoder(model, processor).encode_text(list(CAPTIONS.values())))
    cache = FeatureCache(model, tmp_path / "cache", list(CAPTIONS), torch.float32)
    cache.build(lambda rows: processor(videos=[clips[row] for row in rows]), batch_size=4)
    whole = {"text_embeds": texts, "labels": torch.arange(len(clips))}

    def loss_of_all() -> float:
        rows = range(len(clips))
        with torch.no_grad():
            return model(trunks=cache.trunks(rows), neuron_mask=cache.neuron_mask(rows), **whole).loss.item()

    with torch.no_grad():
        embeds = model(trunks=cache.trunks([0, 1]), neuron_mask=cache.neuron_mask([0, 1])).fused_embeds
        torch.testing.assert_close(embeds, model(**processor(videos=clips[:2])).fused_embeds, atol=1e-5, rtol=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: value.clone() for name, value in model.named_parameters()}
    towers = {name: neuron.tower for name, neuron in model.neurons.items()}
    frozen = {name: copy.deepcopy(tower.state_dict()) for name, tower in towers.items()}
    first = loss_of_all()

    def task(model, batch):
        rows = batch["rows"].tolist()
        return model(
            trunks=cache.trunks(rows), neuron_mask=cache.neuron_mask(rows), text_embeds=texts, labels=batch["rows"]
        )

    arguments = SENTrainingArguments(
        str(tmp_path / "run"),
        max_steps=20,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SENTrainer(
        model,
        arguments,
        train_dataset=Rows(),
        data_collator=lambda rows: {"rows": torch.tensor(rows)},
        task=task,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = loss_of_all()
    steps = ", ".join(f"{loss:.2f}" for loss in losses)
    print(f"\nloss of eight clips {first:.2f} before, {last:.2f} after 20 steps; in training: {steps}")
    assert len(losses) == 20
    assert all(math.isfinite(loss) for loss in losses)
    assert last < first
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == trained
    assert set(frozen) == {"image", "speech", "words", "class_text"}
    for name, tower in towers.items():
        assert all(torch.equal(value, frozen[name][key]) for key, value in tower.state_dict().items()), name


@needs_models("speech")
def test_whispers_decoder_transcribes_the_features_of_a_real_clip(shared_data):
    sound = read_audio(str(shared_data / TELESCOPE), sampling_rate=16_000)
    extractor = WhisperFeatureExtractor.from_pretrained(MODELS / "speech")
    features = extractor(sound.samples, sampling_rate=16_000, return_tensors="pt").input_features
    neuron = SENModel.from_neurons([{"hub_id": str(MODELS / "speech"), "name": "speech"}], projection_dim=8)
    inputs = SENProcessor(neuron.config)(videos={"audio": str(shared_data / TELESCOPE)})
    torch.testing.assert_close(inputs["speech_input_features"], features, atol=1e-5, rtol=0)
    whisper = WhisperForConditionalGeneration.from_pretrained(MODELS / "speech").eval()
    tokens = whisper.generate(features, max_new_tokens=64, do_sample=False)
    text = AutoTokenizer.from_pretrained(MODELS / "speech").decode(tokens[0], skip_special_tokens=True)
    print(f"\n{text!r}")
    assert "Webb Space Telescope" in text


@needs_models("cnn")
def test_an_imagenet_tower_classifies_real_clips_like_the_whole_model(shared_data):
    whole = EfficientNetForImageClassification.from_pretrained(MODELS / "cnn").eval()
    neuron = {"hub_id": str(MODELS / "cnn"), "name": "image", "num_frames": 4}
    model = SENModel.from_neurons([neuron], projection_dim=8, num_rounds=0)
    names = {}
    for clip in (SKIING, GUITAR):
        frames = read_video(str(shared_data / clip), num_frames=4).frames
        pixels = AutoImageProcessor.from_pretrained(MODELS / "cnn")(list(frames), return_tensors="pt")
        with torch.no_grad():
            expected = whole(**pixels).logits.mean(0)  # the classifier is linear, so this is its output for the mean
            state = model(**SENProcessor(model.config)(videos=str(shared_data / clip))).neuron_states["image"]
            found = whole.classifier(state.pooler_output)[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        best = found.softmax(-1).topk(5)
        names[clip] = [whole.config.id2label[number] for number in best.indices.tolist()]
        print(f"\n{clip}:", [f"{name} {score:.2f}" for name, score in zip(names[clip], best.values, strict=True)])
    assert names[SKIING][0] == "ski"
    assert any("guitar" in name for name in names[GUITAR])


@needs_models("vit")
def test_an_inner_layer_retrieves_frames_of_the_same_clip_better_than_the_last_layer(shared_data):
    folders = [shared_data / name for name in ("chat", "editing", "recognition")]
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in VIDEO_SUFFIXES)
    vit = {"hub_id": str(MODELS / "vit"), "num_frames": 1}
    neurons = [{**vit, "name": "inner", "output_layer": 6}, {**vit, "name": "last"}]
    model = SENModel.from_neurons(neurons, projection_dim=8, num_rounds=0)
    processor = SENProcessor(model.config)
    features: dict[str, list] = {"inner": [], "last": [], "pixels": []}
    for path in paths:
        frames = read_video(str(path), num_frames=4, sampling="fps:1").frames
        inputs = processor(videos=[frame[None] for frame in frames])  # each frame is a clip
        with torch.no_grad():
            states = model(**inputs).neuron_states
        for name in ("inner", "last"):
            features[name].append(states[name].last_hidden_state.mean(1))
        features["pixels"].append(inputs["inner_pixel_values"][:, 0])
    clips = torch.arange(len(paths)).repeat_interleave(4)
    measured = {
        name: mean_average_precision(torch.cat(parts).flatten(1), clips, clips) for name, parts in features.items()
    }
    print(f"\n{len(paths)} clips, mAP:", {name: round(value, 3) for name, value in measured.items()})
    assert measured["inner"] > measured["pixels"] + 0.05
    assert measured["inner"] > measured["last"] + 0.1
