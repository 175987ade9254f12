"""Every registered encoder type at base size: is the crown alone what a whole pass would give, and what does it cost?

For each type of `list_neurons()`, with random weights, prompts a quarter of the layers below the top, one clip: the largest
difference of a prompted look over the stored trunk to one that runs the whole tower again, the norm of the pooled output's
gradient at the prompts, the token grid, and the time of a crown over that of a full pass (median of alternating runs).

    python benchmarks/crown_time.py [TYPE ...] [--threads 1] [--repeats 3]
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from full_size_checkpoints import save_configuration
from torch import Tensor
from transformers import AutoConfig

from modeling_sen import SENConfig, SENProcessor, list_neurons
from modeling_sen.first_look import FirstLook, NeuronState
from modeling_sen.neuron import Neuron
from modeling_sen.neuron_loading import config_for, resolve_spec, tower_class_of

transformers.utils.logging.set_verbosity_error()

PROMPT_TOKENS = 4
DIFFERENCE_AIM = 1e-5

# type -> repository, and what else says which of its towers
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "audio-spectrogram-transformer": ("MIT/ast-finetuned-audioset-10-10-0.4593", {}),
    "bert": ("google-bert/bert-base-uncased", {}),
    "clap_audio_model": ("laion/clap-htsat-unfused", {}),
    "clap_text_model": ("laion/clap-htsat-unfused", {"role": "text_tower"}),
    "clip_text_model": ("openai/clip-vit-base-patch16", {"role": "text_tower"}),
    "clip_vision_model": ("openai/clip-vit-base-patch16", {}),
    "dinov2": ("facebook/dinov2-base", {}),
    "dinov3_vit": ("facebook/dinov3-vitb16-pretrain-lvd1689m", {}),
    "hubert": ("facebook/hubert-base-ls960", {}),
    "metaclip_2_text_model": ("facebook/metaclip-2-worldwide-b16", {"role": "text_tower"}),
    "metaclip_2_vision_model": ("facebook/metaclip-2-worldwide-b16", {}),
    "modernbert": ("answerdotai/ModernBERT-base", {}),
    "pe_audio_encoder": ("facebook/pe-av-large", {"class_name": "PeAudioEncoder"}),
    "pe_video_encoder": ("facebook/pe-av-large", {"class_name": "PeVideoEncoder", "num_frames": 2}),
    "siglip2_text_model": ("google/siglip2-base-patch16-naflex", {"role": "text_tower"}),
    "siglip2_vision_model": ("google/siglip2-base-patch16-naflex", {}),
    "siglip_text_model": ("google/siglip2-base-patch16-224", {"role": "text_tower"}),
    "siglip_vision_model": ("google/siglip2-base-patch16-224", {}),
    "timesformer": ("facebook/timesformer-base-finetuned-k400", {}),
    "videomae": ("MCG-NJU/videomae-base", {}),
    "videoprism_vision_model": ("google/videoprism-base-f16r288", {}),
    "vivit": ("google/vivit-b-16x2-kinetics400", {}),
    "vjepa2": ("facebook/vjepa2-vitl-fpc64-256", {"num_frames": 4}),
    "wav2vec2": ("facebook/wav2vec2-base-960h", {}),
    "wavlm": ("microsoft/wavlm-base-plus", {}),
    "whisper": ("openai/whisper-small", {}),
    "xclip_vision_model": ("microsoft/xclip-base-patch16", {}),
}


@dataclass
class Row:
    """What was found of one type; `None` where a neuron re-associated after its tower has no crown."""

    parameters: int
    grid: tuple[int, int, int]
    layers: str
    difference: float | None
    gradient: float
    seconds: float
    ratio: float | None


def make_neuron(model_type: str, folder: Path) -> tuple[Neuron, dict[str, Tensor]]:
    """The type's neuron with random weights, and one clip as a SEN hands it on."""
    hub_id, given = CHECKPOINTS[model_type]
    location = str(save_configuration(hub_id, folder))
    role = given.get("role", "tower")
    given = {key: value for key, value in given.items() if key != "role"}
    spec = replace(resolve_spec({"hub_id": location, **given}, role), projection=None)
    if spec.modality == "image":
        spec = replace(spec, num_frames=1)
    if spec.modality == "text":
        spec = replace(spec, name="words")
    tower_class = tower_class_of(spec, trust_remote_code=False)
    torch.manual_seed(0)
    model = tower_class(config_for(tower_class, AutoConfig.from_pretrained(location)))
    tower = model.get_submodule(spec.submodule) if spec.submodule else model
    if tower.config.model_type != model_type:
        raise RuntimeError(f"{hub_id}: expected a tower of type {model_type!r}, found {tower.config.model_type!r}")
    generator = np.random.default_rng(0)
    clip = {
        "video": generator.integers(0, 256, (32, 256, 256, 3), dtype=np.uint8),
        "audio": (generator.normal(scale=0.1, size=160_000).astype(np.float32), 16_000),
        "text": "the dog runs after a ball that nobody has thrown",
    }
    prepared = SENProcessor(SENConfig(neurons=[spec.to_dict()]))(videos=[clip])
    names = (spec.input_name, "attention_mask")
    inputs = {name: prepared[f"{spec.name}_{name}"] for name in names if f"{spec.name}_{name}" in prepared}
    return Neuron(spec, tower, None, None), inputs


