# Copyright 2026 The SEN for Transformers team.
# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Prompt formats for questions, as data. Scores depend on them, so results state the format and its version."""

import string
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptFormat:
    """A prompt format.

    Attributes:
        name, version: stored in each result; the version is increased when scores could change.
        choice: text with `{question}`, `{options}` and optionally `{letters}` ("A, B, or C").
        option: a line of `{options}` with `{letter}` and `{option}`; empty if the options are not listed.
        open: text with `{question}`, for questions without options.
        source: origin of the format.
        differs: differences from the origin.
    """

    name: str
    version: int
    choice: str
    option: str
    open: str
    source: str
    differs: str = ""

    @property
    def asks_for_letter(self) -> bool:
        """Whether an answer may be the letter of an option."""
        return "{letter}" in self.option

    def prompt(self, question: str, options: Sequence[str] = ()) -> str:
        """The prompt for a question.

        Args:
            question: the question.
            options: at most 26 options; empty for an open question.
        """
        letters = string.ascii_uppercase[: len(options)]
        lines = [
            self.option.format(letter=letter, option=option) for letter, option in zip(letters, options, strict=True)
        ]
        listed = f"{', '.join(letters[:-1])}, or {letters[-1]}" if len(letters) > 1 else letters
        text = self.choice if options else self.open
        return text.format(question=question, options="\n".join(lines), letters=listed)


_SHORT = "{question}\nAnswer the question using a single word or phrase."

PROMPT_FORMATS: dict[str, PromptFormat] = {
    form.name: form
    for form in (
        PromptFormat(
            name="letters",
            version=1,
            choice="{question}\n{options}\nAnswer with the letter of the right option.",
            option="({letter}) {option}",
            open=_SHORT,
            source="this package",
        ),
        PromptFormat(
            name="question",
            version=1,
            choice="{question}",
            option="",
            open="{question}",
            source="this package: the question alone, its options are not listed",
        ),
        PromptFormat(
            name="mvbench",
            version=1,
            choice="Question: {question}\nOptions:\n{options}\nOnly give the best option.",
            option="({letter}) {option}",
            open=_SHORT,
            source="github.com/OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb",
            differs="no system text, and the answer is not begun with 'Best option:('",
        ),
        PromptFormat(
            name="video-mme",
            version=1,
            choice="Select the best answer to the following multiple-choice question based on the video. Respond with only "
            "the letter ({letters}) of the correct option.\n{question}\n{options}\nThe best answer is:",
            option="{letter}. {option}",
            open=_SHORT,
            source="Video-MME, as its authors recommend; without subtitles",
        ),
        PromptFormat(
            name="llava",
            version=1,
            choice="{question}\n{options}\nAnswer with the option's letter from the given choices directly.",
            option="{letter}. {option}",
            open=_SHORT,
            source="github.com/haotian-liu/LLaVA, docs/Evaluation.md; lmms-eval uses it for NExT-QA and others",
        ),
    )
}


def find_prompt_format(name: str) -> PromptFormat:
    """The prompt format with this name.

    Raises:
        ValueError: no such format.
    """
    if name not in PROMPT_FORMATS:
        raise ValueError(f"prompt format {name!r}, expected one of {', '.join(PROMPT_FORMATS)}")
    return PROMPT_FORMATS[name]


__all__ = ["PROMPT_FORMATS", "PromptFormat", "find_prompt_format"]
