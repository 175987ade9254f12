"""Real clips of every kind through every protocol, seen by a CLIP of full size with random weights."""

import json

import pytest
import torch
from tiny_towers import clip_tokenizer
from transformers import CLIPConfig, CLIPModel

from modeling_sen import SENEncoder, SENModel, SENProcessor
from modeling_sen.evaluation.protocols import PROTOCOLS, protocol_processors
from modeling_sen.training.data import VIDEO_SUFFIXES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """CLIP B/32 in the Hub's layout: 151 M parameters."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model = SENModel.from_neurons([str(folder)], text_tower=str(folder), num_rounds=1)
    return SENEncoder(model, SENProcessor(model.config))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(PROTOCOLS, key=lambda name: PROTOCOLS[name].num_frames or 0))
def test_every_clip_through_every_protocol(encoder, shared_data, name):
    files = sorted(file for file in (shared_data / "recognition").rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
    assert len(files) >= 12
    protocol = PROTOCOLS[name]
    views = protocol_processors(encoder.processor, protocol)
    assert len(views) == (3 if name == "openvclip" else 1)
    frames = protocol.num_frames or encoder.model.config.neuron_specs[0].num_frames
    for file in files:
        for view in views:
            inputs = view(str(file))
            assert inputs["image_pixel_values"].shape == (1, frames, 3, 224, 224), file
            with torch.no_grad():
                embedding = encoder.model.get_video_features(**inputs).pooler_output
            assert torch.isfinite(embedding).all()
            assert embedding.norm().item() == pytest.approx(1, abs=1e-4)
