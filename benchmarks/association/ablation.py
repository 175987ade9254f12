"""Grids of training runs over cached trunks, compared: `python -m benchmarks.association.ablation GRID.yaml OUT`.

The task is the association-depth task of the generated world, whose clips and towers are made first where they are missing.
A run that is done is kept, one that was interrupted goes on; runs stand side by side on as many cores as there are workers.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from benchmarks.association.ablation_report import write_report, write_tables
from benchmarks.association.association_clips import VALUES
from benchmarks.association.association_task import TEST_SETS, AssociationTask, all_present
from benchmarks.association.association_towers import EMBEDDING, LAYERS, SEES, TOWER_KINDS, ClipBatches
from benchmarks.association.train_association_towers import draw_clips, train_towers
from modeling_sen.configuration_sen import SENConfig
from modeling_sen.evaluation.baselines import FrozenMean, LateFusion
from modeling_sen.first_look import FirstLook
from modeling_sen.recursive_association import RABlock
from modeling_sen.whole_file import whole_file
from recipes.sen_tiny.numbered_batches import numbered_arguments, train_on_numbers

# The tower that takes each hop: given the value of the attribute before, it tells the next one.
HOP_TOWERS = {1: "image", 2: "video", 3: "legend"}


@dataclass(frozen=True)
class AblationRun:
    """One training run and what it is compared by.

    Attributes:
        model: an entry of `MODELS`.
        towers: one of `TOWER_KINDS`.
        seed: of weights and order of clips.
        steps, batch_size, learning_rate: of training; a warm-up of a tenth of the steps, then a cosine.
        clips: training clips.
        neurons: the towers that are neurons.
        distractor: a tower shown another clip, as one more neuron.
        aligned: whether the fused embedding starts as the towers' mean, behind a gate.
        supervised: what the loss looks at in a SEN: "rounds", the fused embedding and association alone in every round (as
            `SENModel` itself has it); "last", association alone in the last round only; "fused", the fused embedding only.
        output_layers: neuron -> the inner layer that it reads instead of its tower's output.
        config: fields of the [`SENConfig`].
        options: arguments of the baseline.
        row: what the run is called in the table; runs that differ by their seed only are one row.
    """

    model: str = "sen"
    towers: str = "global"
    seed: int = 0
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-3
    clips: int = 32_000
    neurons: tuple[str, ...] = tuple(SEES)
    distractor: str | None = None
    aligned: bool = True
    supervised: str = "rounds"
    output_layers: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    row: str = ""

    def __post_init__(self):
        object.__setattr__(self, "neurons", tuple(self.neurons))
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}, expected one of {', '.join(MODELS)}")
        if self.towers not in TOWER_KINDS:
            raise ValueError(f"towers is {self.towers!r}, expected one of {', '.join(TOWER_KINDS)}")
        if self.supervised not in ("rounds", "last", "fused"):
            raise ValueError(f"supervised is {self.supervised!r}, expected 'rounds', 'last' or 'fused'")
        if unknown := set(self.neurons) - set(SEES):
            raise ValueError(f"neurons: unknown {sorted(unknown)}, expected some of {', '.join(SEES)}")

    @property
    def digest(self) -> str:
        settings = {key: value for key, value in asdict(self).items() if key != "row"}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_grid(path: Path) -> list[AblationRun]:
    """The runs of a YAML grid: `defaults`, and `runs`, each a mapping in which a list under `grid` stands for all its values.

    Raises:
        ValueError: no YAML of this form; an unknown field or value, naming the entry.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    entries = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: expected a mapping with `runs`, a list of mappings")
    field_names = {each.name for each in fields(AblationRun)}
    runs = []
    for number, entry in enumerate(entries):
        axes = entry.pop("grid", {})
        for values in itertools.product(*axes.values()):
            settings = _merged(_merged(content.get("defaults", {}), entry), {})
            for name, value in zip(axes, values, strict=True):
                part, _, key = name.partition(".")
                settings = _merged(settings, {part: {key: value}} if key else {part: value})
            if unknown := set(settings) - field_names:
                raise ValueError(
                    f"{path}: runs[{number}] has unknown fields {sorted(unknown)}, expected {sorted(field_names)}"
                )
            settings["row"] = settings.get("row", settings.get("model", "sen")).format(**_flat(settings))
            try:
                runs.append(AblationRun(**settings))
            except ValueError as error:
                raise ValueError(f"{path}: runs[{number}]: {error}") from error
    return list({run.digest: run for run in runs}.values())


def _merged(first: Mapping, second: Mapping) -> dict:
    both = dict(first)
    for key, value in second.items():
        both[key] = {**both.get(key, {}), **value} if isinstance(value, dict) else value
    return both


def _flat(settings: Mapping) -> dict[str, Any]:
    flat = dict(settings)
    for value in settings.values():
        if isinstance(value, dict):
            flat |= value
    return flat


