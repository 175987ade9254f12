"""Fusions of neurons compared by what a language model answers: `python -m benchmarks.chat_fusion OUT`.

The rows of `chat_fusion_rows.py` are trained on the questions of the generated world, and measured on unseen clips and on
pairs of colour and shape that never occur in training. Rows of one seed see the same batches in the same order. The best
single neuron and the best fusion, chosen on validation clips, and SEN with K = 3 are trained with further seeds.
A call goes on where the one before was interrupted, and keeps what is done.
"""

import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.chat_fusion_report import mean_share, report
from benchmarks.chat_fusion_rows import (
    FUSED,
    ROWS,
    SINGLE,
    PairedRows,
    StudyBatches,
    answers_of,
    parameter_counts,
    reference_config,
)
from modeling_sen.training.trainer import SENTrainer
from modeling_sen.whole_file import whole_file
from recipes.sen_tiny.numbered_batches import numbered_arguments

DATA_SEED = 20250701  # of the training clips of seed 0; further seeds have other clips
TEST_SEED = 7
FURTHER_SEEDS = (1, 2)
MAX_GRAD_NORM = 1.0  # of each row
# Processor seconds that a step of 16 clips with 8 questions takes on one core of an AMD EPYC of 2026: drawing and first
# looks, and each row with its optimizer.
SHARED_SECONDS = 0.2
STEP_SECONDS = {
    **dict.fromkeys([*SINGLE, *FUSED], 0.33),
    "sen_1": 0.36,
    "sen_2": 0.38,
    "sen_3": 0.40,
    "sen_3_tokens": 0.64,
    "sen_3_trained": 0.40,
}


@dataclass(frozen=True)
class Study:
    """What all runs of a study have in common.

    Attributes:
        steps, batch_size, num_questions: of training, clips and questions about each beside the description.
        learning_rate: its peak, after a warm-up of a tenth of the steps.
        clips: of each test set; half as many are the validation set, by which the best rows are chosen.
    """

    steps: int = 1500
    batch_size: int = 16
    num_questions: int = 8
    learning_rate: float = 1e-3
    clips: int = 640


@dataclass(frozen=True)
class Group:
    """Rows of one seed that are trained by one process."""

    seed: int
    rows: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"seed_{self.seed}-{'-'.join(self.rows)}"

    @property
    def step_seconds(self) -> float:
        return SHARED_SECONDS + sum(STEP_SECONDS[name] for name in self.rows)


