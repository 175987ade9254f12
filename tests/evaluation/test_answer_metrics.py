"""Reading free answers: options by letter or text, open answers by normalised text, standard errors over clips."""

import math

import numpy as np
import pytest

from modeling_sen.evaluation.answer_metrics import accuracy_with_error, exact_match, normalise_answer, read_choice

COLOURS = ("red", "blue", "green", "dark red")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(B)", "B"),
        ("B. red", "B"),  # the letter counts, where the prompt asked for one
        ("The answer is B", "B"),
        ("b", "B"),
        ("Option (C) because A is too bright", "C"),
        ("I think it is blue", "B"),
        ("", None),
        ("  \n", None),
        ("A or B", None),
        ("(A) or (B)", None),
        ("A, B and C", None),
        ("A.", "A"),
        ("**B**", "B"),
        ("**B.** blue", "B"),
        ("b) blue", "B"),
        ("(b) blue", "B"),
        ("B: blue", "B"),
        ("B", "B"),
        ("B blue", "B"),
        ("Answer: C", "C"),
        ("the answer is (c).", "C"),
        ("The correct option is D.", "D"),
        ("The best choice is D", "D"),
        ("Option A is wrong. The answer is B.", "B"),
        ("A is correct", "A"),
        ("A because it is bright", "A"),
        ("So I would say C", "C"),
        ("Best option: (D) dark red", "D"),
        ("A red ball moves", "A"),  # by its text: "A" is an article here
        ("The answer is a blue ball", "B"),
        ("dark red", "D"),
        ("Dark red.", "D"),
        ("it is DARK  RED, I believe", "D"),
        ("red and blue", None),
        ("red and blue, so B", "B"),
        ("reddish", None),
        ("E", None),
        ("The answer is E, not blue", None),
        ("I don't know", None),
        ("yellow", None),
        ("the ball(s) move", None),
    ],
)
def test_options_are_read_from_free_text(answer, letter):
    assert read_choice(answer, COLOURS) == (None if letter is None else "ABCD".index(letter))


@pytest.mark.parametrize(
    ("answer", "options", "number"),
    [
        ("B", ("b", "a"), 1),  # a letter before a text of one letter
        ("(A) c", ("c", "b"), 0),
        ("The answer is f", ("h", "b", "f"), 2),  # no option has this letter
        ("A. B", ("B", "A"), 0),
        ("Person B", ("Person B", "Person A"), 0),
        ("It is Person B.", ("Person B", "Person A"), 0),
        ("yes", ("yes", "no"), 0),
        ("No, it is not.", ("yes", "no"), 1),
        ("3", ("2", "3"), 1),
        ("c++", ("c", "c++"), 1),
        ("anything", ("?", "!"), None),
        ("same", ("same", "same"), 0),
    ],
)
def test_texts_that_look_like_letters(answer, options, number):
    assert read_choice(answer, options) == number


def test_without_letters_only_texts_are_read():
    assert read_choice("b", COLOURS, letters=False) is None
    assert read_choice("(A)", COLOURS, letters=False) is None
    assert read_choice("a blue one", COLOURS, letters=False) == 1
    assert read_choice("b", ("a", "b"), letters=False) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("a man, and an apple!", "man and apple"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("don't", "dont"),
        ("well-known\n place", "well known place"),
        ("...", ""),
        ("the", ""),
    ],
)
def test_open_answers_are_normalised(text, expected):
    assert normalise_answer(text) == expected


def test_exact_match_is_of_whole_answers():
    assert exact_match("A brown dog.", "brown dog")
    assert not exact_match("a brown dog", "dog")
    assert not exact_match("", "")
    assert not exact_match("the", "a")


def test_errors_of_single_questions_are_the_usual_ones():
    right = np.random.default_rng(0).random(40) < 0.7
    accuracy, error = accuracy_with_error(right)
    assert accuracy == right.mean()
    assert error == pytest.approx(right.std(ddof=1) / math.sqrt(40))


def test_questions_about_one_clip_are_not_independent():
    """Ten copies of each question tell no more than one: the error is that of the clips."""
    right = np.random.default_rng(1).random(30) < 0.5
    clips = [str(clip) for clip in range(30)]
    once = accuracy_with_error(right, clips)
    tenfold = accuracy_with_error(np.repeat(right, 10), np.repeat(clips, 10))
    assert tenfold == pytest.approx(once)
    assert tenfold[1] > 3 * accuracy_with_error(np.repeat(right, 10))[1]


def test_errors_agree_with_drawn_clips():
    """Against what is drawn: clips with 1 to 5 questions that share a difficulty."""
    draw = np.random.default_rng(2)
    sizes = np.arange(200) % 5 + 1
    clips = np.repeat(np.arange(200).astype(str), sizes)
    found = []
    for _ in range(400):
        easy = np.repeat(draw.random(200), sizes)
        found.append(accuracy_with_error(draw.random(len(easy)) < easy, clips))
    accuracies, errors = np.array(found).T
    assert errors.mean() == pytest.approx(accuracies.std(), rel=0.1)


def test_one_clip_has_no_error():
    accuracy, error = accuracy_with_error([True, False], ["a", "a"])
    assert accuracy == 0.5
    assert math.isnan(error)


@pytest.mark.parametrize(("right", "clips"), [([], None), ([], []), ([True], ["a", "b"])])
def test_inconsistent_numbers_are_errors(right, clips):
    with pytest.raises(ValueError, match="expected a clip for each of at least one question"):
        accuracy_with_error(right, clips)
