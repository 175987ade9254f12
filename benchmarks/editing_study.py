"""Ways to edit a clip compared on the generated world, where the exact edit is known:
`python -m benchmarks.editing_study BASE_CHECKPOINT TOWER OUT`.

Each of 24 unseen clips is edited in three ways (colour, shape, background) by each row of `editing_study_rows.py`. Rows have
the same base model, tuning and sampling; Tune-A-Video, SEN with K = 3 and the control have three seeds, the others one.
With `--pretrain-steps` each adapter, Tune-A-Video's included, is first trained on the same other clips for the same steps,
and with it the modulation by which association changes the tokens that the adapter reads; association itself stays as it is
in the checkpoint. Without, modulation changes nothing: rows of SEN that differ by rounds alone would be equal, and only one
of them is run.

A call goes on where the one before was interrupted. The tables of what is done are OUT/table.md, pictures of the edits of
seed 0 are in OUT/pictures.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from benchmarks.editing_study_report import report
from benchmarks.editing_study_rows import (
    REFERENCES,
    ROWS,
    TUNED,
    Base,
    Pretraining,
    StudyClip,
    Trained,
    build_model,
    edit_clip,
    make_pipeline,
    parameter_counts,
    pretraining_batch,
    read_instead,
    reconstruct,
    scores,
    shown_edits,
)
from benchmarks.editing_tower import EditingTower, load_tower
from modeling_sen.editing.tuning import TuningSettings
from modeling_sen.evaluation.clip_results import ClipResults
from modeling_sen.evaluation.editing_fidelity import psnr_outside_mask
from modeling_sen.whole_file import whole_file
from recipes.sen_tiny.numbered_batches import numbered_arguments, train_on_numbers

SEEDED = ("tune_a_video", "sen_3", "control")  # rows with further seeds
FURTHER_SEEDS = (1, 2)
# Of SEN that differ by rounds alone; without pre-training they are the same as K = 3.
ROUNDS_ALONE = ("sen_0", "sen_1", "sen_2")
# Processor seconds on one core of an AMD EPYC of 2026 that other work shared; without it they are fewer.
PRETRAIN_SECONDS = {name: 1.1 if row.rounds is not None else 0.65 for name, row in TUNED.items()}  # a step
TUNE_SECONDS = 0.2  # a step, validation included
PREDICT_SECONDS = 0.071  # a prediction for a clip
PREDICT_FRAMES_SECONDS = 0.103  # the same, frame by frame
UNIT_SECONDS = 1.5  # what else a unit takes


@dataclass(frozen=True)
class Study:
    """What all units of a study have in common.

    Attributes:
        clips: that are edited.
        pretrain_steps: on other clips, before tuning; 0 for none.
        tuning_steps, learning_rate: of tuning on a clip, which ends early as `tune_adapter` has it.
        inference_steps, guidance: of inversion and sampling.
    """

    clips: int = 24
    pretrain_steps: int = 0
    tuning_steps: int = 100
    learning_rate: float = 1e-3
    inference_steps: int = 20
    guidance: float = 2.0

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(name for name in ROWS if self.pretrain_steps or name not in ROUNDS_ALONE)

    def seeds_of(self, name: str) -> tuple[int, ...]:
        return (0, *FURTHER_SEEDS) if name in SEEDED else (0,)

    def tuning(self, seed: int) -> TuningSettings:
        every = max(1, self.tuning_steps // 4)
        return TuningSettings(self.tuning_steps, self.learning_rate, validation_every=every, seed=seed)


@dataclass(frozen=True)
class Unit:
    """A clip that one row edits with one seed."""

    row: str
    seed: int
    clip: int

    @property
    def key(self) -> str:
        return f"{self.row}-seed_{self.seed}-clip_{self.clip:02d}"


@dataclass(frozen=True)
class Places:
    """Files of a study."""

    checkpoint: str
    tower: Path
    output: Path

    def pretrained(self, name: str, seed: int) -> Path:
        return self.output / "pretrained" / f"{name}-seed_{seed}.safetensors"


def units_of(study: Study) -> list[Unit]:
    """Seed 0 of all rows first, clip by clip, so that a run that is ended early has compared rows on the same clips."""
    return [
        Unit(name, seed, clip)
        for seed in (0, *FURTHER_SEEDS)
        for clip in range(study.clips)
        for name in study.rows
        if seed in study.seeds_of(name)
    ]


def pretrainings_of(study: Study) -> list[tuple[str, int]]:
    if not study.pretrain_steps:
        return []
    return [(name, seed) for seed in (0, *FURTHER_SEEDS) for name in TUNED if seed in study.seeds_of(name)]


def estimate(study: Study) -> tuple[float, float]:
    """Processor seconds of pre-training, and of all units."""
    before = study.pretrain_steps * sum(PRETRAIN_SECONDS[name] for name, _ in pretrainings_of(study))
    total = 0.0
    for unit in units_of(study):
        if unit.row in REFERENCES:
            continue
        # Inversion with one refinement; with guidance a prediction counts twice; of seed 0 the reconstruction too.
        predictions = study.inference_steps * (2 + 3 * 2 + (3 if unit.seed == 0 else 0))
        total += UNIT_SECONDS + predictions * (PREDICT_FRAMES_SECONDS if ROWS[unit.row].per_frame else PREDICT_SECONDS)
        total += TUNE_SECONDS * study.tuning_steps if unit.row in TUNED else 0
    return before, total


@cache
def shared(places: Places) -> tuple[Base, EditingTower]:
    """Once a process."""
    return Base.load(places.checkpoint), load_tower(places.tower)


def pretrain(study: Study, places: Places, name: str, seed: int) -> None:
    """Trains what a row starts from, unless its file is there."""
    file = places.pretrained(name, seed)
    if file.exists():
        return
    base, row = shared(places)[0], ROWS[name]
    module = Pretraining(build_model(base, row, seed), row, base.parts)
    arguments = numbered_arguments(
        places.output / "pretraining" / f"{name}-seed_{seed}",
        study.pretrain_steps,
        learning_rate=study.learning_rate,
        warmup_steps=max(1, study.pretrain_steps // 10),
        seed=seed,
        save_steps=max(1, study.pretrain_steps // 3),
        save_total_limit=1,
        logging_steps=max(1, study.pretrain_steps // 10),
        use_cpu=True,
        disable_tqdm=True,
    )
    train_on_numbers(module, lambda step: pretraining_batch(base.parts, seed, step), arguments)
    module.save(file)
    module.adapter.detach()


def run_unit(study: Study, places: Places, unit: Unit) -> dict[str, Any]:
    """Result of one unit: `edits`, kind -> scores, and what else is known of it."""
    started = time.process_time()
    base, tower = shared(places)
    row, clip = ROWS[unit.row], StudyClip.at(unit.clip)
    result: dict[str, Any] = {"row": unit.row, "seed": unit.seed, "clip": unit.clip, "prompt": clip.prompt}
    if row.shown is not None:
        edited = shown_edits(row, clip)
    else:
        model = build_model(base, row, unit.seed)
        if row.tuned and study.pretrain_steps:
            Trained(model, row).load(places.pretrained(unit.row, unit.seed))
        if row.other_clip:
            read_instead(model, clip.frames, StudyClip.at((unit.clip + 1) % max(2, study.clips)).frames)
        pipe = make_pipeline(base, model)
        if row.tuned:
            tuning = pipe.tune(clip.frames, clip.prompt, study.tuning(unit.seed), progress=False)
            result |= {
                "steps": tuning.steps,
                "best_step": tuning.best_step,
                "parameters": parameter_counts(model, row),
            }
        edited = edit_clip(pipe, row, clip, study.inference_steps, study.guidance)
        if unit.seed == 0:
            again = reconstruct(pipe, row, clip, study.inference_steps)
            result["reconstruction_psnr"] = psnr_outside_mask(clip.frames, again)
        model.adapter.detach()
    result["edits"] = {kind: scores(clip, kind, frames, tower) for kind, frames in edited.items()}
    result["processor_seconds"] = round(time.process_time() - started, 1)
    if unit.seed == 0:
        draw(places.output / "pictures" / f"{unit.key}.png", [clip.frames, *edited.values()])
    return result


def draw(path: Path, clips: Sequence[np.ndarray]) -> None:
    """Clips below each other, frames side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([np.concatenate(list(frames), axis=1) for frames in clips])).save(path)


