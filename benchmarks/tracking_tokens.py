"""Trains trackers that differ in what they read of a SEN, over the same networks of pixels, for `tracking_quality.py`.

`pixels` reads none; `frozen` the tower's own tokens; `rounds_1` to `rounds_3` a SEN of so many rounds with queries, `tokens`
of three rounds with `prompt="tokens"`; `vit` a SEN over the encoder in the folder given. All heads have the same steps.

    python benchmarks/tracking_tokens.py OUT [--variants pixels frozen] [--steps 300] [--seed 0] [--vit FOLDER]
"""

import argparse
from pathlib import Path

from modeling_sen.modeling_sen_tracking import SENForVideoTracking, SENTrackingConfig
from modeling_sen.presets import SEN_TINY_TRACKING
from recipes.sen_tiny.train_tiny_tracking import tokens_arguments, tracking_sen_config, train_tokens

LAYER = 6  # of the ViT, whose last layers were fine-tuned for another task
VARIANTS = ("pixels", "frozen", "rounds_1", "rounds_2", "rounds_3", "tokens", "vit")


def sen_config(variant: str, vit: Path | None):
    config = tracking_sen_config(str(Path(SEN_TINY_TRACKING, "neuron_image").resolve()))
    if variant == "frozen":
        config.num_rounds = 0
    elif variant.startswith("rounds_"):
        config.num_rounds = int(variant.removeprefix("rounds_"))
    elif variant == "tokens":
        config.prompt = "tokens"
    elif variant == "vit":
        if vit is None:
            raise ValueError("vit: expected --vit, the folder of a Dinov2Model")
        neuron = {"name": "image", "modality": "image", "hub_id": str(vit.resolve()), "class_name": "Dinov2Model"}
        config.neurons = [{**neuron, "hidden_size": 384, "num_frames": 8, "output_layer": LAYER}]
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:-1])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vit", type=Path)
    options = parser.parse_args()
    shipped = SENForVideoTracking.from_pretrained(SEN_TINY_TRACKING)
    for variant in options.variants:
        folder = options.out / f"{variant}-{options.seed}"
        if (folder / "config.json").exists():
            continue
        run = folder.with_name(f"{folder.name}-run")
        run.mkdir(parents=True, exist_ok=True)
        if variant == "pixels":
            config = SENTrackingConfig(
                sen_config=sen_config("frozen", None).to_dict(), calibration=shipped.config.calibration
            )
            tracker = SENForVideoTracking(config)
            tracker.network.load_state_dict(shipped.network.state_dict(), strict=False)
        else:
            arguments = tokens_arguments(run, options.steps, seed=options.seed)
            config = sen_config(variant, options.vit)
            tracker = train_tokens(run, shipped.network, config, arguments, frozen=variant == "frozen")
            tracker.config.calibration = shipped.config.calibration
        tracker.save_pretrained(folder)
        weights = {name: each for name, each in tracker.network.named_parameters() if name.startswith("semantic_")}
        print(folder, {name: each.detach().numpy().round(3).tolist() for name, each in weights.items()}, flush=True)


if __name__ == "__main__":
    main()
