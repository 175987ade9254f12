# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Scores free-text answers: multiple-choice answers by the option they name, open answers by exact match.

An answer that is empty or names no option counts as wrong and stays in the denominator.
"""

import re
from collections.abc import Sequence

import numpy as np

_LETTER = r"([A-Za-z])(?![\w'])"
# By priority: the first pattern that finds letters is used.
_MARKED = (
    re.compile(rf"\banswer(?:\s+is)?\b[\s:*(\"'\[]*{_LETTER}", re.IGNORECASE),
    re.compile(rf"\b(?:option|choice)(?:\s+is)?\b[\s:*(\"'\[]*{_LETTER}", re.IGNORECASE),
    re.compile(r"(?<!\w)[(\[]([A-Za-z])[)\]]"),
)
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_SINGLE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")  # "b", "(B).", "**B**"
_LEADING = re.compile(r"[\W_]*([A-Za-z])\s*[.):,\]]")  # "B. red", "(B) red"
_NEXT_LETTER = re.compile(rf"\W*(?:(?:and|or)\W+)?{_LETTER}")
# "A" and "I" before another word are read as words, except before one of these.
_AFTER_LETTER = re.compile(r"\s+(?:and|as|because|but|is|or|since)\b", re.IGNORECASE)

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
_ARTICLES = ("a", "an", "the")


def read_choice(answer: str, options: Sequence[str], letters: bool = True) -> int | None:
    """Finds the option that an answer names.

    The rules, by priority: (1) the answer equals the text of an option; (2) it has a marked letter (the only character, in
    front as in "B. red" or "(B) red", after "answer" or "option", or in brackets); (3) it contains the text of an option as
    whole words, where the longest of nested texts is used; (4) it has a single capital letter. If a rule finds several
    letters or texts, the answer names no option.

    Args:
        answer: the model's answer.
        options: texts, at most 26.
        letters: whether the prompt listed the options with letters; otherwise only texts are searched.

    Returns:
        Index of the option; `None` if the answer is empty, names no or several options, or has a letter without an option.
    """
    folded, texts = _folded(answer), [_folded(option) for option in options]
    if len(folded) > 1 and folded in texts:
        return texts.index(folded)
    marked = _marked_letters(answer, texts) if letters else set()
    if marked:
        return _number(marked, texts)
    named = _named_texts(folded, texts)
    if len(named) == 1 or not letters:
        return texts.index(named.pop()) if len(named) == 1 else None
    return _number(_letters(_CAPITAL, answer), texts)


def normalise_answer(text: str) -> str:
    """Normalises an open answer, following the VQA evaluation.

    The result is in lower case, without punctuation except points in numbers, without articles (a, an, the), with zero to ten
    as digits and none as 0, and with single spaces. Unlike in the VQA evaluation, apostrophes are removed (it adds them to
    contractions), hyphens become spaces, and commas in numbers are removed.
    """
    text = re.sub(r"(?<=\d),(?=\d)|['\u2019`]", "", text.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]|_", " ", text)
    words = [_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


def exact_match(answer: str, truth: str) -> bool:
    """Whether an open answer equals the truth after normalisation. An empty answer never does."""
    found = normalise_answer(answer)
    return bool(found) and found == normalise_answer(truth)


def accuracy_with_error(right: Sequence[bool] | np.ndarray, clips: Sequence[str] | None = None) -> tuple[float, float]:
    """Accuracy over questions, and its standard error.

    Args:
        right: (questions,) whether each answer is correct.
        clips: (questions,) identifier of each question's clip. Questions about one clip are not independent, so deviations
            are first summed by clip; with one question per clip, this is the usual standard error (n - 1).

    Returns:
        Both in 0..1; the error is NaN if all questions are about one clip.

    Raises:
        ValueError: no questions, or a different number of clips.
    """
    hits = np.asarray(right, dtype=np.float64)
    keys = list(clips) if clips is not None else list(map(str, range(len(hits))))
    if not len(hits) or len(keys) != len(hits):
        raise ValueError(f"expected a clip for each of at least one question, found {len(hits)} and {len(keys)}")
    accuracy = hits.mean()
    _, of = np.unique(keys, return_inverse=True)
    sums = np.bincount(of, weights=hits - accuracy)
    if len(sums) < 2:
        return float(accuracy), float("nan")
    variance = (sums**2).sum() * len(sums) / (len(sums) - 1)
    return float(accuracy), float(np.sqrt(variance) / len(hits))


def _number(letters: set[str], texts: Sequence[str]) -> int | None:
    """Index of the option with the only letter, or else of the option whose text is this letter."""
    if len(letters) != 1:
        return None
    (letter,) = letters
    number = ord(letter) - ord("A")
    if number < len(texts):
        return number
    return texts.index(letter.lower()) if letter.lower() in texts else None


def _marked_letters(answer: str, texts: Sequence[str]) -> set[str]:
    """The letters, as capitals, that the highest-priority pattern finds in the answer."""
    if match := _SINGLE.fullmatch(answer):
        return {match[1].upper()}
    if match := _LEADING.match(answer):
        rest, letter = answer[match.end() :], match[1].upper()
        other = _NEXT_LETTER.match(rest)
        if other is None or _is_word(rest, other) or _folded(rest) in texts:
            return {letter}
    return next((found for pattern in _MARKED if (found := _letters(pattern, answer))), set())


def _letters(pattern: re.Pattern[str], answer: str) -> set[str]:
    return {match[1].upper() for match in pattern.finditer(answer) if not _is_word(answer, match)}


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether a matched letter is the article "a" or the pronoun "I"."""
    rest = text[match.end(1) :]
    return match[1] in "aAI" and re.match(r"\s+\w", rest) is not None and not _AFTER_LETTER.match(rest)


def _named_texts(folded: str, texts: Sequence[str]) -> set[str]:
    """The options' texts that occur in a folded answer, except occurrences inside a longer text."""
    spans: list[tuple[int, int]] = []
    found = set()
    for text in sorted(set(texts) - {""}, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", folded):
            if not any(start <= match.start() and match.end() <= end for start, end in spans):
                spans.append(match.span())
                found.add(text)
    return found


def _folded(text: str) -> str:
    """Lower case, single spaces, without punctuation at the ends."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`*_()[]")


__all__ = ["accuracy_with_error", "exact_match", "normalise_answer", "read_choice"]
