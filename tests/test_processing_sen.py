"""The processor: a clip is read once for all neurons, and each neuron's inputs equal those of its own processor."""

import json
import shutil

import numpy as np
import pytest
import torch
from frame_stamps import CLIP_KINDS, write_sound
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, BertTokenizer

import modeling_sen
from modeling_sen import NeuronSpec, SENConfig, SENModel, SENProcessor, read_audio, read_video
from modeling_sen.audio_io import AudioClip
from modeling_sen.clip_inputs import clip_entries, is_clip_batch
from modeling_sen.clip_sound import longest_sound, part_of_span


@pytest.fixture
def processor(sen_folder) -> SENProcessor:
    return SENProcessor.from_pretrained(sen_folder)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 31, 45, 3), dtype=np.uint8)


def one_neuron(hub_id: str, **fields) -> SENProcessor:
    """A processor for one neuron with a complete specification."""
    spec = {
        "name": "eye",
        "modality": "image",
        "hub_id": hub_id,
        "hidden_size": 16,
        "class_name": "CLIPVisionModel",
        **fields,
    }
    return SENProcessor(SENConfig(neurons=[spec]))


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_inputs_have_the_documented_shapes_and_types(processor, clips):
    inputs = processor(videos=[{"video": clips[0], "text": "a dog barks"}, clips[1]], text=["a dog", "a man speaks"])
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in inputs.items()}
    assert shapes["image_pixel_values"] == ((2, 2, 3, 16, 16), torch.float32)
    assert shapes["video_pixel_values"] == ((2, 4, 3, 16, 16), torch.float32)
    assert shapes["audio_input_features"] == ((2, 64, 16), torch.float32)
    assert shapes["words_input_ids"] == ((2, 5), torch.int64)
    assert shapes["words_attention_mask"] == ((2, 5), torch.int64)
    assert shapes["frame_times"] == ((2, 4), torch.float64)
    assert shapes["text_input_ids"] == shapes["text_attention_mask"]
    assert inputs["neuron_mask"].tolist() == [[True, True, True, True], [True, True, True, False]]
    assert set(inputs) == set(processor.model_input_names)


def test_the_model_accepts_the_outputs_of_the_processor(sen_folder, processor, clips):
    output = SENModel.from_pretrained(sen_folder)(**processor(videos=list(clips), text=["a", "b"]))
    assert output.logits_per_video.shape == (3, 2)


def test_pixel_values_equal_those_of_the_hub_processor(processor, towers, clips):
    inputs = processor(videos=clips[0])
    for name, tower, count in (("image", "clip", 2), ("video", "videomae", 4)):
        seen = read_video(clips[0], count).frames
        stock = AutoImageProcessor.from_pretrained(towers[tower], backend="pil")(list(seen), return_tensors="pt")
        ours = inputs[f"{name}_pixel_values"]
        assert (ours - stock["pixel_values"].reshape(ours.shape)).abs().max() <= 1e-5


def test_log_mel_features_equal_those_of_the_hub_feature_extractor(processor, towers, clips):
    extractor = AutoFeatureExtractor.from_pretrained(towers["ast"])
    sound = read_audio(clips[0], 16_000).samples[:10_480]  # as long as the tower's 64 windows
    middle = read_audio(clips[0], 16_000, (1 - 0.655 / 2, 1 + 0.655 / 2)).samples
    stock = extractor(middle, sampling_rate=16_000, return_tensors="pt")["input_values"]
    assert torch.equal(processor(videos=clips[0])["audio_input_features"], stock)
    single = processor(videos={"audio": (sound, 16_000)})["audio_input_features"]
    assert torch.equal(single, extractor(sound, sampling_rate=16_000, return_tensors="pt")["input_values"])


def test_frame_times_are_those_of_the_neuron_with_the_most_frames(processor, clips, frames):
    assert processor(videos=clips[0])["frame_times"].tolist() == [[0.25, 0.75, 1.25, 1.75]]
    given = processor(videos={"video": frames, "times": np.arange(9) * 0.5 + 3})["frame_times"]
    assert given.tolist() == [[0.5, 1.5, 2.5, 3.5]]


def test_rows_without_frames_have_nan_times(processor, clips):
    times = processor(videos=[clips[0], {"audio": clips[1]}])["frame_times"]
    assert times[0].tolist() == [0.25, 0.75, 1.25, 1.75]
    assert times[1].isnan().all()
    assert "frame_times" not in processor(videos={"audio": clips[1]})


