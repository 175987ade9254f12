# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Evaluates answers to questions about videos. Answers are stored by clip, so that an interrupted run can resume."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from modeling_sen.evaluation.answer_metrics import accuracy_with_error, exact_match, normalise_answer, read_choice
from modeling_sen.evaluation.clip_results import ClipResults
from modeling_sen.evaluation.measure import over_splits
from modeling_sen.evaluation.prompt_formats import PromptFormat
from modeling_sen.evaluation.question_sets import AskedClip, QuestionSet, VideoQuestion
from modeling_sen.whole_file import whole_file

# Maps clip, prompt and options to the answer. Questions about one clip are consecutive, with the same clip object.
Answerer: TypeAlias = Callable[[AskedClip, str, tuple[str, ...]], str]


def measure_chat(
    answer: Answerer,
    sets: Sequence[QuestionSet],
    results: ClipResults,
    output: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Asks each question and compares the answer with the truth. Answers in `results` are reused.

    A question with options is answered correctly if the answer names the correct option (`read_choice`), an open question if
    the answer is the same text (`exact_match`). An empty or unreadable answer is wrong.

    Args:
        answer: the model; its prompt lists the options if the prompt format does.
        sets: sets of questions.
        results: stored answers of this model and its settings; written after each clip.
        output: folder for `answers.csv`, with a row for each question.
        clock: returns seconds; by default wall-clock time.
        show_progress: whether to show a progress bar.

    Returns:
        `data` (for each set `source`, `mapping`, `prompt`, `listed`, `questions`, `missing`); `splits` (for each set
        `source`, `questions`, `clips`, `accuracy`, `chance`, `seconds` per question, `standard_errors`, numbers of `empty`
        and `unreadable` answers, and `by_type`); `mean` and `std` over the sets. Chance is the mean over questions of
        1 / options, or 0 for open questions. The standard error is computed over clips (`accuracy_with_error`).

    Raises:
        ValueError: no sets.
        ValueError, OSError: a clip cannot be read; the answers before it are kept.
    """
    if not sets:
        raise ValueError("sets: expected at least one, found none")
    data, splits, table = [], [], []
    for part in sets:
        _ask_missing(answer, part, results, clock, show_progress)
        kept = [results.rows[one.clip][_key(part, one)] for one in part.questions]
        answers = [row["answer"] for row in kept]
        scores = [score_answer(one, text, part.prompt) for one, text in zip(part.questions, answers, strict=True)]
        data.append(_described(part))
        splits.append(
            {
                "source": part.source,
                "clips": len({one.clip for one in part.questions}),
                **_accuracy(part.questions, [right for _, right in scores]),
                "seconds": float(np.mean([row["seconds"] for row in kept])),
                "empty": sum(not text.strip() for text in answers),
                "unreadable": sum(
                    read is None and bool(text.strip()) for (read, _), text in zip(scores, answers, strict=True)
                ),
                "by_type": _by_type(part.questions, [right for _, right in scores]),
            }
        )
        table += [
            [one.place, one.question, " | ".join(one.options), one.answer, text, read, int(right)]
            for one, text, (read, right) in zip(part.questions, answers, scores, strict=True)
        ]
    if output is not None:
        _write_csv(output, [["place", "question", "options", "truth", "answer", "read_as", "right"], *table])
    return {"data": data, **over_splits(splits)}


def score_answer(question: VideoQuestion, answer: str, prompt: PromptFormat) -> tuple[str | None, bool]:
    """Interprets an answer, and compares it with the truth.

    Returns:
        The named option or the normalised open answer, `None` if there is none; and whether the answer is correct.
    """
    if not question.options:
        return normalise_answer(answer) or None, exact_match(answer, question.answer)
    number = read_choice(answer, question.options, prompt.asks_for_letter)
    read = None if number is None else question.options[number]
    return read, read == question.answer


def _ask_missing(
    answer: Answerer, part: QuestionSet, results: ClipResults, clock: Callable[[], float], show_progress: bool
) -> None:
    """Asks the questions without a stored answer, clip by clip."""
    by_clip: dict[str, list[int]] = {}
    for number, one in enumerate(part.questions):
        if _key(part, one) not in results.rows.get(one.clip, {}):
            by_clip.setdefault(one.clip, []).append(number)
    missing = sum(map(len, by_clip.values()))
    with tqdm(
        total=len(part.questions),
        initial=len(part.questions) - missing,
        unit="question",
        desc=part.source,
        disable=not show_progress,
    ) as progress:
        for key, numbers in by_clip.items():
            clip = part.read(numbers[0])
            answers = dict(results.rows.get(key, {}))
            for one in (part.questions[number] for number in numbers):
                prompt = part.prompt.prompt(one.question, one.options)
                start = clock()
                text = answer(clip, prompt, one.options)
                answers[_key(part, one)] = {"answer": text, "seconds": clock() - start}
                progress.update()
            results.add(key, answers)


def _key(part: QuestionSet, question: VideoQuestion) -> str:
    """Key of a question about a clip; it depends on the exact prompt."""
    asked = json.dumps([part.prompt.prompt(question.question, question.options), *question.options])
    return hashlib.sha1(asked.encode()).hexdigest()


def _described(part: QuestionSet) -> dict[str, Any]:
    return {
        "source": part.source,
        "mapping": {"name": part.mapping[0], "version": part.mapping[1]},
        "prompt": {"name": part.prompt.name, "version": part.prompt.version, "differs": part.prompt.differs},
        "listed": part.listed,
        "questions": len(part.questions),
        "missing": part.missing,
    }


def _accuracy(questions: Sequence[VideoQuestion], right: Sequence[bool]) -> dict[str, Any]:
    accuracy, error = accuracy_with_error(right, [one.clip for one in questions])
    return {
        "questions": len(questions),
        "accuracy": accuracy,
        "chance": float(np.mean([1 / len(one.options) if one.options else 0.0 for one in questions])),
        "standard_errors": {"accuracy": error},
    }


def _by_type(questions: Sequence[VideoQuestion], right: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """Name of a type -> value -> scores of its questions."""
    rows: dict[str, dict[str, list[int]]] = {}
    for number, one in enumerate(questions):
        for name, value in one.types.items():
            rows.setdefault(name, {}).setdefault(value, []).append(number)
    return {
        name: {
            value: _accuracy([questions[row] for row in found], [right[row] for row in found])
            for value, found in sorted(values.items())
        }
        for name, values in rows.items()
    }


def _write_csv(output: Path, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    output.mkdir(parents=True, exist_ok=True)
    with whole_file(output / "answers.csv") as unfinished:
        unfinished.write_text(text.getvalue(), encoding="utf-8", newline="")


__all__ = ["Answerer", "measure_chat", "score_answer"]
