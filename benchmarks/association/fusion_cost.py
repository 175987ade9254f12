"""What association and a fusion of all tokens cost beside the frozen encoders, counted: no weights, no clock.

One clip, FLOPs of matrix products, attention and convolutions (`modeling_sen/cost.py`). The fusion is
`modeling_sen.evaluation.baselines.LateFusion` over all tokens at the prompt site, wide enough to have at least as many
trainable parameters as the association.

    PYTHONPATH=benchmarks python -m benchmarks.association.fusion_cost [PRESET ...]
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from full_size_checkpoints import save_configuration
from preset_cost import hub_ids, local_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modeling_sen import PRESETS, SENConfig, SENModel, SENProcessor
from modeling_sen.cost import neuron_cost, neuron_without_weights, one_clip
from modeling_sen.evaluation.baselines import LateFusion, neuron_tokens
from modeling_sen.first_look import FirstLook

HEADS = 4


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def fusion_as_large(config: SENConfig, at_least: int) -> LateFusion:
    """The narrowest fusion with that many trainable parameters, on the meta device."""
    width = 0
    while True:
        width += 8 * HEADS
        with torch.device("meta"):
            fusion = LateFusion(
                config.neuron_specs, config.projection_dim, "trunk", hidden_size=width, num_heads=HEADS
            )
        if parameters(fusion) >= at_least:
            return fusion


# How the neurons look again -> fields of the configuration.
WAYS: dict[str, dict] = {
    "queries": {"prompt": "queries"},
    "queries through the whole tower": {"prompt": "queries", "prompt_depth": "all"},
    "tokens": {"prompt": "tokens"},
    "tokens in one layer": {"prompt": "tokens", "prompt_depth": 1},
    "no second look": {"prompt": "none"},
}


def association_flops(model: SENModel, trunks: dict[str, FirstLook], present: dict[str, Tensor]) -> int:
    """Of all rounds, without the encoders."""
    states = {name: trunk.state for name, trunk in trunks.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        summary, _ = model.fusion(states, present)
        for block in model.blocks:
            context = block.distribute(block.integrate(states, present), summary, list(states))
            for name, given in context.items():
                if model.config.prompt != "none":
                    block.prompting[name].prompt_tokens(given)
                states[name] = replace(states[name], answers=block.answer_readers[name](given, states[name]))
            summary, _ = model.fusion(states, present)
    return counter.get_total_flops()


def measure(preset: str, folder: Path) -> str:
    """Lines of a markdown table."""
    for hub_id in hub_ids(preset):
        save_configuration(hub_id, folder)
    config = local_config(preset, folder)
    processor = SENProcessor(config)
    trunks = {}
    for spec in config.neuron_specs:
        neuron, _ = neuron_without_weights(spec, processor)
        trunks[spec.name] = neuron.first_look(one_clip(spec, processor))
    present: dict[str, Tensor] = {name: torch.ones(1, dtype=torch.bool, device="meta") for name in trunks}
    rows, first, largest = [], 0, 0
    for way, changes in WAYS.items():
        changed = SENConfig.from_dict({**config.to_dict(), **changes})
        costs = [neuron_cost(spec, SENProcessor(changed)) for spec in changed.neuron_specs]
        if unknown := [cost.unknown for cost in costs if cost.unknown]:
            raise RuntimeError(f"{preset}: {unknown[0]}")
        with torch.device("meta"):
            model = SENModel(changed)
        first = sum(cost.first_pass_flops for cost in costs)
        again = config.num_rounds * sum(cost.round_flops for cost in costs)
        trainable = parameters(model)
        largest = max(largest, trainable)
        flops = again + association_flops(model, trunks, present)
        rows.append((f"SEN, {config.num_rounds} rounds, {way}", f"{trainable:,}", flops))
    fusion = fusion_as_large(config, largest)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fusion(trunks, present)
    tokens = sum(neuron_tokens(trunk, "trunk")[0].shape[1] for trunk in trunks.values())
    name = f"late fusion of all {tokens:,} tokens, {fusion.query.shape[-1]} wide"
    rows = [("frozen encoders, once", "", first), *rows, (name, f"{parameters(fusion):,}", counter.get_total_flops())]
    return "\n".join(
        f"| {preset} | {name} | {count} | {flops / 1e9:.1f} | {flops / first:.1%} |" for name, count, flops in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["small", "clip-videomae-ast"], metavar="PRESET")
    options = parser.parse_args()
    if unknown := set(options.presets) - set(PRESETS):
        parser.error(f"unknown presets {sorted(unknown)}, expected some of {', '.join(PRESETS)}")
    print("| preset | | trainable | GFLOPs a clip | of the encoders' |\n|---|---|---|---|---|")
    for preset in options.presets:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(preset, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