def test_each_frame_is_decoded_once_for_all_neurons(processor, clips, monkeypatch):
    decoded, opened = [], []
    read, open_source = modeling_sen.video_io.decode_frames, modeling_sen.clip_inputs.open_media_source

    def decode_frames(source, index, wanted):
        decoded.append(list(wanted))
        return read(source, index, wanted)

    monkeypatch.setattr(modeling_sen.video_io, "decode_frames", decode_frames)
    monkeypatch.setattr(
        modeling_sen.clip_inputs, "open_media_source", lambda media: opened.append(media) or open_source(media)
    )
    processor(videos=clips[0])
    # Frames 4 and 12 for the image tower, 2, 6, 10 and 14 for the video tower.
    assert decoded == [[2, 4, 6, 10, 12, 14]]
    assert opened == [clips[0]]


def test_each_view_is_a_row_with_different_frames(processor, clips):
    inputs = processor(videos=[clips[0], clips[1]], num_views=2)
    assert inputs["video_pixel_values"].shape[0] == 4
    # Eight frames are sampled and assigned to the views alternately.
    assert inputs["frame_times"][:2].tolist() == [[0.125, 0.625, 1.125, 1.625], [0.375, 0.875, 1.375, 1.875]]
    assert torch.equal(inputs["frame_times"][:2], inputs["frame_times"][2:])


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_all_forms_of_a_file_give_the_same_inputs(processor, clips):
    expected = processor(videos=clips[0])
    content = clips[0].read_bytes()
    with open(clips[0], "rb") as file:
        forms = [
            str(clips[0]),
            content,
            file,
            {"path": None, "bytes": content},
            {"path": str(clips[0]), "bytes": None},
        ]
        forms += [{"video": {"path": "gone.mp4", "bytes": content}}, {"video": clips[0], "audio": clips[0]}]
        for form in forms:
            inputs = processor(videos=form)
            assert inputs.keys() == expected.keys()
            assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_all_forms_of_frames_give_the_same_inputs(processor, frames):
    expected = processor(videos=frames)
    assert expected["neuron_mask"].tolist() == [[True, True, False, False]]
    forms = [torch.from_numpy(frames), list(frames), [Image.fromarray(frame) for frame in frames], {"video": frames}]
    for form in forms:
        assert torch.equal(processor(videos=form)["video_pixel_values"], expected["video_pixel_values"])


def test_an_image_is_a_clip_of_one_frame(processor, frames, tmp_path):
    expected = processor(videos=frames[:1])["image_pixel_values"]
    Image.fromarray(frames[0]).save(tmp_path / "image.png")
    for image in (frames[0], Image.fromarray(frames[0]), tmp_path / "image.png"):
        assert torch.equal(processor(videos={"image": image})["image_pixel_values"], expected)
    with pytest.raises(ValueError, match="a video or an image, found both"):
        processor(videos={"image": frames[0], "video": frames})


def test_sound_in_the_form_of_datasets_is_accepted(processor, clips):
    samples = read_audio(clips[0], 16_000).samples
    stored = processor(videos={"audio": {"array": samples, "sampling_rate": 16_000}})
    assert torch.equal(
        stored["audio_input_features"], processor(videos={"audio": (samples, 16_000)})["audio_input_features"]
    )


def test_missing_modalities_are_masked_and_zero(processor, clips, frames):
    inputs = processor(
        videos=[clips[0], frames, {"audio": clips[1]}, {"text": "a dog", "video": None, "audio": clips[2]}]
    )
    assert inputs["neuron_mask"].tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, True, True],
    ]
    assert not inputs["audio_input_features"][1].any()
    assert not inputs["image_pixel_values"][2].any()


def test_depth_maps_with_one_channel_are_accepted(towers, frames):
    depth = frames[..., 0]
    eye = one_neuron(towers["depth_anything"], modality="depth", num_frames=3)
    three = np.repeat(depth[..., None], 3, axis=-1)
    assert torch.equal(
        eye(videos={"depth": depth})["eye_pixel_values"], eye(videos={"depth": three})["eye_pixel_values"]
    )


def test_usual_arguments_of_processors_are_accepted(processor, frames):
    batch = np.stack([frames, frames[::-1]])
    expected = processor(videos=list(batch))
    for found in (processor(videos=batch), processor(videos=torch.from_numpy(batch), padding=True)):
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, equal_nan=True)
    arrays = processor(videos=batch, padding="longest", return_tensors="np")
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values.numpy())
    images = processor(videos=[{"image": frames[0]}, {"image": frames[1]}])
    for given in (frames[:2], [Image.fromarray(frame) for frame in frames[:2]]):
        assert torch.equal(processor(images=given)["image_pixel_values"], images["image_pixel_values"])
    assert torch.equal(processor(images=frames[0])["image_pixel_values"], images["image_pixel_values"][:1])


