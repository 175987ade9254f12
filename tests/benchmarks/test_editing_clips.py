"""The chain of video editing on real clips: which prompts belong to which clip, and what is written of each."""

import json
import shutil

import pytest
import torch
import yaml

pytest.importorskip("accelerate")
pytest.importorskip("diffusers")

from diffusers import AutoencoderKL, UNet2DConditionModel
from tiny_editing import save_tiny_editing

from benchmarks import editing_clips
from benchmarks.editing_clips import Job, find_jobs, run, save_base
from modeling_sen import SENForVideoEditing
from modeling_sen.pipelines.video_editing import VideoEditingPipeline


def test_prompts_are_found_in_the_files_of_three_projects(tmp_path):
    files = {
        "car-turn": {
            "train_data": {"video_path": "data/car-turn.mp4", "prompt": "a jeep"},
            "validation_data": {"prompts": ["a car", "a bus"]},
        },
        "jeep": {
            "dataset_config": {"path": "data/teaser_car-turn", "prompt": "a silver jeep"},
            "editing_config": {"editing_prompts": ["a silver jeep", "a red jeep"]},
        },
        "pnp": {"data_path": "data/woman-running", "prompt": "a statue"},
    }
    for name, settings in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "clips").mkdir()
    clips = {name: tmp_path / "clips" / f"{name}.mp4" for name in ("car-turn", "woman-running", "wolf")}
    for path in clips.values():
        path.touch()
    assert find_jobs(tmp_path) == [
        Job(clips["car-turn"], "car-turn.yaml", "a jeep", ("a car", "a bus")),
        Job(clips["car-turn"], "jeep.yaml", "a silver jeep", ("a silver jeep", "a red jeep")),
        Job(clips["woman-running"], "pnp.yaml", "woman running", ("a statue",)),
        Job(clips["wolf"], "-", "wolf", ("wolf",)),
    ]


def test_a_clip_goes_through_the_chain(tmp_path, clips, sen_folder):
    checkpoint = save_tiny_editing(tmp_path / "checkpoint", sen_folder)
    pipeline = VideoEditingPipeline(model=SENForVideoEditing.from_pretrained(checkpoint), task="video-editing")
    clip = tmp_path / "a-dog.mp4"
    shutil.copy(clips[0], clip)
    job = Job(clip, "dog.yaml", "a dog", ("a red dog", "a cat"))
    (cells,) = run([job], pipeline, tmp_path, frames=3)
    assert cells[:2] == ["a-dog", "dog.yaml"]
    assert cells[2].startswith("3 of ")
    assert cells[3] == "32 x 32"
    tokens = [len(pipeline.editor.tokenizer(text).input_ids) for text in ("a dog", "a red dog", "a cat")]
    assert cells[4] == ", ".join(map(str, tokens))
    assert cells[-1] == "2 mp4, 3 frames, sound; 2 JSON"
    for number, prompt in ((1, "a red dog"), (2, "a cat")):
        record = json.loads((tmp_path / f"a-dog-dog-{number}.json").read_text())
        assert (record["edit_prompt"], record["tuning"]["steps"]) == (prompt, 2)


def test_the_base_has_the_architecture_of_stable_diffusion(tmp_path, monkeypatch):
    """Sizes alone, on the meta device."""
    made = {}

    def kept(name):
        return lambda part, folder: made.setdefault(name, part)

    for name, part in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text", editing_clips.CLIPTextModel)):
        monkeypatch.setattr(part, "save_pretrained", kept(name))
    jobs = [Job(tmp_path / "a.mp4", "-", "a silver jeep", ("a red jeep",))]
    with torch.device("meta"):
        save_base(tmp_path, jobs, torch.bfloat16)
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in made.items()}
    assert counts["unet"] == 859_520_964
    assert counts["vae"] == 83_653_863
    vocabulary = made["text"].config.vocab_size
    assert counts["text"] == 123_060_480 - (49_408 - vocabulary) * 768
    assert torch.get_default_dtype() == torch.float32
    assert made["unet"].dtype == torch.bfloat16
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
