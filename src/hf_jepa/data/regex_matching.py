r"""Which of many lines a regular expression accepts, decided in bounded time: for expressions that a model wrote.

`re` may backtrack for years on an expression such as `(a*)*b` and cannot be interrupted. Here an expression is
followed backwards through all lines at once: a set of positions is one integer with a bit per position, so that a step
costs a few operations on integers, and an expression that needs too many steps is refused. Nothing is random or timed:
the same expression gets the same answer on every machine.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import accumulate


MAX_PATTERN = 256  # characters; also bounds how deep groups nest
MAX_STEPS = 5_000  # operations on sets of positions


class UndecidedPattern(ValueError):
    """An expression that is invalid, needs too many steps or uses what `match_lines` does not know."""


class Lines:
    """Sets of positions in many lines as integers, one bit per position.

    A line of n characters has the positions 0..n, followed by one bit that is never set.

    Args:
        lines: strings without line breaks and zero characters.

    Raises:
        ValueError: a line that holds one of those.

    Example:
        >>> lines = Lines(["fox7", "7", "fox"])
        >>> lines.chosen(lines.after(lines.where(str.isdigit)))
        [True, True, False]
    """

    def __init__(self, lines: Iterable[str]):
        self.lines = tuple(lines)
        for line in self.lines:
            if "\n" in line or "\0" in line:
                raise ValueError(f"a line must not hold a line break or a zero character, got {line!r}")
        self._text = "".join(f"{line}\n\0" for line in self.lines)
        self._ends = [end - 2 for end in accumulate(len(line) + 2 for line in self.lines)]
        self._known: dict[str, int] = {}
        self.last = self.among("\n")
        gaps = self.among("\0")
        self.positions = ((1 << len(self._text)) - 1) & ~gaps
        self.first = (gaps << 1 | 1) & self.positions
        self.characters = set(self._text) - {"\n", "\0"}

    def among(self, members: str) -> int:
        """The positions whose character is one of `members`; remembered."""
        if members not in self._known:
            table = dict.fromkeys(map(ord, set(self._text)), "0") | dict.fromkeys(map(ord, members), "1")
            self._known[members] = int(self._text.translate(table)[::-1] or "0", 2)
        return self._known[members]

    def where(self, condition: Callable[[str], bool]) -> int:
        """The positions whose character fulfils a condition."""
        found = 0
        for character in filter(condition, self.characters):
            found |= self.among(character)
        return found

    def through(self, positions: int, passable: int) -> int:
        """Where one comes from `positions` over any number of characters at `passable` positions."""
        # A carry runs through a stretch of ones and changes them all (Cameron et al., "Bitwise data parallelism in
        # regular expression matching"); no stretch goes beyond its line, whose last position has no character.
        return ((positions & passable) + passable) ^ passable | positions

    def after(self, positions: int) -> int:
        """These positions and all later ones of their lines."""
        return self.through(positions, self.positions ^ self.last)

    @cached_property
    def mirrored(self) -> "Lines":
        """The same lines, each written backwards."""
        return Lines(line[::-1] for line in self.lines)

    def chosen(self, ends: int) -> list[bool]:
        """Per line, whether its last position is in a set."""
        marks = bin(ends | 1 << len(self._text))[:2:-1]  # the highest one keeps leading zeros
        return [marks[end] == "1" for end in self._ends]


def _parse(pattern: str) -> tuple:
    """The tree of an expression that `re` has accepted, as nested tuples whose first element says what they are."""
    at = 0

    def alternatives() -> tuple:
        nonlocal at
        branches = [sequence()]
        while pattern.startswith("|", at):
            at += 1
            branches.append(sequence())
        return branches[0] if len(branches) == 1 else ("either", *branches)

    def sequence() -> tuple:
        parts = []
        while at < len(pattern) and pattern[at] not in "|)":
            parts.append(quantified(atom()))
        return parts[0] if len(parts) == 1 else ("then", *parts)

    def atom() -> tuple:
        nonlocal at
        character = pattern[at]
        if character == "(":
            opening = re.compile(r"\((\?:|\?=|\?!|(?!\?))").match(pattern, at)
            if opening is None:
                raise UndecidedPattern(f"unknown kind of group at character {at} of {pattern!r}")
            at = opening.end()
            inner = alternatives()
            at += 1
            return {"?=": ("ahead", inner), "?!": ("not_ahead", inner)}.get(opening[1], inner)
        if character in "^$":
            at += 1
            return ("first",) if character == "^" else ("last",)
        # `re` itself says which characters a class or an escape means: on one character it cannot backtrack.
        one = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[dDwWsS]|\\[^0-9A-Za-z]|[^\\]").match(pattern, at)
        if one is None:
            raise UndecidedPattern(f"unknown escape at character {at} of {pattern!r}")
        at = one.end()
        return ("one", one[0])

    def quantified(part: tuple) -> tuple:
        nonlocal at
        while times := re.compile(r"([*+?]|\{(?=[0-9,]+\})([0-9]*)(,?)([0-9]*)\})([?+]?)").match(pattern, at):
            if times[5] == "+":
                raise UndecidedPattern(f"possessive repetition at character {at} of {pattern!r}")
            at = times.end()
            if times[1] in ("*", "+", "?"):
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[times[1]]
            else:
                least = int(times[2] or 0)
                most = least if not times[3] else int(times[4]) if times[4] else None
            part = ("repeat", part, least, most)
        return part

    return alternatives()


class _Backwards:
    """`starts(node, goals)`: the positions from which a node can reach one of `goals`.

    From the end to the start, so that a node can ask what follows (lookahead). On mirrored lines, where a step back is
    a step forward.
    """

    def __init__(self, mirrored: Lines):
        self.lines = mirrored
        self.masks: dict[str, int] = {}
        self.known: dict[tuple[int, int], int] = {}  # (node, goals): what nested repetitions ask for again and again
        self.steps = 0

    def starts(self, node: tuple, goals: int) -> int:
        key = (id(node), goals)
        if key not in self.known:
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise UndecidedPattern(f"the expression needs more than {MAX_STEPS} steps")
            self.known[key] = getattr(self, node[0])(goals, *node[1:])
        return self.known[key]

    def mask(self, text: str) -> int:
        if text not in self.masks:
            self.masks[text] = self.lines.where(re.compile(text).fullmatch)
        return self.masks[text]

    def one(self, goals: int, text: str) -> int:
        return (goals & self.mask(text)) << 1

    def then(self, goals: int, *parts: tuple) -> int:
        for part in reversed(parts):
            goals = self.starts(part, goals)
        return goals

    def either(self, goals: int, *branches: tuple) -> int:
        found = 0
        for branch in branches:
            found |= self.starts(branch, goals)
        return found

    def repeat(self, goals: int, part: tuple, least: int, most: int | None) -> int:
        for _ in range(least):
            before, goals = goals, self.starts(part, goals)
            if goals == before:
                break
        if part[0] == "one" and most is None:
            return self.lines.through(goals, self.mask(part[1]))
        found, extra = goals, 0
        while most is None or extra < most - least:
            goals = self.starts(part, found) | found
            if goals == found:
                break
            found, extra = goals, extra + 1
        return found

    def ahead(self, goals: int, inner: tuple) -> int:
        return goals & self.starts(inner, self.lines.positions)

    def not_ahead(self, goals: int, inner: tuple) -> int:
        return goals & ~self.starts(inner, self.lines.positions)

    def first(self, goals: int) -> int:
        return goals & self.lines.last

    def last(self, goals: int) -> int:
        return goals & self.lines.first


def match_lines(pattern: str, lines: Lines) -> list[bool]:
    """Whether an expression matches each line as a whole: `re.fullmatch`, but always in bounded time.

    Args:
        pattern: a regular expression of `re` made of characters, classes, escapes of classes and punctuation, groups,
            alternatives, repetitions, lookahead, ^ and $.
        lines: what it is tried on.

    Returns:
        one decision per line.

    Raises:
        UndecidedPattern: invalid, longer than 256 characters, other syntax, or too many steps.

    Example:
        >>> match_lines("(?!.*fox).*[0-9]{2}", Lines(["cat12", "fox12", "cat1"]))
        [True, False, False]
        >>> match_lines("(a*)*b", Lines(["a" * 1000]))  # `re.fullmatch` would not come back
        [False]
    """
    if len(pattern) > MAX_PATTERN:
        raise UndecidedPattern(f"the expression has {len(pattern)} characters, more than {MAX_PATTERN}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes that may get another meaning one day
            re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise UndecidedPattern(f"invalid expression {pattern!r}: {error}") from error
    mirrored = lines.mirrored
    return mirrored.chosen(_Backwards(mirrored).starts(_parse(pattern), mirrored.first))


__all__ = ["Lines", "UndecidedPattern", "match_lines"]
