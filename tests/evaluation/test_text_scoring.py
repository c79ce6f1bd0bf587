"""The official readings give the official verdicts, the strict ones accept nothing for a wrong reason."""

import json
from pathlib import Path

import pytest

from hf_jepa.evaluation.text_rules import gsm8k_number_match, nq_match, nq_paper_match, prefix_match
from hf_jepa.evaluation.text_scoring import TASKS, check_references, database_path, score_texts, wilson_interval


FOLDER = Path(__file__).parents[1] / "fixtures" / "golden" / "llm_jepa" / "evaluation"
CASES = json.loads((FOLDER / "cases.json").read_text())


def verdict(case, scoring):
    """By the rule of the task alone."""
    task = TASKS[case["dataset"]]
    place = [database_path(FOLDER / "database", case["user"])] if task.database else []
    return getattr(task, scoring)(*place, case["generated"], case["reference"])


@pytest.mark.parametrize("case", CASES, ids=[f"{case['dataset']}: {case['note']}" for case in CASES])
def test_golden_verdicts(case):
    assert verdict(case, "official") is case["official_result"]
    assert verdict(case, "strict") is (case["official_result"] and not case["note"].startswith("QUIRK"))


def test_the_golden_cases_hold_what_strict_refuses():
    assert sum(case["note"].startswith("QUIRK") for case in CASES) == 4


@pytest.mark.parametrize("scoring", ["strict", "official"])
def test_scores_are_the_verdicts(scoring):
    for name in {case["dataset"] for case in CASES}:
        cases = [case for case in CASES if case["dataset"] == name and case["reference"] != "no marker"]
        columns = [[case[key] for case in cases] for key in ("generated", "reference", "user")]
        database = FOLDER / "database" if TASKS[name].database else None
        scores = score_texts(name, *columns, scoring=scoring, database=database)
        assert [sample.correct for sample in scores.samples] == [verdict(case, scoring) for case in cases]
        assert scores.correct == sum(sample.correct for sample in scores.samples)
        assert scores.accuracy == scores.correct / len(cases)


@pytest.mark.parametrize(
    ("generated", "same"),
    [
        ("a\n#### 1,300", True),
        ("a\n#### 1300.00", True),
        ("a\n#### $1300 per day.", True),
        ("a\n#### 1301", False),
        ("a\n#### -1300", False),
        ("a\n#### 1300 or 1301", False),
        ("a\n#### 1,3000", False),
        ("a\n#### none", False),
        ("1300", False),
        ("", False),
    ],
)
def test_numbers_are_read_where_that_is_the_task(generated, same):
    assert gsm8k_number_match(generated, "b\n#### 1300") is same


def test_decimals_and_large_numbers_are_exact():
    assert gsm8k_number_match("\n#### .50", "\n#### 0.5") and gsm8k_number_match("\n#### +5", "\n#### 5")
    assert not gsm8k_number_match(f"\n#### {2**53 + 1}", f"\n#### {2**53}")


def test_a_prefix_is_a_word_of_its_own():
    assert prefix_match("Good.", "Good") and prefix_match("(a)*b", "(a)*") and prefix_match("Very Good", "Very")
    assert not prefix_match("Goods", "Good") and not prefix_match("Good1", "Good") and not prefix_match("", "Good")
    assert TASKS["yelp"].official("Goods", "Good") and TASKS["yelp"].official("anything", "")


def test_both_readings_of_nq_open():
    assert nq_paper_match("He lives in Rome; Italy.", "Roma; Rome") and not nq_match("He lives in Rome", "Rome")
    assert not nq_paper_match("R", "Rome") and not nq_paper_match("", "Rome") and not nq_paper_match("x", "")
    assert nq_paper_match("about 50% (half)", "50%") and not nq_paper_match("150%", "50%")
    assert not nq_match("", "; ") and not nq_match("Rome;Roma", "Rome; Roma")