def _quiet(output: Path) -> None:
    """Of a process: one thread, and what is printed goes to a file."""
    torch.set_num_threads(1)
    log = os.open(output / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def run_all(call: Callable, calls: Sequence[tuple], output: Path, workers: int) -> Iterator[Any]:
    """Results as they come, each of a process of one thread; one worker is this process."""
    if workers == 1:
        torch.set_num_threads(1)
        yield from (call(*each) for each in calls)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet, initargs=(output,)) as pool:
        try:
            for done in as_completed([pool.submit(call, *each) for each in calls]):
                yield done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_study(study: Study, places: Places, workers: int = 2) -> str:
    """Runs what is not done yet; returns the tables, which stand in `output`/table.md, results in results.json.

    Raises:
        ValueError: `output` holds a study with other settings.
    """
    output = places.output
    output.mkdir(parents=True, exist_ok=True)
    settings = output / "settings.json"
    found = json.loads(settings.read_text()) if settings.exists() else asdict(study)
    if found != asdict(study):
        raise ValueError(f"{settings}: found {found}, expected the settings of this call, {asdict(study)}")
    settings.write_text(json.dumps(found, indent=1) + "\n")

    before, total = estimate(study)
    minutes = f"{before / 60:.0f} core minutes of pre-training and {total / 60:.0f} of tuning and editing"
    print(f"in all about {minutes}, {(before + total) / 60 / workers:.0f} minutes by the clock", flush=True)
    for _ in run_all(pretrain, [(study, places, *each) for each in pretrainings_of(study)], output, workers):
        pass
    results = ClipResults(output / "results.json")
    missing = [unit for unit in units_of(study) if unit.key not in results.rows]
    started = time.monotonic()
    for number, result in enumerate(
        run_all(run_unit, [(study, places, unit) for unit in missing], output, workers), start=1
    ):
        results.add(Unit(result["row"], result["seed"], result["clip"]).key, result)
        with whole_file(output / "table.md") as unfinished:
            unfinished.write_text(report(list(results.rows.values()), asdict(study)))
        if number % 20 == 0:
            elapsed = (time.monotonic() - started) / 60
            print(f"{number} of {len(missing)} units after {elapsed:.0f} minutes", flush=True)
    return report(list(results.rows.values()), asdict(study))