class TrainedOnTask(nn.Module):
    """What is trained, on the task: called on rows of training clips (batch,) it returns the loss."""

    def __init__(self, task: AssociationTask, run: AblationRun):
        super().__init__()
        self.task, self.run = task, run
        self.model: nn.Module = MODELS[run.model](task, run)

    def embed(
        self, trunks: Mapping[str, FirstLook], targets: Tensor, without: str | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """The fused embedding (batch, embedding), and what else the loss looks at."""
        present = all_present(trunks, without)
        if self.run.model == "sen":
            mask = torch.stack([present[spec.name] for spec in self.task.config.neuron_specs], dim=1)
            output = self.model(trunks=trunks, neuron_mask=mask)
            per_round = list(output.association_embeds.unbind(dim=1))
            return output.fused_embeds, {"rounds": per_round, "last": per_round[-1:], "fused": []}[self.run.supervised]
        if isinstance(self.model, HopAlone | HopPrompted):
            return self.model(trunks, present, targets), []
        return self.model(trunks, present), []

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale  # type: ignore[return-value]

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        targets = self.task.targets["train"][rows]
        fused, others = self.embed(self.task.trunks("train", rows.numpy()), targets)
        total = self.task.loss(fused, self.logit_scale, targets)
        if others:
            total = total + torch.stack([self.task.loss(each, self.logit_scale, targets) for each in others]).mean()
        return {"loss": total}


class HopAlone(nn.Module):
    """One hop: a transformer over one tower's tokens, told the true value of the attribute before."""

    def __init__(self, task: AssociationTask, run: AblationRun):
        super().__init__()
        self.hop = run.options["hop"]
        tower = HOP_TOWERS[self.hop]
        specs = [spec for spec in task.config.neuron_specs if spec.name == tower]
        self.reader = LateFusion(specs, EMBEDDING, run.options["source"])
        self.value_embedding = nn.Embedding(VALUES, self.reader.query.shape[-1])

    @property
    def logit_scale(self) -> Tensor:
        return self.reader.logit_scale

    def forward(self, trunks: Mapping[str, FirstLook], present: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        return self.reader(trunks, present, self.value_embedding(targets[:, self.hop - 1]))


class HopPrompted(nn.Module):
    """One hop through one tower's crown: its prompts are made of the true value of the attribute before, its answers read."""

    def __init__(self, task: AssociationTask, run: AblationRun):
        super().__init__()
        self.hop, self.tower = run.options["hop"], HOP_TOWERS[run.options["hop"]]
        self.sen = task.build_model(run.seed)
        self.value_embedding = nn.Embedding(VALUES, task.config.hidden_size)

    @property
    def logit_scale(self) -> Tensor:
        return self.sen.logit_scale

    def forward(self, trunks: Mapping[str, FirstLook], present: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        block: RABlock = self.sen.blocks[0]  # type: ignore[assignment]
        value = self.value_embedding(targets[:, self.hop - 1])
        context = block.distribute(value, value, [self.tower])  # a first block reads knowledge only
        states = block.prompt(self.sen.neurons, trunks, context)
        return nn.functional.normalize(self.sen.fusion(states, present)[1], dim=-1)


MODELS: dict[str, Callable[[AssociationTask, AblationRun], nn.Module]] = {
    "sen": lambda task, run: task.build_model(run.seed),
    "frozen_mean": lambda task, run: FrozenMean(task.build_model(run.seed)),
    "late_fusion": lambda task, run: LateFusion(task.config.neuron_specs, EMBEDDING, **run.options),
    "hop_alone": HopAlone,
    "hop_prompted": HopPrompted,
}


def run_one(root: Path, run: AblationRun, output: Path, threads: int = 1) -> dict[str, Any]:
    """Trains and measures one run; its result stands in `output`/DIGEST.json, and is read from there the next time."""
    path = output / f"{run.digest}.json"
    if path.exists():
        return json.loads(path.read_text())
    torch.set_num_threads(threads)
    torch.manual_seed(run.seed)
    task = AssociationTask(root, run.towers, run.neurons, run.distractor, run.aligned, run.output_layers, **run.config)
    for name in ("train", *TEST_SETS):
        task.open(name)
    module = TrainedOnTask(task, run)
    parameters = sum(each.numel() for each in module.parameters() if each.requires_grad)
    seconds = 0.0
    if parameters:
        arguments = numbered_arguments(
            output / run.digest,
            run.steps,
            learning_rate=run.learning_rate,
            warmup_steps=run.steps // 10,
            seed=run.seed,
            bf16=True,
            save_steps=max(100, run.steps // 3),
        )
        with fastest_attention(run):
            train_on_numbers(module, ClipBatches({"rows": np.arange(run.clips)}, run.batch_size, run.seed), arguments)
        seconds = _seconds_of(output / run.digest / "trainer_state.json")
    module.eval()
    result: dict[str, Any] = {**asdict(run), "parameters": parameters, "train_seconds": seconds}
    result["accuracy"] = {name: _accuracy(module, name) for name in TEST_SETS}
    result["missing"] = {
        spec.name: _accuracy(module, "test_5", without=spec.name)
        for spec in task.config.neuron_specs
        if not run.model.startswith("hop_") and len(task.config.neuron_specs) > 1
    }
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(output / run.digest, ignore_errors=True)
    return result


def fastest_attention(run: AblationRun) -> AbstractContextManager:
    """On few tokens the CPU's fused attention is the slower one backwards, by far; on all tokens it is the faster one."""
    reads_all = run.model == "late_fusion" and run.options.get("num_resampled") is None
    return nullcontext() if reads_all else sdpa_kernel(SDPBackend.MATH)


def _seconds_of(state: Path) -> float:
    """How long a run trained: where it was interrupted, at the speed of its last part."""
    content = json.loads(state.read_text())
    return content["global_step"] / content["log_history"][-1]["train_steps_per_second"]


def _accuracy(module: TrainedOnTask, name: str, without: str | None = None) -> dict[str, float]:
    task, done = module.task, 0

    def embed(trunks: dict[str, FirstLook]) -> Tensor:
        nonlocal done
        rows = next(iter(trunks.values())).batch_size
        targets = task.targets[name][done : done + rows]
        done += rows
        with torch.autocast("cpu", torch.bfloat16):
            return module.embed(trunks, targets, without)[0]

    return task.accuracy(embed, name)


def _worker(root: Path, run: AblationRun, output: Path) -> dict[str, Any]:
    with (output / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 2)  # progress bars of several runs at once are no picture
        return run_one(root, run, output)


def _results(
    root: Path, runs: list[AblationRun], output: Path, workers: int
) -> Iterator[tuple[AblationRun, dict[str, Any]]]:
    """Results as they come; one worker is this process."""
    if workers == 1:
        yield from ((run, run_one(root, run, output)) for run in runs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_worker, root, run, output): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _expected_seconds(run: AblationRun) -> float:
    """On one core of an AMD EPYC of 2026 (see `association_cost.py`); the pace of runs that are done corrects it."""
    if run.model == "sen":
        layers: Any = {None: 1, "all": LAYERS}.get(depth := run.config.get("prompt_depth"), depth)
        prompt, rounds = run.config.get("prompt", SENConfig.prompt), run.config.get("num_rounds", 3)
        crown = {"none": 0.0, "queries": 0.3 * layers}.get(prompt, 1.35 * layers)
        milliseconds = 0.3 + rounds * (0.55 + crown)  # a clip
    else:
        fusion = 9.0 if run.options.get("num_resampled") is None else 2.9
        milliseconds = {"frozen_mean": 0.0, "late_fusion": fusion, "hop_alone": 4.0, "hop_prompted": 0.6}[run.model]
    return run.steps * run.batch_size * milliseconds / 1000


def ablate(root: Path, runs: list[AblationRun], output: Path, workers: int = 2) -> list[dict[str, Any]]:
    """Runs what is not done yet and returns all results; the tables are written anew after each.

    Args:
        root: folder of clips and towers, which are made where they are missing.
        output: folder of the tables and, in `runs`, of each run's result.
    """
    folder = output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {run.digest: folder / f"{run.digest}.json" for run in runs}
    done = {digest: json.loads(path.read_text()) for digest, path in paths.items() if path.exists()}
    missing = [run for run in runs if run.digest not in done]
    kinds = sorted({run.towers for run in missing})
    untrained = [kind for kind in kinds if not (root / kind / "words.json").exists()]
    if missing:
        expected = sum(_expected_seconds(run) for run in runs if run.digest in done)
        pace = sum(result["train_seconds"] for result in done.values()) / expected if expected else 1.0
        minutes = pace * sum(map(_expected_seconds, missing)) / workers / 60
        first = f", after clips and towers ({', '.join(untrained)}), about an hour" if untrained else ""
        print(f"{len(missing)} of {len(runs)} runs to do: about {minutes:.0f} minutes{first}", flush=True)
    draw_clips(root)
    for kind in kinds:
        if kind in untrained:
            train_towers(root, kind)
        task = AssociationTask(root, kind)
        for name in ("train", *TEST_SETS):
            task.open(name)
    with tqdm(total=len(missing), unit="run") as progress:
        for run, result in _results(root, missing, folder, workers):
            hops = " ".join(f"{100 * result['accuracy']['test_5'][f'hops_{number}']:.1f}" for number in range(4))
            progress.write(f"{result['row']} (seed {result['seed']}): {hops}  {result['train_seconds']:.0f} s")
            progress.update()
            done[run.digest] = result
            write_tables([done[run.digest] for run in runs if run.digest in done], output)
    return [done[run.digest] for run in runs]


def main(
    grid: Annotated[Path, typer.Argument(help="YAML file of the runs")],
    output: Annotated[Path, typer.Argument(help="folder of the results")],
    root: Annotated[Path, typer.Option(help="folder of clips and towers; made where it is missing")] = Path(
        "association"
    ),
    workers: Annotated[int, typer.Option(help="runs side by side, each on one core")] = 2,
) -> None:
    """Train and compare the runs of a grid; the table is OUTPUT/table.md, the plot OUTPUT/plot.png."""
    started = time.perf_counter()
    results = ablate(root, read_grid(grid), output, workers)
    write_report(results, output)
    print((output / "table.md").read_text())
    print(f"{len(results)} runs, {(time.perf_counter() - started) / 60:.0f} minutes: {output}")


if __name__ == "__main__":
    typer.run(main)
