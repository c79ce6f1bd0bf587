"""Pairs of description and regular expression: meaning, wording and `re` agree; splits share nothing; no hang."""

import re
import time
from contextlib import suppress
from functools import cache
from itertools import pairwise

import pytest

from hf_jepa.data import regex_grammar as grammar
from hf_jepa.data import regex_matching
from hf_jepa.data import regex_pairs as module
from hf_jepa.data.regex_matching import Lines, UndecidedPattern, match_lines
from hf_jepa.data.regex_pairs import (
    RegexPair,
    draw_regex_pairs,
    equivalent,
    probe_lines,
    regex_pairs,
    regex_paraphrases,
    verification_strings,
    verify,
)


DIGIT, LETTER, FOX = grammar.ATOMS[0], grammar.ATOMS[3], grammar.Word("fox")
TWO_DIGITS = grammar.Repeat(DIGIT, 2, 2)


@cache
def drawn(split, depth):
    return draw_regex_pairs(split, {"train": 600, "test": 100}[split], depth=depth)


def meant(expression, lines):
    lines = Lines(lines)
    return lines.chosen(expression.lines(lines))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_expression_is_right_about_its_verification_strings(depth):
    for split in ("train", "test"):
        for pair in drawn(split, depth):
            assert verify(pair) > 10


@pytest.mark.parametrize(
    ("expression", "regex", "fitting", "others"),
    [
        (grammar.Placed("start", DIGIT), "[0-9].*", ["7", "7x"], ["", "x7"]),
        (grammar.Placed("end", FOX), ".*fox", ["fox", "a fox"], ["fox ", "fo"]),
        (grammar.Placed("anywhere", TWO_DIGITS), ".*[0-9]{2}.*", ["12", "a123"], ["1a2"]),
        (grammar.Placed("whole", grammar.Repeat(FOX, 2, None)), "(fox){2,}", ["foxfox", "fox" * 5], ["fox", "foxfo"]),
        (grammar.Placed("whole", grammar.Repeat(DIGIT, 2, 3)), "[0-9]{2,3}", ["12", "123"], ["1", "1234"]),
        (grammar.Placed("whole", grammar.Either(DIGIT, FOX)), "([0-9]|fox)", ["1", "fox"], ["fox1", "f"]),
        (grammar.Placed("whole", grammar.Then(DIGIT, FOX)), "[0-9]fox", ["1fox"], ["fox1", "1 fox"]),
        (grammar.Not(grammar.Placed("start", FOX)), "(?!fox).*", ["", "afox"], ["fox", "foxy"]),
        (grammar.Not(grammar.Placed("end", FOX)), "(?!.*fox$).*", ["", "foxy"], ["fox", "a fox"]),
        (grammar.Not(grammar.Placed("anywhere", DIGIT)), "(?!.*[0-9]).*", ["", "fox"], ["1", "fox1"]),
        (grammar.Before(DIGIT, FOX), ".*[0-9].*fox.*", ["1fox", "a1b fox"], ["fox1", "fox"]),
        (grammar.Before(LETTER, LETTER), ".*[A-Za-z].*[A-Za-z].*", ["ab", "a1b"], ["a", "1a"]),
        (grammar.Times(FOX, 2, exact=False), "(.*fox){2}.*", ["foxfox", "fox fox fox"], ["fox"]),
        (grammar.Times(DIGIT, 2, exact=True), "([^0-9]*[0-9]){2}[^0-9]*", ["12", "a1b2c"], ["1", "123", ""]),
        (
            grammar.And(grammar.Times(DIGIT, 2, exact=True), grammar.Not(grammar.Placed("start", FOX))),
            "(?=([^0-9]*[0-9]){2}[^0-9]*$)(?!fox).*",
            ["12", "a1fox2"],
            ["fox12", "123"],
        ),
        (
            grammar.And(grammar.Not(grammar.Placed("end", FOX)), grammar.Placed("start", FOX)),
            "(?!.*fox$)fox.*",
            ["foxy"],
            ["fox", "y"],
        ),
        (
            grammar.Or(grammar.Placed("start", DIGIT), grammar.Placed("end", FOX)),
            "([0-9].*|.*fox)",
            ["1", "fox", "1fox"],
            ["fox1", ""],
        ),
    ],
)
def test_meaning_and_regex_of_each_kind(expression, regex, fitting, others):
    assert expression.regex == regex
    for line in [*fitting, *others]:
        assert meant(expression, [line]) == [line in fitting] == [bool(re.fullmatch(regex, line))], line


