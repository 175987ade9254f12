"""A tiny random editing checkpoint, quick to tune and to sample from, saved with its base model in a folder of its own."""

import shutil
from pathlib import Path

import torch
from random_editing import randomize
from tiny_diffusion import make_base

from modeling_sen import SENForVideoEditing

QUICK = {"num_inference_steps": 2, "guidance_scale": 2.0}


def save_tiny_editing(folder, sen_folder, **settings) -> str:
    """Reads the frames of a saved SEN, four at a time; `base/` stands beside the checkpoint.

    Args:
        settings: of the configuration.
    """
    folder = Path(folder)
    base = make_base(folder.with_name(f"{folder.name}-base"), vae="unshuffle", prediction="v_prediction")
    torch.manual_seed(8)
    model = SENForVideoEditing.from_base(base, str(sen_folder), read_neurons=["image"], num_frames=4)
    randomize(model.adapter, 0.1)
    model.save_pretrained(folder, include_neurons=True)
    shutil.move(base, folder / "base")
    config = model.config.from_pretrained(folder)
    config.base_model_id = "./base"
    config.tuning_settings = {"steps": 2, "learning_rate": 1e-2, "validation_every": 1}
    config.edit_settings = QUICK
    for name, value in settings.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    return str(folder)
