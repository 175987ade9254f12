"""A tiny random editing checkpoint that is fast to tune and to sample from, saved with its base model in one folder."""

import json
import shutil
from pathlib import Path

import torch
from random_editing import randomize
from tiny_diffusion import PIXELS, make_base

from modeling_sen import SENForVideoEditing

QUICK = {"num_inference_steps": 2, "guidance_scale": 2.0}


def save_tiny_editing(folder, sen_folder, size=32) -> str:
    """The adapter reads the frames of a saved SEN, four at a time; `base/` is saved in the checkpoint's folder.

    Args:
        size: the longer side of resized frames, in pixels, is at most this.
    """
    folder = Path(folder)
    base = make_base(folder.with_name(f"{folder.name}-base"), vae="unshuffle", prediction="v_prediction")
    file = Path(base, "unet", "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "sample_size": size // PIXELS}))
    torch.manual_seed(8)
    model = SENForVideoEditing.from_base(base, str(sen_folder), read_neurons=["image"], num_frames=4)
    randomize(model.adapter, 0.1)
    model.save_pretrained(folder, include_neurons=True)
    shutil.move(base, folder / "base")
    config = model.config.from_pretrained(folder)
    config.base_model_id = "./base"
    config.tuning_settings = {"steps": 2, "learning_rate": 1e-2, "validation_every": 1}
    config.edit_settings = QUICK
    config.save_pretrained(folder)
    return str(folder)
