"""Tables of the fusion study: right answers by kind of question, and by how many modalities a question needs."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.association.ablation_report import percent
from benchmarks.chat_fusion_rows import ROWS, Answers
from modeling_sen.world.chat_questions import KINDS
from recipes.sen_tiny.chat_texts import DESCRIPTION

TITLES = {
    "test": "Unseen clips (split `test`)",
    "unseen_pairs": "Pairs of colour and shape that never occur in training (split `unseen_pairs`)",
}


def share(answers: Answers, kinds: Iterable[str] = KINDS, fits: Callable[[str], bool] = bool) -> float:
    """Right answers over all questions of some kinds whose modalities, `"image+audio"`, fit."""
    counts = [count for kind in kinds for needed, count in answers.get(kind, {}).items() if fits(needed)]
    return sum(right for right, _ in counts) / max(1, sum(asked for _, asked in counts))


def mean_share(answers: Answers) -> float:
    """Mean over the world's kinds of questions, each counted alike."""
    asked = [kind for kind in KINDS if kind in answers]
    return sum(share(answers, [kind]) for kind in asked) / len(asked)


# Column -> share of right answers. Descriptions are no question of the world's, and count in their own column alone.
COLUMNS: dict[str, Callable[[Answers], float]] = {
    "mean of kinds": mean_share,
    "one modality": lambda answers: share(answers, fits=lambda needed: "+" not in needed),
    "two or more": lambda answers: share(answers, fits=lambda needed: "+" in needed),
    **{kind: lambda answers, kind=kind: share(answers, [kind]) for kind in (*KINDS, DESCRIPTION)},  # type: ignore[misc]
}


def table(results: Sequence[dict[str, Any]], split: str) -> str:
    """Markdown, a line for each row, in the order of `ROWS`."""
    head = ["", "seeds", "trainable", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, row in ROWS.items():
        runs = [result for result in results if result["row"] == name]
        if not runs:
            continue
        shares = [[column(run["answers"][split]) for run in runs] for column in COLUMNS.values()]
        cells = [row.words, str(len(runs)), f"{runs[0]['parameters']:,}", *map(percent, shares)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def differences(results: Sequence[dict[str, Any]], split: str) -> str:
    """SEN with three rounds minus each other row of the same seeds: rows of one seed had the same batches."""
    answers = {(run["row"], run["seed"]): run["answers"][split] for run in results}
    seeds = sorted({seed for _, seed in answers})
    lines = []
    for name, row in ROWS.items():
        both = [seed for seed in seeds if {(name, seed), ("sen_3", seed)} <= answers.keys()]
        if name != "sen_3" and len(both) > 1:
            gaps = {
                words: percent([column(answers["sen_3", seed]) - column(answers[name, seed]) for seed in both])
                for words, column in list(COLUMNS.items())[:3]
            }
            found = ", ".join(f"{words} {gap}" for words, gap in gaps.items())
            lines.append(f"- {ROWS['sen_3'].words}, minus {row.words}, over {len(both)} seeds: {found}\n")
    return "".join(lines)


def report(results: Sequence[dict[str, Any]]) -> str:
    """All tables."""
    language = results[0]["language_model_parameters"]
    parts = [
        "Right answers in per cent; mean and standard deviation over seeds. Trainable parameters without those of the "
        f"language model, {language:,} in each row.\n"
    ]
    for split, title in TITLES.items():
        asked = {
            count: sum(
                number
                for kind in KINDS
                for needed, (_, number) in results[0]["answers"][split].get(kind, {}).items()
                if ("+" in needed) == (count == "several")
            )
            for count in ("one", "several")
        }
        parts.append(
            f"{title}: {asked['one']:,} questions that need one modality, {asked['several']:,} that need more."
            f"\n\n{differences(results, split)}\n{table(results, split)}"
        )
    return "\n".join(parts)