def looked_again(neuron: Neuron, look: FirstLook, prompts: Tensor) -> NeuronState:
    """A prompted look; for a tower that takes no prompts the first look, shifted."""
    if neuron.prompted_tower is None:
        return replace(look.state, pooler_output=look.state.pooler_output + prompts[:, 0])
    return neuron.look_again(look, prompts)


def look_again_from_the_inputs(neuron: Neuron, trunk: FirstLook, context: Tensor) -> NeuronState:
    """A prompted look that runs the whole tower: nothing of the first look is left but its inputs."""
    prompted, stored = neuron.prompted_tower, trunk.trunk
    assert prompted is not None
    assert stored is not None
    fresh = replace(stored, hidden_states=torch.full_like(stored.hidden_states, float("nan")))

    def arrive(module, args, kwargs):
        fresh.hidden_states = args[0] if args else kwargs["hidden_states"]

    handle = prompted.crown[0].register_forward_pre_hook(arrive, with_kwargs=True)
    try:
        with patch.object(prompted, "trunk_bypassed", lambda trunk: nullcontext()):
            return neuron.look_again(replace(trunk, trunk=fresh), context)
    finally:
        handle.remove()


def difference(first: NeuronState, second: NeuronState) -> float:
    """Largest absolute difference of anything that two looks say."""
    fields = ("last_hidden_state", "pooler_output")
    return max((getattr(first, field) - getattr(second, field)).abs().max().item() for field in fields)


def measure(neuron: Neuron, inputs: dict[str, Tensor], repeats: int) -> Row:
    prompted = neuron.prompted_tower
    trunk = neuron.first_look(inputs)
    state = trunk.state
    count = 1 if prompted is None else PROMPT_TOKENS
    context = torch.randn(1, count, neuron.spec.hidden_size, generator=torch.Generator().manual_seed(1))
    context.requires_grad_(True)
    pooled = looked_again(neuron, trunk, context).pooler_output  # (1, width)
    # In a random direction: of a normalised vector the length says nothing.
    direction = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((pooled * direction).sum(), context)
    context = context.detach()
    largest, full, ratios = None, [], []
    with torch.no_grad():
        if prompted is not None:
            again = neuron.look_again(trunk, context)
            largest = difference(again, look_again_from_the_inputs(neuron, trunk, context))
        for _ in range(repeats):
            start = time.process_time()
            neuron.first_look(inputs)
            middle = time.process_time()
            looked_again(neuron, trunk, context)
            full.append(middle - start)
            ratios.append((time.process_time() - middle) / (middle - start))
    return Row(
        parameters=sum(weight.numel() for weight in neuron.tower.parameters()),
        grid=state.grid,
        layers="after" if prompted is None else f"{prompted.prompt_depth} of {prompted.num_layers}",
        difference=largest,
        gradient=gradient.norm().item(),
        seconds=statistics.median(full),
        ratio=None if prompted is None else statistics.median(ratios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", metavar="TYPE", help="all where none is named")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    types = options.types or list_neurons()
    if unknown := sorted(set(types) - set(CHECKPOINTS)):
        parser.error(f"no checkpoint of base size is known for {', '.join(unknown)}")
    print(
        f"{date.today()}, {options.threads} of {os.cpu_count()} threads, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, median of {options.repeats} alternating runs, processor time"
    )
    print("| type | parameters | grid | crown | difference | gradient | full pass | crown over full pass |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failed = []
    for model_type in types:
        with tempfile.TemporaryDirectory() as folder:
            try:
                neuron, inputs = make_neuron(model_type, Path(folder))
            except ImportError as error:
                print(f"| {model_type} | {str(error).strip().splitlines()[0]} |")
                failed.append(model_type)
                continue
            row = measure(neuron, inputs, options.repeats)
        del neuron, inputs
        off = "" if row.difference is None else f"{row.difference:.1e}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        print(
            f"| {model_type} | {row.parameters / 1e6:.1f} M | {' x '.join(map(str, row.grid))} | {row.layers} | {off} | "
            f"{row.gradient:.1e} | {row.seconds:.2f} s | {ratio} |",
            flush=True,
        )
        if row.gradient == 0 or (row.difference is not None and not row.difference <= DIFFERENCE_AIM):
            failed.append(model_type)
    print(f"not as aimed for: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