def test_a_wrong_clip_of_a_batch_is_named_by_its_position(processor, frames, tmp_path):
    with pytest.raises(ValueError, match=r"^videos\[1\]: video: expected .* found \(\d+, \d+, \d+, 2\)"):
        processor(videos=[frames, frames[..., :2]])
    with pytest.raises(FileNotFoundError, match=rf"^videos\[0\]: {tmp_path}/none.mp4: no such file"):
        processor(videos=[str(tmp_path / "none.mp4"), frames])
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/none.mp4"):
        processor(videos=[str(tmp_path / "none.mp4")])


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"vid": "a.mp4"}, r"unknown entries \['vid'\]"),
        ({"text": 5}, "a string as text, found int"),
        ({"video": {"path": None, "bytes": None}}, "with one of them given as video"),
        ({"video": {"array": [1]}}, "given as video"),
        (
            {"thermal": np.zeros((2, 8, 8, 3), np.uint8)},
            "found thermal, but the neurons read audio, image, text, video",
        ),
        (np.zeros((2, 3, 8, 8), np.uint8), r"\(T, H, W, 3\) uint8"),
        ({}, "found nothing"),
    ],
)
def test_malformed_clips_are_refused(processor, clip, message):
    with pytest.raises(ValueError, match=message):
        processor(videos=clip)


def test_wrong_calls_are_refused(processor, clips):
    with pytest.raises(ValueError, match="expected videos, images or text, found none"):
        processor()
    with pytest.raises(ValueError, match="'tf', expected 'pt' or 'np'"):
        processor(videos=clips[0], return_tensors="tf")
    with pytest.raises(ValueError, match="padding is 'max_length', expected True or 'longest'"):
        processor(videos=clips[0], padding="max_length")
    with pytest.raises(ValueError, match="expected videos or images, found both"):
        processor(videos=clips[0], images=clips[0])
    with pytest.raises(ValueError, match="at least one string"):
        processor(text=[])


def test_a_list_of_images_is_one_clip_and_any_other_list_a_batch(frames):
    assert not is_clip_batch(list(frames))
    assert not is_clip_batch({"video": "a.mp4"})
    assert is_clip_batch(["a.mp4", "b.mp4"])
    assert is_clip_batch([{"video": "a.mp4"}])
    assert is_clip_batch([frames, frames])
    assert clip_entries("a.mp4") == {"video": "a.mp4"}


def test_long_sound_is_read_in_the_middle_of_each_view(towers):
    extractor = AutoFeatureExtractor.from_pretrained(towers["ast"])
    longest = longest_sound(NeuronSpec("audio", "audio", towers["ast"], 16, "ASTModel"), extractor)
    assert longest == pytest.approx(0.655)
    assert part_of_span((0.0, 0.5), longest, 0, 1) == (0.0, 0.5)
    assert part_of_span(None, longest, 0, 1) is None
    assert part_of_span((10.0, 3610.0), longest, 0, 1) == pytest.approx((1810 - 0.3275, 1810 + 0.3275))
    assert part_of_span((10.0, 3610.0), longest, 1, 2) == pytest.approx((2710 - 0.3275, 2710 + 0.3275))
    assert part_of_span((0.0, 0.7), longest, 0, 4) == pytest.approx((0.0, 0.655))


def test_only_the_needed_part_of_a_sound_without_video_is_read(processor, towers, tmp_path, monkeypatch):
    """From the start, at most as long as the neuron's input; shorter sound is not padded."""
    write_sound(tmp_path / "long.m4a", "aac", 20, rate=16_000, layout="mono")
    write_sound(tmp_path / "clip.mp4", "aac", 20, rate=16_000, clip=CLIP_KINDS["mp4"])
    extractor = AutoFeatureExtractor.from_pretrained(towers["ast"])
    read = []

    def read_some(*args):
        read.append(read_audio(*args).samples)
        return AudioClip(read[-1], 16_000, True)

    monkeypatch.setattr(modeling_sen.clip_sound, "read_audio", read_some)
    for name in ("long.m4a", "clip.mp4"):  # a video file given as audio counts as sound without video
        whole = read_audio(tmp_path / name, 16_000).samples
        given = processor(videos={"audio": tmp_path / name})["audio_input_features"]
        expected = extractor(whole[:10_480], sampling_rate=16_000, return_tensors="pt")["input_values"]
        assert torch.equal(given, expected)
        assert len(read.pop()) == 10_480
        processor(videos={"audio": (whole[:5_000], 16_000)})
        assert np.array_equal(read.pop(), whole[:5_000])


