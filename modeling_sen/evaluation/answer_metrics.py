# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How answers in free text are compared with the truth: the option that an answer names, or the same words.

An answer that is empty or names no option is wrong; it stays in the denominator.
"""

import re
from collections.abc import Sequence

import numpy as np

_LETTER = r"([A-Za-z])(?![\w'])"
# In this order: the first pattern that finds letters decides.
_MARKED = (
    re.compile(rf"\banswer(?:\s+is)?\b[\s:*(\"'\[]*{_LETTER}", re.IGNORECASE),
    re.compile(rf"\b(?:option|choice)(?:\s+is)?\b[\s:*(\"'\[]*{_LETTER}", re.IGNORECASE),
    re.compile(r"(?<!\w)[(\[]([A-Za-z])[)\]]"),
)
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")  # "b", "(B).", "**B**"
_LEADING = re.compile(r"[\W_]*([A-Za-z])\s*[.):,\]]")  # "B. red", "(B) red"
_NEXT_LETTER = re.compile(rf"\W*(?:(?:and|or)\W+)?{_LETTER}")
# "A" and "I" are words before another word, but letters before one of these.
_AFTER_LETTER = re.compile(r"\s+(?:and|as|because|but|is|or|since)\b", re.IGNORECASE)

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
_ARTICLES = ("a", "an", "the")


def read_choice(answer: str, options: Sequence[str], letters: bool = True) -> int | None:
    """The option that an answer names.

    Looked for in this order: the text of an option and nothing else; a letter that is marked as one (alone, in front as in
    "B. red" or "(B) red", after "answer" or "option", in brackets); the text of an option as whole words, of texts that
    contain each other the longest; a single capital. Several letters or texts found in one of these ways name no option.

    Args:
        answer: what a model wrote.
        options: texts, at most 26.
        letters: whether the options were shown with letters; otherwise only texts are read.

    Returns:
        Number of the option, or `None` where the answer is empty, names none or several, or a letter that no option has.
    """
    said, texts = _folded(answer), [_folded(option) for option in options]
    if len(said) > 1 and said in texts:
        return texts.index(said)
    marked = _marked_letters(answer, texts) if letters else set()
    if marked:
        return _number(marked, texts)
    named = _named_texts(said, texts)
    if len(named) == 1 or not letters:
        return texts.index(named.pop()) if len(named) == 1 else None
    return _number(_letters(_CAPITAL, answer), texts)


def normalise_answer(text: str) -> str:
    """An open answer as it is compared: after the rules of the VQA evaluation.

    Lower case; no punctuation but points in numbers; no articles (a, an, the); zero to ten as digits, none as 0; single
    spaces. Unlike there, apostrophes are dropped where it writes them into contractions, hyphens become spaces, and commas
    in numbers go.
    """
    text = re.sub(r"(?<=\d),(?=\d)|['\u2019`]", "", text.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]|_", " ", text)
    words = [_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


def exact_match(answer: str, truth: str) -> bool:
    """Whether an open answer is the same as the truth once both are normalised. An empty answer is not."""
    found = normalise_answer(answer)
    return bool(found) and found == normalise_answer(truth)


def accuracy_with_error(right: Sequence[bool] | np.ndarray, clips: Sequence[str] | None = None) -> tuple[float, float]:
    """Accuracy over questions, and its standard error.

    Args:
        right: (questions,) whether each answer is right.
        clips: (questions,) what each question is about. Questions about one clip are not independent, so deviations are
            summed by clip first; with one question a clip this is the usual standard error (n - 1).

    Returns:
        In 0..1 both; the error is NaN where all questions are about one clip.

    Raises:
        ValueError: no questions, or another number of clips.
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
    """The option of the only letter; beyond the last one, the option whose text is this letter."""
    if len(letters) != 1:
        return None
    (letter,) = letters
    number = ord(letter) - ord("A")
    if number < len(texts):
        return number
    return texts.index(letter.lower()) if letter.lower() in texts else None


def _marked_letters(answer: str, texts: Sequence[str]) -> set[str]:
    """The letters that the surest form in the answer marks, as capitals."""
    if match := _ALONE.fullmatch(answer):
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
    """Whether a letter that was found is the article "a" or the pronoun "I"."""
    rest = text[match.end(1) :]
    return match[1] in "aAI" and re.match(r"\s+\w", rest) is not None and not _AFTER_LETTER.match(rest)


def _named_texts(said: str, texts: Sequence[str]) -> set[str]:
    """The options' texts that stand in an answer, those inside of a longer one left out."""
    spans: list[tuple[int, int]] = []
    found = set()
    for text in sorted(set(texts) - {""}, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", said):
            if not any(start <= match.start() and match.end() <= end for start, end in spans):
                spans.append(match.span())
                found.add(text)
    return found


def _folded(text: str) -> str:
    """Lower case, single spaces, no punctuation of sentences at the ends."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`*_()[]")


__all__ = ["accuracy_with_error", "exact_match", "normalise_answer", "read_choice"]
