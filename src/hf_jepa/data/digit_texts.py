"""What is said about moving digits: captions, questions and answers, and which of them training never sees."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations as pairs_of
from itertools import product
from typing import NamedTuple

import numpy as np


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = ("left", "right", "up", "down", "up left", "up right", "down left", "down right")
COMBINATIONS = ("seen", "unseen", "all")


class DigitQuestion(NamedTuple):
    """A question about a clip.

    Attributes:
        question: in words.
        answer: the right one of the candidates.
        candidates: all answers that a question of this kind may have.
    """

    question: str
    answer: str
    candidates: tuple[str, ...]


def is_unseen(digit: int, direction: int) -> bool:
    """Whether a digit moves in a direction only where combinations are "unseen": a quarter of all.

    Example:
        >>> [DIRECTIONS[direction] for direction in range(8) if is_unseen(7, direction)]
        ['down', 'down right']
    """
    return (direction - digit) % 4 == 0


def story_caption(digits: Sequence[int], directions: Sequence[int]) -> str:
    """The caption of a clip, always with the smaller digit first, so that equal contents have equal captions.

    Args:
        digits: different ones, 0..9, usually two.
        directions: numbers of `DIRECTIONS`, one for each.

    Example:
        >>> story_caption((8, 2), (0, 2))
        'a two moves up and an eight moves left'
    """
    parts = sorted(zip(digits, directions, strict=True))
    return " and ".join(f"{_with_article(digit)} moves {DIRECTIONS[direction]}" for digit, direction in parts)


def story_captions(combinations: str = "all", num_directions: int = 4, num_digits: int = 2) -> list[str]:
    """All captions there are, in a fixed order: the candidates of a zero-shot classification.

    Args:
        combinations, num_directions, num_digits: see `DigitStories`.

    Example:
        >>> len(story_captions("unseen")), story_captions("unseen")[0]
        (37, 'a zero moves left and a one moves right')
    """
    return [story_caption(*scene.T) for scene in digit_scenes(combinations, num_directions, num_digits)]


def story_questions(digits: Sequence[int], directions: Sequence[int], num_directions: int = 4) -> list[DigitQuestion]:
    """All questions about a clip of n digits: which one moves so (n), what it does (n), whether one is there (10).

    Args:
        digits, directions: as for `story_caption`.
        num_directions: 4 or 8, how many candidates there are.

    Example:
        >>> questions = story_questions((2, 7), (2, 0))
        >>> questions[1].question, questions[1].answer, questions[3].question, questions[3].answer
        ('which digit moves left?', 'seven', 'what does the seven do?', 'moves left')
        >>> questions[7].question, questions[7].answer, questions[7].candidates
        ('is there a three?', 'no', ('yes', 'no'))
    """
    digits, directions = ([int(value) for value in values] for values in (digits, directions))
    moves = tuple(f"moves {direction}" for direction in DIRECTIONS[:num_directions])
    which = [
        DigitQuestion(f"which digit {moves[direction]}?", DIGITS[digit], DIGITS)
        for digit, direction in zip(digits, directions, strict=True)
    ]
    what = [
        DigitQuestion(f"what does the {DIGITS[digit]} do?", moves[direction], moves)
        for digit, direction in zip(digits, directions, strict=True)
    ]
    there = [
        DigitQuestion(f"is there {_with_article(digit)}?", "yes" if digit in digits else "no", ("yes", "no"))
        for digit in range(len(DIGITS))
    ]
    return which + what + there


def choose_question(
    digits: Sequence[int], directions: Sequence[int], uniform: Sequence[float], num_directions: int = 4
) -> DigitQuestion:
    """One question about a clip: which digit moves so, what it does, is it there (yes) or (no), a quarter each.

    Args:
        digits, directions, num_directions: as for `story_questions`.
        uniform: three numbers in [0, 1) that choose.

    Example:
        >>> choose_question((2, 7), (2, 0), (0.9, 0.0, 0.0)).question
        'is there a zero?'
    """
    kind, which = int(uniform[0] * 4), int(uniform[1] * len(digits))
    questions = story_questions(digits, directions, num_directions)
    if kind < 2:
        return questions[len(digits) * kind + which]
    absent = sorted(set(range(len(DIGITS))) - {int(digit) for digit in digits})
    return questions[2 * len(digits) + (int(digits[which]) if kind == 2 else absent[int(uniform[2] * len(absent))])]


def _with_article(digit: int) -> str:
    return f"{'an' if DIGITS[digit] == 'eight' else 'a'} {DIGITS[digit]}"


@lru_cache
def digit_scenes(combinations: str, num_directions: int, num_digits: int = 2) -> np.ndarray:
    """All that may happen in a clip: one digit moves, or two different ones in two different directions.

    Args:
        combinations: "seen", "unseen" or "all" directions of a digit, see `is_unseen`.
        num_directions: 4 or 8.
        num_digits: n, 1 or 2.

    Returns:
        int64 (S, n, 2), (digit, direction), of the smaller digit first; not to be written to.

    Raises:
        ValueError: other combinations, another number.

    Example:
        >>> digit_scenes("unseen", 4).shape, digit_scenes("unseen", 4)[0].tolist()
        ((37, 2, 2), [[0, 0], [1, 1]])
    """
    if combinations not in COMBINATIONS:
        raise ValueError(f"combinations {combinations!r} is not one of {', '.join(COMBINATIONS)}")
    if num_directions not in (4, 8):
        raise ValueError(f"num_directions must be 4 or 8, got {num_directions}")
    if num_digits not in (1, 2):
        raise ValueError(f"num_digits must be 1 or 2, got {num_digits}")
    movers = [
        mover
        for mover in product(range(len(DIGITS)), range(num_directions))
        if combinations == "all" or is_unseen(*mover) == (combinations == "unseen")
    ]
    if num_digits == 1:
        return np.array(movers, np.int64)[:, None]
    return np.array([(a, b) for a, b in pairs_of(movers, 2) if a[0] != b[0] and a[1] != b[1]], np.int64)


__all__ = [
    "COMBINATIONS",
    "DIGITS",
    "DIRECTIONS",
    "DigitQuestion",
    "choose_question",
    "digit_scenes",
    "is_unseen",
    "story_caption",
    "story_captions",
    "story_questions",
]