def test_a_wrong_regex_does_not_verify():
    pair = draw_regex_pairs("train", 1)[0]
    for wrong in (pair.regex + "x", ".*", pair.regex.replace(".*", "", 1)):
        with pytest.raises(ValueError, match="must (match|reject)"):
            verify(RegexPair(pair.description, wrong, pair.expression, pair.index))


def test_verification_strings_are_of_both_kinds():
    sizes = [tuple(map(len, verification_strings(pair))) for pair in drawn("train", 2)[:300]]
    assert min(matching for matching, _ in sizes) >= 1 and min(rejected for _, rejected in sizes) >= 1
    assert sum(matching for matching, _ in sizes) > 300 * 6 and sum(rejected for _, rejected in sizes) > 300 * 6


def test_splits_share_no_description_and_no_meaning():
    probes = probe_lines()
    train = [*drawn("train", 1), *drawn("train", 2), *draw_regex_pairs("train", 200, seed=1, depth=1)]
    test = [*drawn("test", 1), *drawn("test", 2)]
    for of in (
        lambda pair: pair.description,
        lambda pair: pair.regex,
        lambda pair: pair.expression.lines(probes),
    ):
        assert not set(map(of, train)) & set(map(of, test))


def test_a_description_means_one_thing_and_occurs_once():
    answers = {}
    for depth in (1, 2, 3):
        pairs = [*drawn("train", depth), *drawn("test", depth)]
        assert len({pair.description for pair in pairs}) == len(pairs)
        for pair in pairs:
            assert answers.setdefault(pair.description, pair.regex) == pair.regex


def test_pairs_depend_on_seed_and_number_only():
    assert draw_regex_pairs("train", 50)[:20] == draw_regex_pairs("train", 20)
    assert draw_regex_pairs("train", 20) != draw_regex_pairs("train", 20, seed=1)
    pair = draw_regex_pairs("test", 1)[0]
    assert (pair.description, pair.regex) == (
        "match lines that do not begin with an alphabetic character three times in a row "
        "immediately before the string jump",
        "(?![A-Za-z]{3}jump).*",
    )


def test_no_expression_is_void_or_says_less_than_it_seems_to():
    probes = probe_lines()
    for pair in drawn("train", 2):
        meaning = pair.expression.lines(probes)
        assert meaning not in (0, probes.last)
        assert meaning not in [half.lines(probes) for half in pair.expression.halves]


def test_records():
    pair = draw_regex_pairs("train", 3)[2]
    user = {"role": "user", "content": pair.description}
    assistant = {"role": "assistant", "content": pair.regex}
    assert regex_pairs("train", 3)[2] == {
        "messages": [{"role": "system", "content": "Write the regular expression."}, user, assistant]
    }
    assert regex_pairs("train", 3, system_prompt=None)[2] == {"messages": [user, assistant]}


def test_paraphrases_are_five_wordings_of_one_expression():
    records = regex_paraphrases("train", 60)
    assert len(records) == 240 == len({record["messages"][0]["content"] for record in records})
    regexes = {pair.description: pair.regex for pair in drawn("test", 2)}
    for group in range(60):
        chain = [[message["content"] for message in record["messages"]] for record in records[4 * group :][:4]]
        assert all(before[1] == after[0] for before, after in pairwise(chain))
        versions = {text for pair in chain for text in pair}
        assert len(versions) == 5 and not versions & set(regexes)
        numbers = [{str(n) for n in (2, 3, 4) if str(n) in text or grammar.NUMBERS[n] in text} for text in versions]
        assert all(number == numbers[0] for number in numbers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid", 1), "valid"),
        (("train", 0), "0"),
        (("train", 1, 0, 4), "4"),
        (("train", 1, 0, 0), "0"),
    ],
)
def test_refused(arguments, message):
    for function in (draw_regex_pairs, regex_pairs, regex_paraphrases):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def test_more_paraphrases_than_expressions_is_refused(monkeypatch):
    monkeypatch.setattr(grammar, "ATOMS", grammar.ATOMS[5:6])
    monkeypatch.setattr(module, "PATIENCE", 1)
    with pytest.raises(ValueError, match="fewer than 500"):
        regex_paraphrases("test", 500, depth=1)


