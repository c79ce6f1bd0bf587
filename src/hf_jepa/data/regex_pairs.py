"""Pairs of a description and the regular expression that it means, made by a grammar: text and code, no download.

In the spirit of NL-RX (Locascio et al., arXiv 1608.03000), with an own grammar and wording, valid Python `re`, and a
test split that shares neither a description nor a meaning with the training split. `re.fullmatch` is how the
expressions are meant to be used.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise, product
from zlib import crc32

from hf_jepa.data.regex_grammar import ATOMS, FILLER, Condition, Pick, Word, draw_condition, filler, wording
from hf_jepa.data.regex_matching import Lines, UndecidedPattern, match_lines
from hf_jepa.data.transforms import sample_rng


SYSTEM_PROMPT = "Write the regular expression."
TEST_SHARE = 5  # one meaning in so many is for testing
VERSIONS = 5  # wordings per group of paraphrases
PATIENCE = 100  # draws per entry before the grammar is taken to have no more
PAIRS, PARAPHRASES, STRINGS = 0, 10, 20  # what random numbers are for; the depth is added


@dataclass(frozen=True)
class RegexPair:
    """A description of lines and the regular expression that fits exactly these lines.

    Attributes:
        description: in words.
        regex: for `re.fullmatch`.
        expression: the tree of the grammar, which knows what it means without `regex`.
        index: number of the draw, from 0.
    """

    description: str
    regex: str
    expression: Condition = field(repr=False)
    index: int = field(repr=False)


def _pick(seed: int, stream: int, index: int) -> Pick:
    rng = sample_rng(seed, stream, index)
    return lambda options: options[int(rng.random() * len(options))]


@lru_cache(maxsize=1)
def probe_lines() -> Lines:
    """The fixed lines on which meanings are compared: runs of characters and words, one to three in a line.

    Example:
        >>> len(probe_lines().lines) > 5000 and "kitekite777" in probe_lines().lines
        True
    """
    kinds = ("7", "k", "e", "Q", "A", ",", "-", *(atom.text for atom in ATOMS if isinstance(atom, Word)))
    runs = [kind * times for kind in kinds for times in range(1, 5)]
    pairs = ["".join(pair) for pair in product(runs, ["", *runs])]
    longest = [kind * 4 for kind in kinds]
    return Lines(["", *pairs, *map("".join, product(longest, repeat=3))])


def _meaning(expression: Condition) -> int:
    """Which probe lines are meant, as bits: the same for expressions of the same meaning, however they are written."""
    return expression.lines(probe_lines())


def _expressions(split: str, seed: int, depth: int, most: int) -> Iterator[tuple[int, Condition, Pick]]:
    """The draws of a split, endlessly: number, expression, and the random numbers for its wording.

    Left out are expressions that say nothing, contradict themselves or say no more than one of their halves.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is not one of train, test")
    if depth not in (1, 2, 3):
        raise ValueError(f"depth must be 1, 2 or 3, got {depth!r}")
    if most < 1:
        raise ValueError(f"count must be positive, got {most}")
    empty = (0, probe_lines().last)
    for index in range(1000 + PATIENCE * most):
        pick = _pick(seed, PAIRS + depth, index)
        expression = draw_condition(pick, depth)
        meaning = _meaning(expression)
        if meaning in empty or meaning in map(_meaning, expression.halves):
            continue
        # Equal meanings have equal bits and so always meet in the same split.
        bits = meaning.to_bytes((meaning.bit_length() + 7) // 8, "little")
        if (crc32(bits) % TEST_SHARE == 0) == (split == "test"):
            yield index, expression, pick
    raise ValueError(
        f"depth {depth} has fewer than {most} distinct entries in split {split!r}: ask for less or go deeper"
    )


def draw_regex_pairs(split: str, count: int, seed: int = 0, depth: int = 2) -> list[RegexPair]:
    """The first pairs of an endless sequence, in which no description occurs twice.

    Draw `index` is a pure function of (seed, depth, index), and a longer list begins with the shorter one. Splits are
    told apart by meaning: which of the thousands of `probe_lines` an expression accepts. So no training expression of
    any seed or depth means the same as a test expression, and none has its description.

    Args:
        split: "train" or "test"; one meaning in five is for testing.
        count: of pairs.
        seed: of the draws.
        depth: at most 1, one condition on simple pieces; 2, one on composed pieces, or two simple ones joined; 3, two
            on composed pieces.

    Raises:
        ValueError: another split or depth, a count below 1 or beyond what the depth has.

    Example:
        >>> pair = draw_regex_pairs("train", 3)[2]
        >>> pair.description
        "find lines that have 'fox' before an alphabetic character three to four times in a row"
        >>> pair.regex
        '.*fox.*[A-Za-z]{3,4}.*'
    """
    pairs: dict[str, RegexPair] = {}
    for index, expression, pick in _expressions(split, seed, depth, count):
        description = wording(expression, pick)
        pairs.setdefault(description, RegexPair(description, expression.regex, expression, index))
        if len(pairs) == count:
            break
    return list(pairs.values())


def regex_pairs(
    split: str, count: int, seed: int = 0, depth: int = 2, system_prompt: str | None = SYSTEM_PROMPT
) -> list[dict]:
    """Conversations in which a user describes lines and the assistant answers with the regular expression.

    Args:
        split, count, seed, depth: as for `draw_regex_pairs`.
        system_prompt: first message of each conversation; None for none.

    Returns:
        list of `{"messages": [system, user, assistant]}`, each message `{"role": ..., "content": ...}`.

    Raises:
        ValueError: as `draw_regex_pairs`.

    Example:
        >>> [message["role"] for message in regex_pairs("test", 1)[0]["messages"]]
        ['system', 'user', 'assistant']
    """
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [
        {"messages": [*system, *_turns(pair.description, pair.regex)]}
        for pair in draw_regex_pairs(split, count, seed, depth)
    ]


def _turns(user: str, assistant: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def regex_paraphrases(split: str, groups: int, seed: int = 0, depth: int = 2) -> list[dict]:
    """Conversations in which each wording of an expression is answered with the next one: no regular expressions.

    As in the paraphrase pretraining of LLM-JEPA (arXiv 2509.14252, section 4.1): five wordings per group, version i
    answered with version i + 1, so four conversations per group.

    Args:
        split, seed, depth: as for `draw_regex_pairs`.
        groups: of wordings; no two groups have the same expression.

    Returns:
        list of 4 * groups `{"messages": [user, assistant]}`, those of a group one after the other.

    Raises:
        ValueError: as `draw_regex_pairs`.

    Example:
        >>> first, second = regex_paraphrases("train", 1)[:2]
        >>> first["messages"][1]["content"] == second["messages"][0]["content"]
        True
    """
    versions: dict[str, list[str]] = {}
    for index, expression, _ in _expressions(split, seed, depth, groups):
        if expression.regex not in versions:
            pick, wordings = _pick(seed, PARAPHRASES + depth, index), {}
            while len(wordings) < VERSIONS:
                wordings[wording(expression, pick)] = None
            versions[expression.regex] = list(wordings)
        if len(versions) == groups:
            break
    return [{"messages": _turns(*pair)} for group in versions.values() for pair in pairwise(group)]


def verification_strings(pair: RegexPair) -> tuple[list[str], list[str]]:
    """Lines that the regular expression of a pair must match, and lines that it must not.

    They are made from the tree of the expression and sorted by what the tree means, without looking at the regular
    expression: lines built to fit, the same with a character dropped, doubled or replaced, and random ones.

    Returns:
        (matching, rejected), both non-empty, about 40 together.

    Example:
        >>> pair = draw_regex_pairs("train", 1)[0]
        >>> matching, rejected = verification_strings(pair)
        >>> all(re.fullmatch(pair.regex, line) for line in matching)
        True
    """
    pick = _pick(crc32(pair.description.encode()), STRINGS, pair.index)
    built = [pair.expression.sample(pick) for _ in range(10)]
    near = []
    for line in filter(None, built):
        at = pick(range(len(line)))
        near += [line[:at] + middle + line[at + 1 :] for middle in ("", line[at] * 2, pick(FILLER))]
    candidates = list(dict.fromkeys([*built, *near, filler(pick), filler(pick)]))
    lines = Lines(candidates)
    meant = lines.chosen(pair.expression.lines(lines))
    matching = [line for line, fits in zip(candidates, meant, strict=True) if fits]
    rejected = [line for line, fits in zip(candidates, meant, strict=True) if not fits]
    if not (matching and rejected):  # every expression accepts a probe line and rejects another
        lacking = bool(rejected)
        meant = probe_lines().chosen(_meaning(pair.expression))
        probes = [line for line, fits in zip(probe_lines().lines, meant, strict=True) if fits == lacking]
        (matching if lacking else rejected).extend(probes[:10])
    return matching, rejected


def verify(pair: RegexPair) -> int:
    """Check the regular expression of a pair with `re.fullmatch` on its verification strings.

    Returns:
        how many strings were checked.

    Raises:
        ValueError: the expression is wrong about a string, which is named.

    Example:
        >>> verify(draw_regex_pairs("test", 1)[0]) > 20
        True
    """
    compiled = re.compile(pair.regex)
    matching, rejected = verification_strings(pair)
    for lines, wanted in ((matching, True), (rejected, False)):
        for line in lines:
            if (compiled.fullmatch(line) is not None) != wanted:
                verb = "match" if wanted else "reject"
                raise ValueError(f"{pair.regex!r} must {verb} {line!r}: {pair.description!r}")
    return len(matching) + len(rejected)


def equivalent(generated: str, reference: str, lines: Lines | Sequence[str] | None = None) -> bool:
    """Whether two regular expressions decide alike about many lines: a score beside exact match.

    Decided by `match_lines`, so that no expression, however unlucky, can hang an evaluation.

    Args:
        generated: what a model wrote. Invalid or undecidable (see `match_lines`): not equivalent.
        reference: the right expression.
        lines: to try them on; None for `probe_lines`, which suit the expressions of `regex_pairs`.

    Raises:
        UndecidedPattern: a reference that cannot be decided.

    Example:
        >>> equivalent(".*[0-9].*", "(.*[0-9]){1,}.*"), equivalent("[0-9].*", ".*[0-9]"), equivalent("(", "a")
        (True, False, False)
    """
    if lines is None:
        lines = probe_lines()
    elif not isinstance(lines, Lines):
        lines = Lines(lines)
    wanted = match_lines(reference, lines)
    if generated == reference:
        return True
    try:
        return match_lines(generated, lines) == wanted
    except UndecidedPattern:
        return False


__all__ = [
    "RegexPair",
    "draw_regex_pairs",
    "equivalent",
    "probe_lines",
    "regex_pairs",
    "regex_paraphrases",
    "verification_strings",
    "verify",
]
