"""The grammar of descriptions of lines: every expression knows its regex, its wordings and which lines it means.

What an expression means (`lines`) is computed from the tree with sets of positions and never looks at `regex`, so that
each can be checked with the other.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_jepa.data.regex_matching import Lines


Pick = Callable[[Sequence], object]  # chooses one of several wordings or numbers

FILLER = string.ascii_letters + string.digits + ",-_ ."
SUBJECTS = ("lines that", "all lines that", "find lines that", "the lines that", "match lines that")
NUMBERS = {2: "two", 3: "three", 4: "four"}
COUNTS = {number: str(number) for number in NUMBERS}


class Unit(Protocol):
    """A piece of a line."""

    regex: str

    def describe(self, pick: Pick) -> str: ...

    def reach(self, lines: Lines, positions: int) -> int:
        """Where pieces end that begin at one of these positions."""

    def sample(self, pick: Pick) -> str: ...


@dataclass(frozen=True)
class CharacterClass:
    """One character of several."""

    regex: str
    members: str
    nouns: tuple[str, ...]

    def describe(self, pick: Pick) -> str:
        noun = pick(self.nouns)
        return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"

    def many(self, count: str, pick: Pick) -> str:
        return f"{count} {pick(self.nouns)}s"

    def reach(self, lines: Lines, positions: int) -> int:
        return (positions & lines.among(self.members)) << 1

    def sample(self, pick: Pick) -> str:
        return pick(self.members)


@dataclass(frozen=True)
class Word:
    """A literal word."""

    text: str

    @property
    def regex(self) -> str:
        return self.text

    def describe(self, pick: Pick) -> str:
        return pick((f"the word {self.text}", f"the string {self.text}", f"'{self.text}'"))

    def many(self, count: str, pick: Pick) -> str:
        return f"{count} copies of {self.describe(pick)}"

    def reach(self, lines: Lines, positions: int) -> int:
        for character in self.text:
            positions = (positions & lines.among(character)) << 1
        return positions

    def sample(self, pick: Pick) -> str:
        return self.text


ATOMS = (
    CharacterClass("[0-9]", string.digits, ("digit", "numeral")),
    CharacterClass("[a-z]", string.ascii_lowercase, ("lowercase letter", "small letter")),
    CharacterClass("[A-Z]", string.ascii_uppercase, ("uppercase letter", "capital letter", "capital")),
    CharacterClass("[A-Za-z]", string.ascii_letters, ("letter", "alphabetic character")),
    CharacterClass("[AEIOUaeiou]", "AEIOUaeiou", ("vowel",)),
    CharacterClass(",", ",", ("comma",)),
    CharacterClass("-", "-", ("hyphen", "dash")),
    *map(Word, ("fox", "moss", "kite", "bell", "rain", "oak", "jump", "velvet")),
)


@dataclass(frozen=True)
class Repeat:
    """An atom several times in a row; `most` is `least` for an exact number and None without a limit."""

    atom: CharacterClass | Word
    least: int
    most: int | None

    @property
    def regex(self) -> str:
        repeated = f"({self.atom.regex})" if isinstance(self.atom, Word) else self.atom.regex
        most = "" if self.most is None else self.most
        return f"{repeated}{{{self.least}}}" if self.least == self.most else f"{repeated}{{{self.least},{most}}}"

    def describe(self, pick: Pick) -> str:
        numbers = pick((COUNTS, NUMBERS))
        least = numbers[self.least]
        if self.most is None:
            count = pick((f"{least} or more", f"at least {least}", f"no fewer than {least}"))
        elif self.most == self.least:
            count = least
        else:
            count = f"{least} to {numbers[self.most]}"
        return pick((f"{self.atom.many(count, pick)} in a row", f"{self.atom.describe(pick)} {count} times in a row"))

    def reach(self, lines: Lines, positions: int) -> int:
        for _ in range(self.least):
            positions = self.atom.reach(lines, positions)
        reached, more = positions, 0
        while positions and (self.most is None or self.least + more < self.most):
            positions, more = self.atom.reach(lines, positions), more + 1
            reached |= positions
        return reached

    def sample(self, pick: Pick) -> str:
        times = pick(range(self.least, (self.most or self.least + 2) + 1))
        return "".join(self.atom.sample(pick) for _ in range(times))


@dataclass(frozen=True)
class Either:
    """One of two pieces."""

    one: Unit
    other: Unit

    @property
    def regex(self) -> str:
        return f"({self.one.regex}|{self.other.regex})"

    def describe(self, pick: Pick) -> str:
        one, other = self.one.describe(pick), self.other.describe(pick)
        return pick((f"either {one} or {other}", f"{one} or {other}", f"{one} or alternatively {other}"))

    def reach(self, lines: Lines, positions: int) -> int:
        return self.one.reach(lines, positions) | self.other.reach(lines, positions)

    def sample(self, pick: Pick) -> str:
        return pick((self.one, self.other)).sample(pick)


@dataclass(frozen=True)
class Then:
    """Two pieces without anything between them."""

    one: Unit
    other: Unit

    @property
    def regex(self) -> str:
        return self.one.regex + self.other.regex

    def describe(self, pick: Pick) -> str:
        one, other = self.one.describe(pick), self.other.describe(pick)
        links = ("directly followed by", "immediately before", "and right after it")
        return f"{one} {pick(links)} {other}"

    def reach(self, lines: Lines, positions: int) -> int:
        return self.other.reach(lines, self.one.reach(lines, positions))

    def sample(self, pick: Pick) -> str:
        return self.one.sample(pick) + self.other.sample(pick)


class Condition:
    """What a line is asked for.

    Attributes:
        regex: fits the whole line.
        head: fits at the beginning of exactly the lines that fulfil the condition; only of those that join no others.
        halves: the two conditions of a joined one.
    """

    regex: str
    halves: tuple["Condition", ...] = ()

    def describe(self, pick: Pick) -> str:
        raise NotImplementedError

    def lines(self, lines: Lines) -> int:
        """The last positions of the lines that fulfil it."""
        raise NotImplementedError

    def sample(self, pick: Pick) -> str:
        """A line that likely fulfils it."""
        raise NotImplementedError


def filler(pick: Pick) -> str:
    """Up to 4 random characters."""
    return "".join(pick(FILLER) for _ in range(pick(range(5))))


@dataclass(frozen=True)
class Placed(Condition):
    """A piece at the start, at the end, anywhere or as the whole of a line."""

    place: str  # "start", "end", "anywhere" or "whole"
    unit: Unit

    _WORDINGS = {
        "start": ("start with {}", "begin with {}", "have {} at the start"),
        "end": ("end with {}", "finish with {}", "have {} at the end"),
        "anywhere": ("contain {}", "include {}", "have {} somewhere"),
        "whole": ("are exactly {}", "are as a whole {}", "are just {}"),
    }

    @property
    def regex(self) -> str:
        before, after = self._anything(".*", ".*")
        return before + self.unit.regex + after

    def _anything(self, before: str, after: str) -> tuple[str, str]:
        """What may stand before and after the piece, empty where the place forbids it."""
        return "" if self.place in ("start", "whole") else before, "" if self.place in ("end", "whole") else after

    @property
    def head(self) -> str:
        return f"{self.regex}$" if self.place in ("end", "whole") else self.regex.removesuffix(".*")

    def describe(self, pick: Pick) -> str:
        return pick(self._WORDINGS[self.place]).format(self.unit.describe(pick))

    def lines(self, lines: Lines) -> int:
        reached = self.unit.reach(lines, lines.first if self.place in ("start", "whole") else lines.positions)
        return (reached if self.place in ("end", "whole") else lines.after(reached)) & lines.last

    def sample(self, pick: Pick) -> str:
        before, after = self._anything(filler(pick), filler(pick))
        return before + self.unit.sample(pick) + after


@dataclass(frozen=True)
class Not(Condition):
    """A line without a piece at that place."""

    condition: Placed

    _WORDINGS = {
        "start": ("do not start with {}", "do not begin with {}", "never start with {}"),
        "end": ("do not end with {}", "do not finish with {}", "never end with {}"),
        "anywhere": ("do not contain {}", "do not include {}", "never contain {}"),
    }

    @property
    def head(self) -> str:
        return f"(?!{self.condition.head})"

    @property
    def regex(self) -> str:
        return f"{self.head}.*"

    def describe(self, pick: Pick) -> str:
        return pick(self._WORDINGS[self.condition.place]).format(self.condition.unit.describe(pick))

    def lines(self, lines: Lines) -> int:
        return lines.last ^ self.condition.lines(lines)

    def sample(self, pick: Pick) -> str:
        return filler(pick)


@dataclass(frozen=True)
class Before(Condition):
    """A piece, and another one anywhere after its end."""

    one: Unit
    other: Unit

    @property
    def head(self) -> str:
        return f".*{self.one.regex}.*{self.other.regex}"

    @property
    def regex(self) -> str:
        return f"{self.head}.*"

    def describe(self, pick: Pick) -> str:
        one, other = self.one.describe(pick), self.other.describe(pick)
        return pick((f"have {one} before {other}", f"contain {one} and later {other}", f"have {other} after {one}"))

    def lines(self, lines: Lines) -> int:
        reached = lines.after(self.one.reach(lines, lines.positions))
        return lines.after(self.other.reach(lines, reached)) & lines.last

    def sample(self, pick: Pick) -> str:
        pieces = (filler(pick), self.one.sample(pick), filler(pick), self.other.sample(pick), filler(pick))
        return "".join(pieces)


@dataclass(frozen=True)
class Times(Condition):
    """An atom a number of times in the line, wherever: at least so often, or exactly (character classes only)."""

    atom: CharacterClass | Word
    count: int
    exact: bool

    @property
    def regex(self) -> str:
        if not self.exact:
            return f"{self.head}.*"
        other = f"[^{self.atom.regex.strip('[]')}]*"
        return f"({other}{self.atom.regex}){{{self.count}}}{other}"

    @property
    def head(self) -> str:
        return f"{self.regex}$" if self.exact else f"(.*{self.atom.regex}){{{self.count}}}"

    def describe(self, pick: Pick) -> str:
        number, atom = pick((COUNTS, NUMBERS))[self.count], self.atom.describe(pick)
        if self.exact:
            count = pick((f"exactly {number}", f"precisely {number}"))
            return pick((f"contain {self.atom.many(count, pick)} in all", f"contain {atom} {count} times in all"))
        count = pick((f"at least {number}", f"{number} or more"))
        return pick((f"contain {atom} {count} times", f"have {atom} in {count} places"))

    def lines(self, lines: Lines) -> int:
        reached = lines.positions
        for _ in range(self.count):
            reached = lines.after(self.atom.reach(lines, reached))
        more = lines.after(self.atom.reach(lines, reached)) if self.exact else 0
        return reached & ~more & lines.last

    def sample(self, pick: Pick) -> str:
        return "".join(filler(pick) + self.atom.sample(pick) for _ in range(self.count)) + filler(pick)


@dataclass(frozen=True)
class And(Condition):
    """Two conditions at once."""

    one: Condition
    other: Condition

    @property
    def regex(self) -> str:
        ahead = self.one.head if isinstance(self.one, Not) else f"(?={self.one.head})"
        return ahead + self.other.regex

    def describe(self, pick: Pick) -> str:
        one, other = self.one.describe(pick), self.other.describe(pick)
        return pick((f"{one} and that {other}", f"{one} and that also {other}"))

    @property
    def halves(self) -> tuple[Condition, Condition]:
        return self.one, self.other

    def lines(self, lines: Lines) -> int:
        return self.one.lines(lines) & self.other.lines(lines)

    def sample(self, pick: Pick) -> str:
        first, second = pick(((self.one, self.other), (self.other, self.one)))
        return first.sample(pick) + second.sample(pick)


@dataclass(frozen=True)
class Or(Condition):
    """At least one of two conditions."""

    one: Condition
    other: Condition

    @property
    def regex(self) -> str:
        return f"({self.one.regex}|{self.other.regex})"

    def describe(self, pick: Pick) -> str:
        one, other = self.one.describe(pick), self.other.describe(pick)
        return pick((f"{one} or that {other}", f"{one} or else that {other}"))

    @property
    def halves(self) -> tuple[Condition, Condition]:
        return self.one, self.other

    def lines(self, lines: Lines) -> int:
        return self.one.lines(lines) | self.other.lines(lines)

    def sample(self, pick: Pick) -> str:
        return pick((self.one, self.other)).sample(pick)


def wording(condition: Condition, pick: Pick) -> str:
    """One description of the lines that fulfil a condition."""
    return f"{pick(SUBJECTS)} {condition.describe(pick)}"


REPEATS = ((2, 2), (3, 3), (4, 4), (2, None), (3, None), (4, None), (2, 3), (2, 4), (3, 4))


def draw_unit(pick: Pick, depth: int) -> Unit:
    """A random piece: an atom, perhaps repeated; from depth 2 on also one or the other or one after the other."""
    kind = pick(("simple", "simple", Either, Then)) if depth > 1 else "simple"
    if kind != "simple":
        one = draw_unit(pick, 1)
        while (other := draw_unit(pick, 1)) == one:
            pass
        return kind(one, other)
    atom = pick(ATOMS)
    return Repeat(atom, *pick(REPEATS)) if pick((True, False)) else atom


def draw_condition(pick: Pick, depth: int) -> Condition:
    """A random condition of at most a depth, which `draw_regex_pairs` explains."""
    if depth > 1 and pick((True, False)):
        return pick((And, Or))(draw_simple(pick, depth - 1), draw_simple(pick, depth - 1))
    return draw_simple(pick, depth)


def draw_simple(pick: Pick, depth: int) -> Condition:
    """A random condition that joins no others."""
    kind = pick(("start", "end", "anywhere", "start", "end", "anywhere", "whole", "not", "before", "before", "times"))
    if kind == "before":
        return Before(draw_unit(pick, 1), draw_unit(pick, 1))
    if kind == "times":
        atom = pick(ATOMS)
        return Times(atom, pick(tuple(NUMBERS)), exact=isinstance(atom, CharacterClass) and pick((True, False)))
    if kind == "not":
        return Not(Placed(pick(("start", "end", "anywhere")), draw_unit(pick, depth)))
    return Placed(kind, draw_unit(pick, depth))


__all__ = ["ATOMS", "Condition", "Pick", "Word", "draw_condition", "filler", "wording"]