PATTERNS = (
    "", "a", "a*", "a+b?", "(a|b)*c", "(?:ab){2}", "a{2,}", "a{,2}b", "a{1,2}?", "a*?b", "[^ab]*", "[]a]", "[^]a]+",
    "[a\\]]", "[a-c-]", "\\d+", "\\W", "\\.", "a.c", "^ab$", "(?=a)a*", "(?!a).*", "(?=.*b$)a.*", "((?!ab).)*", "a|",
    "(|a)b", "(a|ab)(c|bc)", "(a*)*", "((a?){3}b){2}", "a{b", "{a", "}", "a{,}", "(?=(a|b){2})(?!.*c)[a-c]+", "a{0}b",
    "(a|(?=b)){3}b*", "x*(?=$)", "(?!)", "()", "(a^b)*", "(^a)*b", "[[]", "(.*a){2}.*", "a{999999}",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_matching_decides_like_re(pattern):
    words = [""]
    for _ in range(4):
        words += [word + character for word in words[-(4 ** len(words[-1])) :] for character in "abc]"]
    lines = [
        *words,
        "a{b",
        "{a",
        "}",
        "7",
        "a.c",
        ".",
        "a-c",
        "-",
        "77",
        "b]a",
        "[",
        "abcab",
        "xx",
        "aabaab",
        "ü",
        "٣",
    ]
    assert match_lines(pattern, Lines(lines)) == [bool(re.fullmatch(pattern, line)) for line in lines]


def test_matching_decides_like_the_grammar():
    probes = probe_lines()
    for pair in drawn("train", 3)[:100]:
        assert match_lines(pair.regex, probes) == probes.chosen(pair.expression.lines(probes)), pair.regex


@pytest.mark.parametrize(
    "pattern", ["(", "a{2,1}", "*", "[b-a]", "(?<=a)b", r"(a)\1", r"a\b", "(?P<n>a)", "(?i)a", "a*+"]
)
def test_undecided(pattern):
    with pytest.raises(UndecidedPattern):
        match_lines(pattern, Lines(["a"]))
    assert not equivalent(pattern, "a")
    with pytest.raises(UndecidedPattern):
        equivalent("a", pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a*)*b", "(a|a)*b", "(.*)*" * 40, "(" * 60 + "a" + ")*" * 60 + "b", "(.*a){200}b", "(((.?){999}){999}){999}",
     "(a?){999999}b", "((.|k)*(e|k)*){99}(((k|7)*-*)*,*)*"],
)  # fmt: skip
def test_no_expression_hangs(pattern):
    begun = time.thread_time()  # what others take of the processor does not count
    equivalent(pattern, "(k|7)*")
    with suppress(UndecidedPattern):
        match_lines(pattern, Lines(["a" * 1000, "a" * 1000 + "b"]))
    assert time.thread_time() - begun < 2


def test_what_backtracks_for_ever_is_decided():
    lines = ["a" * 1000, "a" * 1000 + "b", "ba", "b"]
    assert match_lines("(a*)*b", Lines(lines)) == [False, True, False, True]
    assert match_lines("(a?){999999}b", Lines(lines)) == [False, True, False, True]


def test_steps_are_bounded(monkeypatch):
    monkeypatch.setattr(regex_matching, "MAX_STEPS", 50)
    with pytest.raises(UndecidedPattern, match="50 steps"):
        match_lines("(a|b)*c", Lines(["ab" * 100 + "c"]))
    assert not equivalent("(a|b)*c", "c", ["ab" * 100 + "c"])


def test_too_long_is_undecided():
    with pytest.raises(UndecidedPattern, match="257"):
        match_lines("a" * 257, Lines(["a"]))


def test_equivalent():
    assert equivalent("(.*[0-9]){1,}.*", ".*[0-9].*")
    assert equivalent("[a-zA-Z]{2}[A-Za-z]*", "[A-Za-z]{2,}")
    assert not equivalent("[A-Za-z]{3,}", "[A-Za-z]{2,}")
    assert not equivalent("([0-9].*|.*fox", "[0-9].*|.*fox")
    assert equivalent("a", "b", ["c"]) and not equivalent("a", "b", ["c", "a"])


@pytest.mark.parametrize("line", ["a\nb", "a\0"])
def test_lines_without_breaks(line):
    with pytest.raises(ValueError, match="line break"):
        Lines(["a", line])


def test_lines_of_nothing():
    assert Lines([]).chosen(0) == [] == match_lines("a*", Lines([]))
    assert match_lines("a*", Lines([""])) == [True]