def test_references_that_no_answer_can_meet_are_named():
    with pytest.raises(ValueError, match="row 1: the reference 'no marker' is no right answer in task 'gsm8k'"):
        check_references("gsm8k", ["\n#### 1", "no marker"], ["", ""])
    check_references("gsm8k", ["no marker"], [""], scoring="official")
    with pytest.raises(ValueError, match="row 0: the reference 'E' is not one of the letters A, B, C, D"):
        check_references("hellaswag", ["E"], [""], scoring="official")
    for task in ("prefix", "nq_open", "nq_open_paper"):
        with pytest.raises(ValueError, match="row 0: the reference '' is no right answer"):
            check_references(task, [""], [""])


def test_databases_are_looked_for_before_anything_is_scored():
    folder = FOLDER / "database"
    question, query = "For db_id:[toy_1]\n\nWhich?", "SELECT name FROM city"
    for scoring in ("strict", "official"):
        with pytest.raises(FileNotFoundError, match=r"other\.sqlite does not exist"):
            check_references("spider", [query] * 2, [question, "For db_id:[other]"], scoring, folder)
        with pytest.raises(ValueError, match="row 1: the question 'Which' names no database"):
            check_references("spider", [query] * 2, [question, "Which"], scoring, folder)
    with pytest.raises(ValueError, match=r"names no database"):
        database_path(folder, "For db_id:[../toy_1]")
    with pytest.raises(ValueError, match="row 0: the reference query 'SELECT nme FROM city' fails"):
        check_references("spider", ["SELECT nme FROM city"], [question], "strict", folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "gsm"}, "unknown task 'gsm': choose one of exact, prefix, synth"),
        ({"scoring": "loose"}, "unknown scoring 'loose'"),
        ({"task": "gsm8k_number", "scoring": "official"}, "the official code has no task 'gsm8k_number'"),
        ({"task": "spider"}, "task 'spider' runs SQL: name the folder"),
        ({"database": "x"}, "task 'exact' runs no SQL: leave out"),
        ({"generated": ["a", "b"]}, "2 answers, 1 references and 1 questions"),
        ({"generated": [], "references": []}, "at least one row"),
    ],
)
def test_what_cannot_be_scored(options, message):
    with pytest.raises(ValueError, match=message):
        score_texts(**{"task": "exact", "generated": ["a"], "references": ["a"]} | options)


def test_a_prompt_that_was_passed_over_is_wrong(tmp_path):
    scores = score_texts("exact", ["a", None, "c"], ["a", "b", "b"], ["x", "y", "z"])
    assert (scores.correct, scores.accuracy) == (1, 1 / 3)
    path = scores.save(tmp_path / "deep" / "scores.json")
    stored = json.loads(path.read_text())
    assert stored == scores.as_dict() and [p.name for p in path.parent.iterdir()] == ["scores.json"]
    assert stored["skipped"] == 1 and stored["total"] == 3 and stored["interval_95"] == list(scores.interval)
    assert stored["samples"][1] == {"row": 1, "user": "y", "reference": "b", "generated": None, "correct": False}
    assert str(scores) == "exact, strict: 1 of 3 right, 33.33 % (95 %: 6.15 to 79.23)"


def test_wilson_interval_is_where_the_share_is_as_far_as_the_level_allows():
    for correct, total in ((0, 5), (5, 5), (3, 10), (731, 1000)):
        low, high = wilson_interval(correct, total)
        assert 0 <= low <= correct / total <= high <= 1
        for bound in (low, high):  # |share - bound| is z standard errors of the bound
            error = (bound * (1 - bound) / total) ** 0.5
            assert abs(correct / total - bound) == pytest.approx(1.959964 * error, abs=1e-6)
    assert wilson_interval(0, 5)[0] == 0 and wilson_interval(0, 5)[1] > 0.4
    for correct, total in ((1, 0), (0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="is no share"):
            wilson_interval(correct, total)
    with pytest.raises(ValueError, match="level is 1"):
        wilson_interval(1, 2, level=1)