def main(
    checkpoint: Annotated[
        str, typer.Argument(help="of SENForVideoEditing with its base model, such as sen-tiny-edit")
    ],
    tower: Annotated[Path, typer.Argument(help="weights that benchmarks/editing_tower.py made")],
    output: Annotated[Path, typer.Argument(help="folder of the study")],
    clips: Annotated[int, typer.Option(help="that are edited, each in three ways")] = Study.clips,
    pretrain_steps: Annotated[int, typer.Option(help="of each adapter on other clips")] = Study.pretrain_steps,
    tuning_steps: Annotated[int, typer.Option(help="at most, on each clip")] = Study.tuning_steps,
    learning_rate: Annotated[float, typer.Option(help="of both")] = Study.learning_rate,
    inference_steps: Annotated[int, typer.Option(help="noise levels")] = Study.inference_steps,
    guidance: Annotated[float, typer.Option(help="scale of classifier-free guidance")] = Study.guidance,
    workers: Annotated[int, typer.Option(help="processes side by side, each on one core")] = 2,
) -> None:
    """Run the study; the tables are OUTPUT/table.md. Run again after an interruption: it goes on."""
    study = Study(clips, pretrain_steps, tuning_steps, learning_rate, inference_steps, guidance)
    print(run_study(study, Places(checkpoint, tower, output), workers))


if __name__ == "__main__":
    typer.run(main)
