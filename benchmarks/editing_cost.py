"""What the editing adapter costs at the size of Stable Diffusion 1.5: parameters, operations, seconds and memory.

The UNet has random weights. The reference is the same UNet on each frame by itself. Operations are counted on the meta
device, of one step of one clip of 8 frames; features of the SEN are those of two base-size neurons (14 x 14 tokens a frame),
which are computed once for a clip and not counted. Memory is that of a whole process that trains the adapter in float32.

    python benchmarks/editing_cost.py [--seconds] [--memory] [--threads 1]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch
from diffusers import UNet2DConditionModel
from preset_cost import peak_memory
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modeling_sen.editing.edit_adapter import SENEditAdapter

FRAMES = 8
AIM = 1.25
NEURONS = {"image": 768, "video": 768}
# Way -> conditioning and neurons; no neurons for Tune-A-Video.
WAYS: dict[str, tuple[str, dict[str, int]]] = {
    "Tune-A-Video": ("residual", {}),
    "residual": ("residual", NEURONS),
    "cross": ("cross", NEURONS),
    "residual+cross": ("residual+cross", NEURONS),
}


def make_unet(device: str) -> UNet2DConditionModel:
    """As of Stable Diffusion 1.5."""
    with torch.device(device):
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).requires_grad_(False).eval()


def make_adapter(unet: UNet2DConditionModel, way: str) -> SENEditAdapter:
    conditioning, neurons = WAYS[way]
    with torch.device(unet.device):
        return SENEditAdapter.from_unet(unet, conditioning, neurons).attach(unet)


def make_step(pixels: int, frames: int, device: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Latents, timestep and text of one clip, and features of it."""
    latents = torch.randn(1, 4, frames, pixels // 8, pixels // 8, device=device)
    features = {name: torch.randn(1, frames, 14, 14, width, device=device) for name, width in NEURONS.items()}
    return latents, torch.tensor([500], device=device), torch.randn(1, 77, 768, device=device), features


def per_frame(unet: UNet2DConditionModel, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    frames = latents.transpose(1, 2).flatten(0, 1)
    return unet(frames, timestep.expand(len(frames)), text.expand(len(frames), -1, -1)).sample


def given_features(way: str, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name: features[name] for name in WAYS[way][1]}


def count_parameters() -> None:
    unet = make_unet("meta")
    print(f"UNet: {sum(weight.numel() for weight in unet.parameters()) / 1e6:.1f} M parameters")
    for way in WAYS:
        adapter = make_adapter(unet, way)
        groups: dict[str, int] = {}
        for name, weight in adapter.named_parameters():
            matches = (part for part in ("attn_temp", "norm_temp", "to_q_delta", "attn_sen") if f".{part}" in name)
            group = next(matches, "conditioning")
            groups[group] = groups.get(group, 0) + weight.numel()
        parts = ", ".join(f"{group} {count / 1e6:.2f} M" for group, count in groups.items())
        print(f"  {way}: {sum(groups.values()) / 1e6:.1f} M trained ({parts})")
        adapter.detach()


def operations(call: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() / 1e12


def count_operations() -> None:
    unet = make_unet("meta")
    for pixels in (256, 512):
        *step, features = make_step(pixels, FRAMES, "meta")
        plain = operations(lambda step=step: per_frame(unet, *step))
        print(f"{pixels} px, {FRAMES} frames: {plain:.3f} TFLOP for the UNet on each frame")
        for way in WAYS:
            adapter, given = make_adapter(unet, way), given_features(way, features)
            found = operations(lambda adapter=adapter, step=step, given=given: adapter(*step, given))
            print(f"  {way}: {found:.3f} TFLOP, {found / plain:.3f} of it (aim: at most {AIM})")
            adapter.detach()


@torch.no_grad()
def measure_seconds(repeats: int) -> None:
    """The ways take turns, so that what else the machine does hits all of them."""
    unet, taken = make_unet("cpu"), {way: [] for way in ("per frame", "residual")}
    *step, features = make_step(256, FRAMES, "cpu")
    for _ in range(repeats):
        start = time.perf_counter()
        per_frame(unet, *step)
        taken["per frame"].append(time.perf_counter() - start)
        adapter = make_adapter(unet, "residual")
        start = time.perf_counter()
        adapter(*step, features)
        taken["residual"].append(time.perf_counter() - start)
        adapter.detach()
    ratio = statistics.median(b / a for a, b in zip(taken["per frame"], taken["residual"], strict=True))
    seconds = ", ".join(f"{way} {statistics.median(each):.1f} s" for way, each in taken.items())
    print(f"256 px, {FRAMES} frames, float32, {torch.get_num_threads()} threads: {seconds}, ratio {ratio:.2f}")


def measure_memory(checkpointing: bool) -> None:
    """Peak of one training step, of this process: run it in a process of its own."""
    unet = make_unet("cpu")
    adapter = make_adapter(unet, "residual")
    *step, features = make_step(256, 2, "cpu")
    if checkpointing:
        unet.enable_gradient_checkpointing()
    before = peak_memory()
    adapter(*step, features).square().mean().backward()
    peak, how = peak_memory(), "with" if checkpointing else "without"
    step_memory = (peak - before) / 2**30
    print(
        f"256 px, 2 frames, {how} checkpointing: peak {peak / 2**30:.2f} GiB, {step_memory:.2f} GiB of it for a step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", action="store_true", help="time a step at 256 px")
    parser.add_argument("--memory", action="store_true", help="peak memory of training at 256 px and 2 frames")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=["plain", "checkpointing"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        measure_memory(arguments.memory_of == "checkpointing")
        return
    count_parameters()
    count_operations()
    sys.stdout.flush()
    if arguments.seconds:
        measure_seconds(arguments.repeats)
    if arguments.memory:
        for way in ("plain", "checkpointing"):
            command = [sys.executable, __file__, "--memory-of", way, "--threads", str(arguments.threads)]
            subprocess.run(command, check=True, env=dict(os.environ))


if __name__ == "__main__":
    main()