class PairedTrainer(SENTrainer):
    """Each row has a loss, a backward pass and a clipped gradient of its own: it is trained as it would be alone."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.row_losses: dict[str, list[float]] = {}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        paired = self.model
        paired.train()
        batch = self._prepare_inputs(inputs)
        looks, losses = paired.first_looks(batch), []
        for name, row in paired.rows.items():
            with self.accelerator.autocast():  # which the Trainer gives the model's `forward` only
                loss = row.answer(paired.inputs_of(name, batch, looks)).loss
            self.accelerator.backward(loss)
            nn.utils.clip_grad_norm_(row.parameters(), MAX_GRAD_NORM)
            losses.append(loss.detach())
            self.row_losses.setdefault(name, []).append(loss.item())
        return torch.stack(losses).mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # each row's own beside the mean over rows
            logs |= {f"loss_{name}": round(sum(each) / len(each), 4) for name, each in self.row_losses.items()}
            self.row_losses.clear()
        super().log(logs, start_time)


def train_group(study: Study, group: Group, folder: Path) -> tuple[PairedRows, list[dict[str, Any]]]:
    """Trains the rows of a group, or goes on; returns them and the log."""
    paired = PairedRows(group.rows, group.seed)
    batches = StudyBatches(
        reference_config(paired),
        DATA_SEED + group.seed,
        study.batch_size,
        study.steps,
        study.num_questions,
        num_windows=1,
    )
    arguments = numbered_arguments(
        folder,
        study.steps,
        learning_rate=study.learning_rate,
        warmup_steps=study.steps // 10,
        max_grad_norm=0.0,  # clipped row by row
        seed=group.seed,
        bf16=True,
        save_steps=max(1, min(150, study.steps // 2)),
        save_total_limit=1,
        logging_steps=50,
        disable_tqdm=True,
    )
    trainer = PairedTrainer(
        paired,
        arguments,
        train_dataset=range(study.steps),
        data_collator=lambda numbers: batches(*numbers),
    )
    trainer.resume()
    return paired, trainer.state.log_history


def run_group(study: Study, group: Group, output: Path, threads: int = 1) -> list[dict[str, Any]]:
    """Results of a group's rows; they stand in `output`/groups/NAME.jsonl, and are read from there the next time."""
    path = output / "groups" / f"{group.name}.jsonl"
    if path.exists():
        return [json.loads(line) for line in path.read_text().splitlines()]
    torch.set_num_threads(threads)
    started = time.process_time()
    paired, log = train_group(study, group, output / "training" / group.name)
    seconds = round(time.process_time() - started)
    sets = {"validation": study.clips // 2, "test": study.clips, "unseen_pairs": study.clips}
    answers = {split: answers_of(paired, split, TEST_SEED, clips) for split, clips in sets.items()}
    few = StudyBatches(reference_config(paired), 0, 2, num_windows=1)(0)
    counts = parameter_counts(paired, few)
    results = [
        {
            "row": name,
            "seed": group.seed,
            "trained_with": [other for other in group.rows if other != name],
            "parameters": counts[name][0],
            "language_model_parameters": counts[name][1],
            "processor_seconds_of_group": seconds,
            "losses": [[line["step"], line[f"loss_{name}"]] for line in log if f"loss_{name}" in line],
            "answers": {split: each[name] for split, each in answers.items()},
        }
        for name in group.rows
    ]
    with whole_file(path) as unfinished:
        unfinished.write_text("".join(json.dumps(result) + "\n" for result in results))
    shutil.rmtree(output / "training" / group.name)
    return results


def _worker(study: Study, group: Group, output: Path) -> list[dict[str, Any]]:
    log = os.open(output / f"{group.name[:80]}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return run_group(study, group, output)


def run_groups(study: Study, groups: list[Group], output: Path, workers: int) -> list[dict[str, Any]]:
    """Results of all groups, each in a process of one thread; one worker is this process."""
    if workers == 1:
        return [result for group in groups for result in run_group(study, group, output)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_worker, study, group, output) for group in groups]
        return [result for future in futures for result in future.result()]


def balanced_groups(seed: int, names: tuple[str, ...], workers: int) -> list[Group]:
    """As many groups as workers, of about the same cost."""
    parts: list[list[str]] = [[] for _ in range(min(workers, len(names)))]
    for name in sorted(names, key=lambda name: -STEP_SECONDS[name]):
        min(parts, key=lambda part: sum(STEP_SECONDS[each] for each in part)).append(name)
    return [Group(seed, tuple(name for name in names if name in part)) for part in parts]


def deciding_rows(results: list[dict[str, Any]]) -> tuple[str, ...]:
    """The best single neuron and the best fusion, by validation clips, and SEN with three rounds."""
    means = {each["row"]: mean_share(each["answers"]["validation"]) for each in results}
    return max(SINGLE, key=lambda name: means[name]), max(FUSED, key=lambda name: means[name]), "sen_3"


def run_study(study: Study, output: Path, workers: int = 2) -> str:
    """Runs what is not done yet; returns the tables, which stand in `output`/table.md, and results in results.jsonl.

    Raises:
        ValueError: `output` holds a study with other settings.
    """
    (output / "groups").mkdir(parents=True, exist_ok=True)
    settings = output / "settings.json"
    found = json.loads(settings.read_text()) if settings.exists() else asdict(study)
    if found != asdict(study):
        raise ValueError(f"{settings}: found {found}, expected the settings of this call, {asdict(study)}")
    settings.write_text(json.dumps(found, indent=1) + "\n")

    first = balanced_groups(0, tuple(ROWS), workers)
    deciding = ("image", "weights", "sen_3")  # for the estimate: two of them are not chosen yet
    later = [Group(seed, deciding) for seed in FURTHER_SEEDS]
    for groups, what in ((first, f"seed 0, {len(ROWS)} rows"), (later, "further seeds, 3 rows each")):
        seconds = study.steps * sum(group.step_seconds for group in groups)
        longest = study.steps * max(group.step_seconds for group in groups)
        # Of the time, tests and start take about a tenth more.
        print(
            f"{what}: about {1.1 * seconds / 60:.0f} core minutes, {1.1 * longest / 60:.0f} by the clock", flush=True
        )
    results = run_groups(study, first, output, workers)
    chosen = deciding_rows(results)
    print(f"trained with further seeds: {', '.join(chosen)}", flush=True)
    results += run_groups(study, [Group(seed, chosen) for seed in FURTHER_SEEDS], output, workers)
    (output / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    tables = report(results)
    (output / "table.md").write_text(tables)
    return tables


def main(
    output: Annotated[Path, typer.Argument(help="folder of the study")],
    steps: Annotated[int, typer.Option(help="of training")] = Study.steps,
    clips: Annotated[int, typer.Option(help="of each test set")] = Study.clips,
    workers: Annotated[int, typer.Option(help="processes side by side, each on one core")] = 2,
) -> None:
    """Train and compare all rows; the tables are OUTPUT/table.md. Run again after an interruption: it goes on."""
    print(run_study(Study(steps, clips=clips), output, workers))


if __name__ == "__main__":
    typer.run(main)
