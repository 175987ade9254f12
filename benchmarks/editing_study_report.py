"""Tables of the editing study: means over clips with their standard errors, and differences of rows on the same clips."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.editing_study_rows import ROWS
from modeling_sen.evaluation.clip_results import null_to_nan
from modeling_sen.evaluation.tracking_metrics import mean_over_clips, standard_errors
from modeling_sen.world import EDITED_ATTRIBUTES

# Number -> head of its column, factor, decimals.
COLUMNS: dict[str, tuple[str, float, int]] = {
    "loveu_text_alignment": ("alignment", 1, 1),
    "loveu_frame_consistency": ("consistency", 100, 1),
    "directional_similarity": ("direction", 100, 1),
    "edit_accuracy": ("edited", 100, 1),
    "kept_accuracy": ("kept", 100, 1),
    "exact_psnr": ("exact PSNR", 1, 2),
    "exact_ssim": ("exact SSIM", 100, 1),
    "psnr_outside_mask": ("PSNR outside", 1, 2),
    "warp_error": ("warp error", 1000, 2),
    "reconstruction_psnr": ("reconstruction", 1, 2),
}
BY_KIND = ("loveu_text_alignment", "loveu_frame_consistency", "edit_accuracy", "kept_accuracy", "exact_psnr")
DIFFERENCES = ("tune_a_video", "control", "sen_0")  # that SEN with three rounds is compared with
PAPER = {"loveu_text_alignment": 6.4, "loveu_frame_consistency": 4.1}  # per cent over Tune-A-Video
# Clip -> numbers, of one row.
Clips = Mapping[int, dict[str, float]]


def clips_of(
    results: Sequence[Mapping[str, Any]], row: str, kinds: Sequence[str], seeds: Sequence[int] | None = None
) -> Clips:
    """Numbers of each clip: means over kinds of edit and over seeds, where they are not NaN."""
    numbers: dict[int, list[dict[str, float]]] = {}
    for result in results:
        if result["row"] == row and (seeds is None or result["seed"] in seeds):
            again = result.get("reconstruction_psnr", math.nan)
            for kind in kinds:
                of_edit = null_to_nan(result["edits"][kind]) | {"reconstruction_psnr": again}
                numbers.setdefault(result["clip"], []).append({name: of_edit[name] for name in COLUMNS})
    return {clip: mean_over_clips(each) for clip, each in sorted(numbers.items())}


def seeds_of(results: Sequence[Mapping[str, Any]], row: str) -> list[int]:
    """Seeds with as many clips as the first."""
    counts: dict[int, int] = {}
    for result in results:
        if result["row"] == row:
            counts[result["seed"]] = counts.get(result["seed"], 0) + 1
    return [seed for seed, count in sorted(counts.items()) if count == counts.get(0)]


def cell(mean: float, error: float, factor: float, decimals: int) -> str:
    """`"63.1 ± 0.4"`; a dash where there is no number."""
    if math.isnan(mean):
        return "-"
    spread = "" if math.isnan(error) else f" ± {factor * error:.{decimals}f}"
    return f"{factor * mean:.{decimals}f}{spread}"


def table(
    results: Sequence[Mapping[str, Any]], kinds: Sequence[str] = EDITED_ATTRIBUTES, columns: Sequence[str] = ()
) -> str:
    """Markdown, a line for each row."""
    names = list(columns or COLUMNS)
    head = ["", "seeds", "clips", *(COLUMNS[name][0] for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row, settings in ROWS.items():
        seeds = seeds_of(results, row)
        if not seeds:
            continue
        clips = list(clips_of(results, row, kinds, seeds).values())
        mean, errors = mean_over_clips(clips), standard_errors(clips)
        cells = [cell(mean[name], errors[name], *COLUMNS[name][1:]) for name in names]
        lines.append(f"| {settings.words} | {len(seeds)} | {len(clips)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def differences(results: Sequence[Mapping[str, Any]]) -> str:
    """SEN with three rounds minus others: of each clip on the seeds that both have, mean and standard error over clips."""
    head = ["SEN, K = 3, minus", "seeds", "clips", *(COLUMNS[name][0] for name in COLUMNS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in DIFFERENCES:
        seeds = [seed for seed in seeds_of(results, "sen_3") if seed in seeds_of(results, row)]
        gaps = gaps_of(results, row, seeds)
        if not gaps:
            continue
        mean, errors = mean_over_clips(gaps), standard_errors(gaps)
        cells = [cell(mean[name], errors[name], *COLUMNS[name][1:]) for name in COLUMNS]
        lines.append(f"| {ROWS[row].words} | {len(seeds)} | {len(gaps)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def gaps_of(results: Sequence[Mapping[str, Any]], row: str, seeds: Sequence[int]) -> list[dict[str, float]]:
    """Numbers of each clip: SEN with three rounds minus this row, on these seeds."""
    own, others = (clips_of(results, name, EDITED_ATTRIBUTES, seeds) for name in ("sen_3", row))
    return [{name: own[clip][name] - others[clip][name] for name in COLUMNS} for clip in own.keys() & others.keys()]


def spread_over_seeds(results: Sequence[Mapping[str, Any]]) -> str:
    """The same differences, mean and standard deviation over seeds of the mean over clips."""
    lines = []
    for row in DIFFERENCES:
        seeds = [seed for seed in seeds_of(results, "sen_3") if seed in seeds_of(results, row)]
        if len(seeds) < 2:
            continue
        means = [mean_over_clips(gaps_of(results, row, [seed])) for seed in seeds]
        cells = [
            f"{head} {cell(float(np.mean(values)), float(np.std(values, ddof=1)), factor, decimals)}"
            for name, (head, factor, decimals) in COLUMNS.items()
            if not np.isnan(values := [mean[name] for mean in means]).any()
        ]
        lines.append(f"- Over {len(seeds)} seeds, minus {ROWS[row].words}: {', '.join(cells)}\n")
    return "".join(lines)


def relative_gains(results: Sequence[Mapping[str, Any]]) -> str:
    """SEN with three rounds over Tune-A-Video in per cent, beside what the paper reports of its own data."""
    seeds = [seed for seed in seeds_of(results, "sen_3") if seed in seeds_of(results, "tune_a_video")]
    if not seeds:
        return ""
    means = {}
    for row in ("tune_a_video", "sen_3"):
        means[row] = mean_over_clips(list(clips_of(results, row, EDITED_ATTRIBUTES, seeds).values()))
    parts = []
    for name, paper in PAPER.items():
        gain = 100 * (means["sen_3"][name] / means["tune_a_video"][name] - 1)
        parts.append(f"{COLUMNS[name][0]} {gain:+.1f} % (the paper, on its own data: {paper:+.1f} %)")
    return f"SEN, K = 3, over Tune-A-Video: {', '.join(parts)}.\n"


def costs(results: Sequence[Mapping[str, Any]]) -> str:
    """What was trained, for how long."""
    lines = []
    for row, settings in ROWS.items():
        runs = [result for result in results if result["row"] == row]
        if not runs:
            continue
        words = (
            f"- {settings.words}: {np.mean([run['processor_seconds'] for run in runs]):.1f} processor seconds a clip"
        )
        if settings.tuned:
            tuned, before = runs[0]["parameters"]
            steps, best = (np.mean([run[name] for run in runs]) for name in ("steps", "best_step"))
            words += (
                f"; {steps:.0f} steps, best {best:.0f}; {tuned:,} parameters in tuning, {before:,} in pre-training"
            )
        lines.append(words + "\n")
    return "".join(lines)


def report(results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """All tables."""
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    parts = [
        f"{words}.\n\nMean ± standard error over clips; the number of a clip is the mean over its edits and seeds. Per cent, "
        "but alignment (100 x cosine), PSNR (dB) and warp error (x 1000; of the source as of the copy).\n",
        table(results),
        differences(results),
        spread_over_seeds(results),
        relative_gains(results),
    ]
    parts += [f"Edits of the {kind}:\n\n{table(results, [kind], BY_KIND)}" for kind in EDITED_ATTRIBUTES]
    return "\n".join([*parts, costs(results)])
