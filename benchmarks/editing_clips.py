"""Real clips through the whole chain of video editing at the size of Stable Diffusion 1.5: read, tune, invert, edit, write.

UNet, VAE and text encoder have the widths of Stable Diffusion 1.5 and random weights, so that edits show noise: it is the
chain that is tried, on a few frames of 64 x 64 with two steps each. The clips are mp4 files, and the YAML files beside them
are those of Tune-A-Video, FateZero and TokenFlow. Where no prompt of the source is given, the clip's name is taken, and where
no prompts are given at all, the clip is edited under its own.

    python benchmarks/editing_clips.py FOLDER OUT [--frames 8] [--dtype bfloat16] [--threads 1]
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import diffusers
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from modeling_sen import SEN_TINY, SENForVideoEditing
from modeling_sen.editing.tuning import TuningSettings
from modeling_sen.frame_index import index_frames
from modeling_sen.media_source import open_media_source
from modeling_sen.pipelines.video_editing import VideoEditingPipeline
from recipes.sen_tiny.tiny_captions import learn_tokenizer

PIXELS = 64
STEPS = 2


@dataclass(frozen=True)
class Job:
    """A clip with the prompts of one file."""

    clip: Path
    prompts_from: str
    source_prompt: str
    prompts: tuple[str, ...]


def find_jobs(folder: Path) -> list[Job]:
    """Of each YAML file under a folder, and of each clip without one."""
    clips = {path.stem: path for path in sorted(folder.rglob("*.mp4"))}
    jobs, named = [], set()
    for path in sorted(folder.rglob("*.yaml")):
        settings = yaml.safe_load(path.read_text())
        where, source, prompts = read_settings(settings)
        stem = next(stem for stem in clips if stem in Path(where).name)
        named.add(stem)
        jobs.append(Job(clips[stem], path.name, source or stem.replace("-", " "), tuple(prompts)))
    for stem, path in clips.items():
        if stem not in named:
            jobs.append(Job(path, "-", stem.replace("-", " "), (stem.replace("-", " "),)))
    return jobs


def read_settings(settings: dict[str, Any]) -> tuple[str, str | None, list[str]]:
    """Path of the video, what it shows, and the prompts of its edits."""
    if "train_data" in settings:  # Tune-A-Video
        data = settings["train_data"]
        return data["video_path"], data["prompt"], settings["validation_data"]["prompts"]
    if "dataset_config" in settings:  # FateZero, whose first prompt is the source's
        data = settings["dataset_config"]
        return data["path"], data["prompt"], settings["editing_config"]["editing_prompts"]
    return settings["data_path"], None, [settings["prompt"]]  # TokenFlow


def save_base(folder: Path, jobs: list[Job], dtype: torch.dtype) -> None:
    """A pipeline as the Hub has it, with random weights and a tokenizer of the words of all prompts."""
    words = [text for job in jobs for text in (job.source_prompt, *job.prompts)]
    tokenizer = learn_tokenizer(words, 2048)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        pad_token_id=tokenizer.pad_token_id,
        **ends,
    )
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    torch.set_default_dtype(dtype)
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(sample_size=PIXELS // 8, cross_attention_dim=768, attention_head_dim=8),
        "vae": AutoencoderKL(**vae),
        "text_encoder": CLIPTextModel(text),
        "tokenizer": tokenizer,
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False
        ),
    }
    torch.set_default_dtype(torch.float32)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def run(jobs: list[Job], pipeline: VideoEditingPipeline, output: Path, frames: int) -> Iterator[list[str]]:
    """Cells of each clip."""
    tokenizer = pipeline.editor.tokenizer
    for job in jobs:
        started = time.perf_counter(), time.process_time()
        with open_media_source(job.clip) as source:
            index = index_frames(source)
        found = pipeline(
            str(job.clip),
            job.source_prompt,
            list(job.prompts),
            tuning=TuningSettings(steps=STEPS),
            num_inference_steps=STEPS,
            fps=(frames - 0.5) / index.duration,  # so many of the whole clip
            progress=False,
        )
        files = []
        for number, edited in enumerate(found, start=1):
            name = f"{job.clip.stem}-{Path(job.prompts_from).stem}-{number}"
            edited.save(output / f"{name}.mp4")
            edited.save_record(output / f"{name}.json")
            files.append(output / f"{name}.mp4")
        seconds, processor = time.perf_counter() - started[0], time.process_time() - started[1]
        lengths = [len(tokenizer(prompt).input_ids) for prompt in (job.source_prompt, *job.prompts)]
        height, width = found[0].frames.shape[1:3]
        yield [
            job.clip.stem,
            job.prompts_from,
            f"{len(found[0].frames)} of {len(index.times)}",
            f"{width} x {height}",
            ", ".join(map(str, lengths)),
            f"{seconds:.0f}",
            f"{processor:.0f}",
            f"{len(files)} mp4, {', '.join(sorted({written(file) for file in files}))}; {len(files)} JSON",
        ]


def written(file: Path) -> str:
    """Frames and sound of a file that was written, read back."""
    with av.open(str(file)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        return f"{frames} frames, {'sound' if container.streams.audio else 'no sound'}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of clips and YAML files")
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, default=8, help="of each clip, spread over it")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.output.mkdir(parents=True, exist_ok=True)
    jobs, dtype, base = find_jobs(options.folder), getattr(torch, options.dtype), options.output / "base"
    if not (base / "model_index.json").exists():
        save_base(base, jobs, dtype)
    model = SENForVideoEditing.from_base(str(base), SEN_TINY, base_kwargs={"torch_dtype": dtype})
    pipeline = VideoEditingPipeline(model=model, task="video-editing")
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in pipeline_parts(pipeline)}
    print(", ".join(f"{name} {count / 1e6:.0f} M" for name, count in sizes.items()), f"weights, {options.dtype}\n")
    heads = [
        "clip",
        "prompts of",
        "frames",
        "size",
        "tokens of source and prompts",
        "seconds",
        "of processor",
        "files",
    ]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for cells in run(jobs, pipeline, options.output, options.frames):
        print(f"| {' | '.join(cells)} |", flush=True)


def pipeline_parts(pipeline: VideoEditingPipeline) -> list[tuple[str, Any]]:
    editor = pipeline.editor
    return [
        ("UNet", editor.model.unet),
        ("adapter", editor.model.adapter),
        ("VAE", editor.vae),
        ("text encoder", editor.text_encoder),
    ]


if __name__ == "__main__":
    main()