# --- texts -----------------------------------------------------------------------------------------------------------


def test_class_texts_are_padded_to_the_longest_and_masked(processor):
    inputs = processor(text=["a", "a dog"])
    assert inputs["text_attention_mask"].sum(dim=1).tolist() == [3, 6]  # with start and end
    assert inputs["text_input_ids"].shape == (2, 6)


def test_texts_longer_than_the_tower_are_cut(processor):
    """The saved tokenizer has no maximum length; the limit is the tower's number of positions."""
    assert processor(text="x" * 500)["text_input_ids"].shape == (1, 32)


def test_siglip_texts_are_padded_to_the_full_length_without_a_mask(towers, tmp_path):
    folder = shutil.copytree(towers["siglip"], tmp_path / "siglip")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"model_max_length": 16, "model_input_names": ["input_ids"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tower = {"modality": "text", "hub_id": str(folder), "hidden_size": 16, "class_name": "SiglipTextModel"}
    processor = SENProcessor(SENConfig(neurons=[{"name": "words", **tower}], text_tower=tower))
    inputs = processor(videos={"text": "a dog"}, text=["a", "a longer text"])
    assert inputs["text_input_ids"].shape == (2, 16)
    assert inputs["words_input_ids"].shape == (1, 16)
    assert inputs["text_attention_mask"].all()
    assert inputs["words_attention_mask"].all()


def test_texts_without_a_text_tower_are_refused(towers):
    with pytest.raises(ValueError, match="no text tower"):
        one_neuron(towers["clip"])(text="a dog")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def same(first: SENProcessor, second: SENProcessor, clip) -> bool:
    one, two = (processor(videos=clip, text="a dog") for processor in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_auto_processor_loads_it_and_saving_changes_nothing(processor, sen_folder, clips, tmp_path):
    found = AutoProcessor.from_pretrained(sen_folder)
    assert isinstance(found, SENProcessor)
    assert same(found, processor, clips[0])
    assert json.loads((sen_folder / "processor_config.json").read_text())["processor_class"] == "SENProcessor"


def test_a_processor_saved_without_its_model_contains_the_configuration(make_sen, clips, tmp_path):
    processor = SENProcessor(make_sen().config)
    processor.save_pretrained(tmp_path / "alone")
    assert same(SENProcessor.from_pretrained(tmp_path / "alone"), processor, clips[0])


def test_a_checkpoint_folder_with_neurons_can_be_moved(sen_folder, processor, clips, tmp_path):
    moved = shutil.copytree(sen_folder, tmp_path / "moved")
    assert same(SENProcessor.from_pretrained(moved), processor, clips[0])


def test_wrong_checkpoints_are_refused(towers, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        SENProcessor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(OSError, match="nobody/nothing: "):
        SENProcessor.from_pretrained("nobody/nothing")
    with pytest.raises(ValueError, match="model type is 'bert', expected 'sen'"):
        SENProcessor.from_pretrained(towers["bert"])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(OSError, match="not a valid JSON"):
        SENProcessor.from_pretrained(tmp_path)


def test_a_damaged_or_missing_processor_is_named_with_its_neuron(towers, frames, tmp_path):
    folder = shutil.copytree(towers["clip"], tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"neuron 'eye' \(.*\): .*preprocessor_config\.json is not JSON"):
        one_neuron(str(folder))(videos=frames)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"neuron 'eye' .* with \['mean', 'size', 'std'\]"):
        one_neuron(str(folder))(videos=frames)
    with pytest.raises(OSError, match=r"neuron 'eye' \(nobody/nothing\): "):
        one_neuron("nobody/nothing")(videos=frames)
    with pytest.raises(OSError, match=r"neuron 'eye' .*preprocessor_config"):
        one_neuron(str(folder), modality="audio", class_name="ASTModel")(videos={"audio": (np.zeros(16_000), 16_000)})


def test_text_neurons_use_their_own_tokenizer(processor, towers):
    inputs = processor(videos=[{"text": "a dog barks"}, {"text": "a man"}])
    tokens = BertTokenizer.from_pretrained(towers["bert"])(["a dog barks", "a man"], padding=True, return_tensors="pt")
    assert torch.equal(inputs["words_input_ids"], tokens["input_ids"])
    assert torch.equal(inputs["words_attention_mask"], tokens["attention_mask"])


def test_processing_does_not_modify_the_specifications(make_sen, clips):
    config = make_sen().config
    before = json.dumps(config.neurons)
    SENProcessor(config)(videos=clips[0])
    assert json.dumps(config.neurons) == before
    assert all(isinstance(spec, NeuronSpec) for spec in config.neuron_specs)
