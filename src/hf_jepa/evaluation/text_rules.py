"""The rules by which a generated text is the right answer: as they should be, and as the official code has them.

All compare text as it is. Names that start with `official_` give the verdicts of the code of LLM-JEPA (2509.14252),
the others accept no answer for a wrong reason.
"""

import re
from decimal import Decimal


_LAST_LINE = re.compile(r"\n#### (.+)$")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")


def exact_match(generated: str, reference: str) -> bool:
    """Whether both are the same text, to the last blank.

    Example:
        >>> exact_match("(a)|(b)", "(a)|(b)"), exact_match("(b)|(a)", "(a)|(b)")
        (True, False)
    """
    return generated == reference


def prefix_match(generated: str, reference: str) -> bool:
    """Whether the text starts with the reference, as a word of its own: for models that do not stop.

    Example:
        >>> prefix_match("Good movie", "Good"), prefix_match("Goodness", "Good"), prefix_match("anything", "")
        (True, False, False)
    """
    if not generated.startswith(reference) or not reference:
        return False
    return re.match(r"\w\w", generated[len(reference) - 1 :]) is None


def official_prefix_match(generated: str, reference: str) -> bool:
    """Whether the text starts with the reference, if only as part of a word."""
    return generated.startswith(reference)


def gsm8k_match(generated: str, reference: str) -> bool:
    """Whether both end in a line `#### ANSWER`, not the first line, and the answers are the same text.

    Numbers are not read, so 1,300 is not 1300, as in the official code: see `gsm8k_number_match`.

    Example:
        >>> gsm8k_match("16 - 3 = 13\\n#### 13", "...\\n#### 13"), gsm8k_match("#### 13", "...\\n#### 13")
        (True, False)
    """
    line = _last_line(generated)
    return line is not None and line == _last_line(reference)


def official_gsm8k_match(generated: str, reference: str) -> bool:
    """As `gsm8k_match`, but two texts without such a line are equal."""
    return _last_line(generated) == _last_line(reference)


def gsm8k_number_match(generated: str, reference: str) -> bool:
    """Whether both end in a line `#### NUMBER` and the numbers are equal: 1,300, $1300 and 1300.0 are.

    The usual reading of GSM8K (2110.14168), which the official code of LLM-JEPA does not have. Signs of currency,
    units and a full stop around the number are passed over; a line with several numbers is none.

    Example:
        >>> gsm8k_number_match("...\\n#### $1,300.", "...\\n#### 1300"), gsm8k_number_match("13", "...\\n#### 13")
        (True, False)
    """
    number = _last_number(generated)
    return number is not None and number == _last_number(reference)


def _last_line(text: str) -> str | None:
    match = _LAST_LINE.search(text)
    return None if match is None else match[1]


def _last_number(text: str) -> Decimal | None:
    numbers = _NUMBER.findall(_last_line(text) or "")
    return Decimal(numbers[0].replace(",", "")) if len(numbers) == 1 else None


def nq_match(generated: str, reference: str) -> bool:
    """Whether any of the answers given (joined by "; ") is one of the reference answers, which are joined likewise.

    Example:
        >>> nq_match("Oslo; Roma", "Rome; Roma"), nq_match("R", "Rome; Roma"), nq_match("Rome Italy", "Rome")
        (True, False, False)
    """
    return not {answer for answer in generated.split("; ") if answer}.isdisjoint(reference.split("; "))


def official_nq_match(generated: str, reference: str) -> bool:
    """Whether any of the answers given occurs anywhere in the reference text, if only as a letter, or is empty."""
    return any(answer in reference for answer in generated.split("; "))


def nq_paper_match(generated: str, reference: str) -> bool:
    """Whether one of the reference answers occurs in the text, as whole words: what the paper says of NQ-Open.

    The official code looks the other way round, see `official_nq_match`.

    Example:
        >>> nq_paper_match("It is Rome, Italy", "Roma; Rome"), nq_paper_match("Romeo", "Rome")
        (True, False)
    """
    answers = [re.escape(answer) for answer in reference.split("; ") if answer]
    return any(re.search(rf"(?<!\w){answer}(?!\w)", generated) for answer in answers)


__all__ = ["exact_match", "gsm8k_match", "gsm8k_number_match", "nq_match", "nq_paper_match", "official_gsm8k_match"]
__all__ += ["official_nq_match", "official_prefix_match", "prefix_match"]
