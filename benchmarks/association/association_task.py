"""The association-depth task over cached trunks: targets, loss, and what is right among the objects of a clip."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.association.association_clips import ATTRIBUTES, VALUES, present_words, read_clips, target_values
from benchmarks.association.association_towers import EMBEDDING, SEES, read_words, tower_inputs, tower_specs
from benchmarks.association.train_association_towers import CLIP_SETS, SEEN_FIELDS
from modeling_sen.configuration_sen import NeuronSpec, SENConfig
from modeling_sen.first_look import FirstLook
from modeling_sen.modeling_sen import SENModel
from modeling_sen.training.feature_cache import FeatureCache

TEST_SETS = ("test_3", "test_5", "test_8", "fresh_5", "unseen_pairs")
DISTRACTOR = "distractor"  # a neuron that sees another clip


class AssociationTask:
    """Clips of the study with the trunks of one set of towers.

    Args:
        root: folder of the study, see `train_association_towers`.
        kind: one of `TOWER_KINDS`.
        neurons: which of the four towers are neurons.
        distractor: a tower that is one more neuron, shown the picture or sound of another clip.
        aligned: whether the neurons count as aligned with the words; those with an inner layer never do.
        output_layers: neuron -> the layer whose output is its tokens, see [`NeuronSpec`].
        config: further fields of the [`SENConfig`].
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        neurons: Sequence[str] = tuple(SEES),
        distractor: str | None = None,
        aligned: bool = True,
        output_layers: Mapping[str, int] | None = None,
        **config,
    ):
        self.root, self.kind = root, kind
        specs = {spec.name: spec for spec in tower_specs((root / kind).resolve())}
        for name, layer in (output_layers or {}).items():
            specs[name] = replace(specs[name], output_layer=layer, aligned=False, projection=None)
        chosen: list[NeuronSpec] = [replace(specs[name], aligned=aligned and specs[name].aligned) for name in neurons]
        if distractor is not None:
            chosen.append(replace(specs[distractor], name=DISTRACTOR))
        self.distractor = distractor
        self.config = SENConfig(
            neurons=[spec.to_dict() for spec in chosen],
            projection_dim=EMBEDDING,
            **{"hidden_size": 128, "bottleneck_size": 32, **config},
        )
        self.words = read_words(root / kind)  # (32, embedding)
        # The towers as the caches see them: all four, whichever are neurons of this run.
        self.towers = SENModel(SENConfig(
            neurons=[spec.to_dict() for spec in specs.values()], projection_dim=EMBEDDING,
            prompt_depth=config.get("prompt_depth"),
        )).load_neurons({name: {"attn_implementation": "eager"} for name in specs})  # fmt: skip
        self.caches: dict[str, FeatureCache] = {}
        self.targets: dict[str, Tensor] = {}
        self.present: dict[str, Tensor] = {}

    def build_model(self, seed: int) -> SENModel:
        """An untrained SEN over the task's neurons."""
        torch.manual_seed(seed)
        model = SENModel(self.config)
        return model.load_neurons({spec.name: {"attn_implementation": "eager"} for spec in self.config.neuron_specs})

    def open(self, name: str, batch_size: int = 250) -> None:
        """Makes a set of clips ready: its trunks are cached where they are not yet."""
        split, seed, count, objects = CLIP_SETS[name]
        clips = read_clips(self.root / "clips" / name, count, ("attributes", "sounding"))
        keys = [f"{split}/{seed}/{index}/{objects}" for index in range(count)]
        cache = FeatureCache(self.towers, self.root / self.kind / "trunks", keys, dtype=torch.float16)
        if cache.missing_shards():
            seen = read_clips(self.root / "clips" / name, count, SEEN_FIELDS)

            def inputs_of(rows: Sequence[int]) -> dict[str, Tensor]:
                batch = {field: torch.from_numpy(values[rows[0] : rows[-1] + 1]) for field, values in seen.items()}
                return {
                    f"{tower}_{key}": value
                    for tower, inputs in tower_inputs(batch).items()
                    for key, value in inputs.items()
                }

            cache.build(inputs_of, batch_size)
        self.caches[name] = cache
        self.targets[name] = torch.from_numpy(target_values(clips["attributes"], clips["sounding"]))
        self.present[name] = torch.from_numpy(present_words(clips["attributes"]))

    def trunks(self, name: str, rows: np.ndarray) -> dict[str, FirstLook]:
        """Neuron -> trunk of these clips."""
        found = self.caches[name].trunks(rows)
        wanted = {spec.name: found[spec.name] for spec in self.config.neuron_specs if spec.name != DISTRACTOR}
        if self.distractor is not None:
            others = (np.asarray(rows) + 1) % len(self.targets[name])
            wanted[DISTRACTOR] = self.caches[name].trunks(others)[self.distractor]
        return wanted

    def loss(self, fused: Tensor, logit_scale: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the whole description of the object asked for: colour, shape, motion and name each among eight.

        Args:
            fused: (batch, embedding); targets: (batch, 4).
        """
        with torch.autocast(fused.device.type, enabled=False):
            logits = logit_scale.exp() * fused.float() @ self.words.T  # (batch, 32)
        return F.cross_entropy(logits.view(-1, VALUES), targets.flatten()) * len(ATTRIBUTES)

    @torch.no_grad()
    def accuracy(
        self, embed: Callable[[dict[str, FirstLook]], Tensor], name: str, batch_size: int = 250
    ) -> dict[str, float]:
        """Shares of clips answered rightly, by hops: 0 is the colour, 1 the shape, 2 the motion, 3 the name.

        Returns:
            `hops_H`: among the values present in the clip (chance: 1 / objects); `hops_H_raw`: among all eight.
        """
        targets, present = self.targets[name], self.present[name]
        logits = []
        for start in range(0, len(targets), batch_size):
            rows = np.arange(start, min(start + batch_size, len(targets)))
            logits.append(embed(self.trunks(name, rows)).float() @ self.words.T)
        scores = torch.cat(logits)
        among = scores.masked_fill(~present, float("-inf")).view(-1, len(ATTRIBUTES), VALUES).argmax(-1)
        raw = scores.view(-1, len(ATTRIBUTES), VALUES).argmax(-1)
        found = {}
        for hops in range(len(ATTRIBUTES)):
            found[f"hops_{hops}"] = (among[:, hops] == targets[:, hops]).float().mean().item()
            found[f"hops_{hops}_raw"] = (raw[:, hops] == targets[:, hops]).float().mean().item()
        return found

    def answer_prior(self, name: str) -> dict[str, float]:
        """What knowing the true answer of the hop before and the training clips' frequencies would give, without a look.

        Returns:
            `hops_1` to `hops_3`: expected shares of right answers among the values present, ties broken evenly.
        """
        trained, asked, shown = (
            self.targets["train"],
            self.targets[name],
            self.present[name].view(-1, len(ATTRIBUTES), VALUES),
        )
        shares = {}
        for hops in range(1, len(ATTRIBUTES)):
            counts = torch.zeros(VALUES, VALUES)
            counts.index_put_((trained[:, hops - 1], trained[:, hops]), torch.ones(len(trained)), accumulate=True)
            # Differences below 1 % of a value's clips are chance.
            likely = (counts / counts.sum(1, keepdim=True)).round(decimals=2)
            among = likely[asked[:, hops - 1]].masked_fill(~shown[:, hops], -1.0)
            best = among == among.amax(1, keepdim=True)
            right = best.gather(1, asked[:, hops : hops + 1]).squeeze(1)
            shares[f"hops_{hops}"] = (right / best.sum(1)).mean().item()
        return shares


def all_present(trunks: Mapping[str, FirstLook], without: str | None = None) -> dict[str, Tensor]:
    """neuron -> (batch,) bool, with one neuron left out where it is named."""
    return {name: torch.full((trunk.batch_size,), name != without) for name, trunk in trunks.items()}
