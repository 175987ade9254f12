"""What presets need at full size: parameters of each tower, and the peak memory of a process that encodes one clip.

Every tower is a checkpoint in the Hub's layout with random weights (`full_size_checkpoints.py`), made one at a time and
loaded as the real one would be. The clip: 16 frames of 256 x 256 pixels, ten seconds of sound, two class texts; float32,
evaluation, three rounds. The numbers stand beside the presets in `modeling_sen/presets.py`.

    python benchmarks/preset_cost.py [PRESET ...] [--threads 1]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers
from full_size_checkpoints import local_name, save_checkpoint, save_configuration

from modeling_sen import PRESETS, SENConfig, SENModel, SENProcessor
from modeling_sen.cost import neuron_cost

transformers.utils.logging.disable_progress_bar()


def local_config(preset: str, folder: Path) -> SENConfig:
    """The preset's configuration with its towers in `folder`, as `save_configuration` names them."""
    checkpoint = None if PRESETS[preset].conversion is None else PRESETS[preset].neurons[0]["hub_id"]
    config = SENConfig.from_preset(preset, checkpoint=checkpoint)
    for spec in [*config.neurons, config.text_tower]:
        spec["hub_id"] = str(folder / local_name(spec["hub_id"]))
    return config


def hub_ids(preset: str) -> list[str]:
    """The repositories of a preset, each once."""
    neurons = [*PRESETS[preset].neurons, PRESETS[preset].text_tower]
    return list(dict.fromkeys(neuron["hub_id"] for neuron in neurons))


def count_parameters(preset: str, folder: Path) -> dict[str, int]:
    """Parameters of each neuron, the text tower and the association, from configurations alone.

    Raises:
        ImportError: a tower needs an extra.
    """
    for hub_id in hub_ids(preset):
        save_configuration(hub_id, folder)
    config = local_config(preset, folder)
    # Of what is no neuron of the processor's, only the size is counted, without a pass.
    size_only = SENProcessor(SENConfig(neurons=[{**config.neurons[0], "name": "other"}]))
    counts = {}
    for spec in [*config.neuron_specs, config.text_tower_spec]:
        cost = neuron_cost(spec, size_only)
        if cost.parameters is None:
            raise RuntimeError(f"{preset}, {spec.name}: {cost.unknown}")
        counts[spec.name] = cost.parameters
    with torch.device("meta"):
        association = SENModel(config)
    return {**counts, "association": sum(weight.numel() for weight in association.parameters())}


def encode_one_clip(preset: str, folder: Path) -> dict[str, int]:
    """Loads a preset and runs one clip; parameters by name, and this process's peak memory in bytes."""
    model = SENModel(local_config(preset, folder)).load_neurons().eval()
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (16, 256, 256, 3), dtype=np.uint8)
    sound = generator.normal(scale=0.1, size=160_000).astype(np.float32)
    clip = {**dict.fromkeys(("video", "depth", "thermal"), frames), "audio": (sound, 16_000)}
    inputs = SENProcessor(model.config)(videos=clip, text=["a dog barks", "a man speaks"])
    with torch.no_grad():
        output = model(**inputs)
    if not output.logits_per_video.isfinite().all() or output.knowledge.shape[1] != 3:
        raise RuntimeError(f"{preset}: expected finite logits after three rounds, found {output.logits_per_video}")
    counts = {name: sum(weight.numel() for weight in neuron.parameters()) for name, neuron in model.neurons.items()}
    counts["association"] = model.trainable_parameters()[0]
    return {**counts, "peak_memory": peak_memory()}


def peak_memory() -> int:
    """Bytes of main memory that this process has held at most."""
    # Of this program alone: the number that getrusage gives begins at what the parent held.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def in_a_process_of_its_own(*arguments: str, threads: int) -> str:
    command = [sys.executable, __file__, *arguments, "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {result.stderr[-2000:]}")
    return result.stdout


def measure(preset: str, threads: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        for hub_id in hub_ids(preset):
            print(f"  {hub_id} ...", flush=True)
            in_a_process_of_its_own("--make", hub_id, "--folder", folder, threads=threads)
        print(f"  {preset}: one clip ...", flush=True)
        found = in_a_process_of_its_own(preset, "--encode", "--folder", folder, threads=threads)
    return json.loads(found.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", choices=[[], *PRESETS], metavar="PRESET")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--encode", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.make:
        save_checkpoint(options.make, options.folder)
        return
    if options.encode:
        print(json.dumps(encode_one_clip(options.presets[0], options.folder)))
        return
    print(f"{date.today()}, {options.threads} of {os.cpu_count()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}")
    for preset in options.presets or PRESETS:
        found = measure(preset, options.threads)
        peak = found.pop("peak_memory")
        weights = 4 * sum(found.values())
        print(f"{preset}: weights {weights / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB")
        print(f"    parameters={found},\n    peak_memory={peak},", flush=True)


if __name__ == "__main__":
    main()
