"""Full-size checkpoints in the Hub's layouts, by folder name only: load, encode a clip with sound, save, come back equal.

Of each family the whole checkpoint is made with random weights (`full_size_checkpoints.py`). A dual encoder serves as neuron
and as text tower; others stand beside CLIP. Only the association is saved, and loaded again with the package, and in a
process without it, by the code that was saved along. Aim: no difference at all.

    python benchmarks/hub_layouts.py VIDEO [--families NAME ...]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import transformers
from full_size_checkpoints import local_name, save_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from modeling_sen import SENConfig, SENModel, SENOutput, SENProcessor

BESIDE = "openai/clip-vit-base-patch32"
TEXTS = ["a man claps his hands", "a dog barks", "waves on a beach"]

# family -> repository
FAMILIES = {
    "CLIP": "openai/clip-vit-base-patch16",
    "SigLIP 2": "google/siglip2-base-patch16-224",
    "SigLIP 2 NaFlex": "google/siglip2-base-patch16-naflex",
    "CLAP": "laion/clap-htsat-unfused",
    "X-CLIP": "microsoft/xclip-base-patch16",
    "VideoMAE": "MCG-NJU/videomae-base",
    "V-JEPA 2": "facebook/vjepa2-vitl-fpc64-256",
    "ViViT": "google/vivit-b-16x2-kinetics400",
    "AST": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "Whisper": "openai/whisper-small",
    "Wav2Vec2": "facebook/wav2vec2-base-960h",
    "DINOv2": "facebook/dinov2-base",
    "Depth Anything": "depth-anything/Depth-Anything-V2-Small-hf",
    "BERT": "google-bert/bert-base-uncased",
}
DUAL_ENCODERS = ("CLIP", "SigLIP 2", "SigLIP 2 NaFlex", "CLAP")

WITHOUT_PACKAGE = """
import importlib.abc, json, sys
from pathlib import Path

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_sen":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

folder, video, texts = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)
model = AutoModel.from_pretrained(folder / "sen", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder / "sen", trust_remote_code=True)
for thing in (model, processor):
    assert type(thing).__module__.startswith("transformers_modules."), type(thing)
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data = parameter.data.clone()
with torch.no_grad():
    output = model(**processor(videos={"video": video, "text": "a man on a stage"}, text=texts))
named = {"fused_embeds": output.fused_embeds, "logits_per_video": output.logits_per_video, "knowledge": output.knowledge}
save_file({name: tensor.contiguous() for name, tensor in named.items()}, folder / "without.safetensors")
"""


@dataclass
class Row:
    """What was found of one family.

    Attributes:
        class_name: the class of Transformers that was chosen for its tower.
        parameters: of the tower and, of a dual encoder, its projection; of the text tower too.
        load_seconds: of `from_neurons`.
        saved_bytes: of the association's file.
        with_package, without_package: largest difference of anything said after saving and loading.
    """

    family: str
    class_name: str
    parameters: int
    load_seconds: float
    saved_bytes: int
    with_package: float
    without_package: float


def named_outputs(output: SENOutput) -> dict[str, Tensor]:
    names = ("fused_embeds", "logits_per_video", "knowledge")
    return {name: output[name].contiguous() for name in names}


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


def associate(family: str, folder: Path, video: Path) -> Row:
    """One family, in this process: from the folder's name to outputs after reloading."""
    hub_id, dual = FAMILIES[family], family in DUAL_ENCODERS
    location = str(folder / local_name(hub_id))
    beside = str(folder / local_name(BESIDE))
    save_checkpoint(hub_id, folder)
    start = time.perf_counter()
    if dual:
        model = SENModel.from_neurons([location], text_tower=location)
    else:
        model = SENModel.from_neurons([beside, location], text_tower=beside)
    load_seconds = time.perf_counter() - start
    with torch.no_grad():  # as after training: all of the association is heard
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
        model.gate.fill_(0.7)
    clip = {"video": str(video), "text": "a man on a stage"}
    inputs = SENProcessor(model.config)(videos=clip, text=TEXTS)
    if not inputs["neuron_mask"].all():
        raise RuntimeError(f"{family}: {video} has nothing for neurons {inputs['neuron_mask'].tolist()}")
    with torch.no_grad():
        expected = named_outputs(model(**inputs))
    for registered, auto in ((SENConfig, "AutoConfig"), (SENModel, "AutoModel"), (SENProcessor, "AutoProcessor")):
        registered.register_for_auto_class(auto)
    model.save_pretrained(folder / "sen")
    SENProcessor(model.config).save_pretrained(folder / "sen")
    neuron = model.neurons[list(model.specs)[-1]]
    class_name, parameters = neuron.spec.class_name, sum(weight.numel() for weight in neuron.parameters())
    if dual:
        parameters += sum(weight.numel() for weight in model.neurons.text_tower.parameters())
    del model, neuron
    again = SENModel.from_pretrained(folder / "sen")
    for parameter in again.parameters():
        if parameter.requires_grad:
            # Mapped from its file, a weight may begin anywhere, and products round by that: about 1e-7 in the outputs.
            parameter.data = parameter.data.clone()
    with torch.no_grad():
        found = named_outputs(again(**SENProcessor.from_pretrained(folder / "sen")(videos=clip, text=TEXTS)))
    save_file(expected, folder / "expected.safetensors")
    saved_bytes = (folder / "sen" / "model.safetensors").stat().st_size
    return Row(family, class_name, parameters, load_seconds, saved_bytes, difference(expected, found), float("nan"))


def run(command: list[str], folder: Path) -> str:
    """In a process of its own, offline; its last line."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    return result.stdout.strip().split("\n")[-1]


def check(family: str, video: Path, shared: Path) -> Row:
    """One family, from making its checkpoint to loading what was saved without the package.

    Args:
        video: a clip with sound.
        shared: folder for the checkpoint that others stand beside, made when first needed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        this = [sys.executable, str(Path(__file__).resolve()), str(video.resolve())]
        if family not in DUAL_ENCODERS:
            if not (shared / local_name(BESIDE)).is_dir():
                run([*this, "--folder", str(shared), "--make", BESIDE], folder)
            (folder / local_name(BESIDE)).symlink_to(shared / local_name(BESIDE))
        row = Row(**json.loads(run([*this, "--folder", name, "--families", family], folder)))
        run([sys.executable, "-I", "-c", WITHOUT_PACKAGE, name, str(video.resolve()), json.dumps(TEXTS)], folder)
        expected = load_file(folder / "expected.safetensors")
        row.without_package = difference(expected, load_file(folder / "without.safetensors"))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="A clip with sound.")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.make:
        save_checkpoint(options.make, options.folder)
        return
    if options.folder:
        print(json.dumps(vars(associate(options.families[0], options.folder, options.video))))
        return
    print(f"{date.today()}, one thread, torch {torch.__version__}, transformers {transformers.__version__}")
    print("| family | class chosen | parameters | loaded in | association saved | reloaded | without the package |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as shared:
        for family in options.families:
            row = check(family, options.video, Path(shared))
            print(
                f"| {family} | {row.class_name} | {row.parameters / 1e6:.1f} M | {row.load_seconds:.1f} s | "
                f"{row.saved_bytes / 1e6:.1f} MB | {row.with_package} | {row.without_package} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
