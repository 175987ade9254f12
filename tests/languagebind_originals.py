"""LanguageBind checkpoints in the layout of the authors: `pytorch_model.bin`, and a config.json of that time."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

TOWERS = ("image", "video", "audio", "depth", "thermal")
PARITY = (*TOWERS, "video_vl_new")


def parity_folder(shared_data: Path, tower: str) -> Path:
    """A folder with small random weights, inputs, and the outputs of the original code."""
    folder = shared_data / "parity" / f"languagebind_{tower}"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def parity_io(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(inputs, outputs) of the original code."""
    tensors = load_file(folder / "io.safetensors")
    both = [{name[len(kind) :]: tensor for name, tensor in tensors.items() if name.startswith(kind)} for kind in KINDS]
    return both[0], both[1]


KINDS = ("input.", "output.")


def write_original(model, folder: Path, **tower_settings) -> Path:
    """Writes a model in the authors' layout: with position ids, and `clip_vision_model` as the tower's type."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    for part in ("text_model", "vision_model"):
        places = len(weights[f"{part}.embeddings.position_embedding.weight"])
        weights[f"{part}.embeddings.position_ids"] = torch.arange(places)[None]
    config = model.config.to_dict()
    config["vision_config"] |= {"model_type": "clip_vision_model", "force_patch_dropout": 0.5, **tower_settings}
    config["text_config"]["eos_token_id"] = 49407  # its value is ignored: the highest id ends a text
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def add_lora(folder: Path, model, targets: list[str], rank: int, alpha: int, wrapped: bool) -> tuple[Path, Tensor]:
    """Adds peft's LoRA to the encoder of a model in the published way, and saves it.

    Args:
        wrapped: use the layout of current peft, `q_proj.base_layer.weight`; otherwise that of 2023, `q_proj.weight`.

    Returns:
        The folder, and the output of peft's model for `pixels_of(model)`: normalised embeddings.
    """
    torch.manual_seed(3)
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, bias="none")
    model.vision_model.encoder = get_peft_model(model.vision_model.encoder, settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    expected = embed(model.eval())
    folder = write_original(model, folder, lora_r=rank, lora_alpha=alpha, lora_dropout=0.1)
    if not wrapped:
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
        torch.save(
            {name.replace(".base_layer.", "."): weight for name, weight in weights.items()},
            folder / "pytorch_model.bin",
        )
    return folder, expected


def pixels_of(model) -> Tensor:
    config = model.config.vision_config
    shape = (2, 3, config.num_frames) if config.add_time_attn else (2, 3)
    return torch.randn(*shape, *config.input_size, generator=torch.Generator().manual_seed(5))


def embed(model) -> Tensor:
    with torch.no_grad():
        return torch.nn.functional.normalize(model.get_image_features(pixels_of(model)).pooler_output)
