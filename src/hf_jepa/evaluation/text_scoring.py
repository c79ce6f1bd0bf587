"""How many answers of a model are right: the table of tasks, and the accuracy with its interval.

The rule of a task comes in two readings. "strict", the default, accepts no answer for a wrong reason; "official" gives
the verdicts of the code of LLM-JEPA (2509.14252), for comparison with published numbers.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

from hf_jepa.evaluation.sql import run_query, same_rows, same_text
from hf_jepa.evaluation.text_rules import (
    exact_match,
    gsm8k_match,
    gsm8k_number_match,
    nq_match,
    nq_paper_match,
    official_gsm8k_match,
    official_nq_match,
    official_prefix_match,
    prefix_match,
)
from hf_jepa.hub.files import new_name


SCORINGS = ("strict", "official")
LETTERS = ("A", "B", "C", "D")  # of HellaSwag's endings
_DATABASE = re.compile(r"db_id:\[([\w\-]+)\]")


@dataclass(frozen=True)
class Task:
    """How the answers to one kind of question are scored.

    Args:
        title: the rule in words.
        strict: called with the generated and the reference text, and before them with the database where there is one.
        official: the rule of the official code; None where it has none.
        database: whether the rule runs SQL.
        choices: letters of which the most probable next token is the answer; empty where the answer is generated.
    """

    title: str
    strict: Callable[..., bool]
    official: Callable[..., bool] | None
    database: bool = False
    choices: tuple[str, ...] = ()


_EXACT = Task("the same text", exact_match, exact_match)
_PREFIX = Task("text that starts with the reference", prefix_match, official_prefix_match)
TASKS: dict[str, Task] = {
    "exact": _EXACT,
    "prefix": _PREFIX,
    "synth": _EXACT,
    "turk": _EXACT,
    "spider": Task("the rows that the reference query gives", same_rows, same_text, database=True),
    "gsm8k": Task("text behind #### in the last line", gsm8k_match, official_gsm8k_match),
    "gsm8k_number": Task("number behind #### in the last line", gsm8k_number_match, None),
    "nq_open": Task("one of the reference answers", nq_match, official_nq_match),
    "nq_open_paper": Task("text with one of the reference answers in it", nq_paper_match, None),
    "hellaswag": Task("the most probable letter", exact_match, exact_match, choices=LETTERS),
    "rotten_tomatoes": _PREFIX,
    "yelp": _PREFIX,
}


@dataclass(frozen=True)
class ScoredText:
    """One question and what became of it.

    Args:
        row: its number in the data.
        user: what was asked.
        reference: the right answer.
        generated: the answer; None for a prompt that was passed over, which counts as wrong.
        correct: the verdict.
    """

    row: int
    user: str
    reference: str
    generated: str | None
    correct: bool


@dataclass(frozen=True)
class TextScores:
    """The scored answers of a data set; print it for one line of figures.

    Args:
        task, scoring: as asked for.
        samples: one for each question, in their order.
    """

    task: str
    scoring: str
    samples: tuple[ScoredText, ...]

    @property
    def correct(self) -> int:
        """How many answers are right."""
        return sum(sample.correct for sample in self.samples)

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.correct / len(self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy: Wilson's interval of 95 %."""
        return wilson_interval(self.correct, len(self.samples))

    def as_dict(self) -> dict:
        """Figures and samples as plain values."""
        return {
            "task": self.task,
            "scoring": self.scoring,
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "correct": self.correct,
            "total": len(self.samples),
            "skipped": sum(sample.generated is None for sample in self.samples),
            "samples": [asdict(sample) for sample in self.samples],
        }

    def save(self, path: str | Path) -> Path:
        """Write `as_dict` as JSON, first under a temporary name. Missing folders are created."""
        path = Path(path)
        with new_name(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
        return path

    def __str__(self) -> str:
        low, high = self.interval
        share = f"{100 * self.accuracy:.2f} % (95 %: {100 * low:.2f} to {100 * high:.2f})"
        return f"{self.task}, {self.scoring}: {self.correct} of {len(self.samples)} right, {share}"


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, which stays within 0 and 1 and is right for few samples too.

    Args:
        correct: how many of them succeeded.
        total: how many there were.
        level: probability with which the interval should cover the true share.

    Raises:
        ValueError: no sample, more successes than samples, or a level outside of 0 and 1.

    Example:
        >>> [round(bound, 4) for bound in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is no share")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it must lie between 0 and 1")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = correct / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return 0.0 if correct == 0 else centre - half, 1.0 if correct == total else centre + half  # there without rounding


def find_task(name: str, scoring: str = "strict", database: str | Path | None = None) -> Task:
    """A task of `TASKS`, after making sure that it can be scored as asked.

    Raises:
        ValueError: unknown names, a rule that the official code does not have, or a folder of databases that is
            missing, or says nothing to the task.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}")
    if scoring not in SCORINGS:
        raise ValueError(f"unknown scoring {scoring!r}: choose one of {', '.join(SCORINGS)}")
    task = TASKS[name]
    if scoring == "official" and task.official is None:
        raise ValueError(f"the official code has no task {name!r}: score it strictly")
    if task.database != (database is not None):
        advice = "name the folder of the databases" if task.database else "leave out the databases"
        raise ValueError(f"task {name!r} {'runs' if task.database else 'runs no'} SQL: {advice}")
    return task


def score_texts(
    task: str,
    generated: Sequence[str | None],
    references: Sequence[str],
    users: Sequence[str] | None = None,
    scoring: str = "strict",
    database: str | Path | None = None,
) -> TextScores:
    """Score answers by the rule of a task, which is named: data sets are not guessed from file names.

    Args:
        task: a name of `TASKS`.
        generated: (N) answers, stripped and without special tokens as `generate_answers` gives them; None for a
            prompt that was passed over, which counts as wrong.
        references: (N) right answers.
        users: (N) what was asked; of spider it names the database as `db_id:[NAME]`.
        scoring: "strict" or "official".
        database: of spider: the folder with the databases, as `NAME/NAME.sqlite`.

    Returns:
        `TextScores`

    Raises:
        ValueError: unknown names, different lengths, no answer, or a reference that no answer can meet (named).
        FileNotFoundError: no such database.

    Example:
        >>> print(score_texts("gsm8k", ["3 + 4\\n#### 7", "\\n#### 8", "?"], ["\\n#### 7"] * 3))
        gsm8k, strict: 1 of 3 right, 33.33 % (95 %: 6.15 to 79.23)
    """
    rule = getattr(find_task(task, scoring, database), scoring)
    users = [""] * len(references) if users is None else users
    if not len(generated) == len(references) == len(users) or not references:
        counts = f"{len(generated)} answers, {len(references)} references and {len(users)} questions"
        raise ValueError(f"{counts}: there must be one of each for every row, and at least one row")
    check_references(task, references, users, scoring, database)
    samples = []
    for row, (text, reference, user) in enumerate(zip(generated, references, users, strict=True)):
        correct = text is not None and rule(*_place(database, user), text, reference)
        samples.append(ScoredText(row, user, reference, text, correct))
    return TextScores(task, scoring, tuple(samples))


def check_references(
    task: str,
    references: Sequence[str],
    users: Sequence[str],
    scoring: str = "strict",
    database: str | Path | None = None,
) -> None:
    """Make sure that every reference can be met: a strict rule must accept it as its own answer.

    Cheap beside the generation of answers, so do it first.

    Args: as of `score_texts`.

    Raises:
        ValueError: a reference that no answer can meet, or a question without database; the row is named.
        FileNotFoundError: no such database.

    Example:
        >>> check_references("gsm8k", ["...\\n#### 7", "7"], ["?", "?"])
        Traceback (most recent call last):
            ...
        ValueError: row 1: the reference '7' is no right answer in task 'gsm8k' (text behind #### in the last line)
    """
    rule, kind = getattr(find_task(task, scoring, database), scoring), TASKS[task]
    for row, (reference, user) in enumerate(zip(references, users, strict=True)):
        try:
            place = _place(database, user)
            if kind.choices and reference not in kind.choices:
                raise ValueError(f"the reference {reference!r} is not one of the letters {', '.join(kind.choices)}")
            # The official rules accept what they please, so of theirs only the database can be missing.
            if scoring == "strict" and not rule(*place, reference, reference):
                raise ValueError(f"the reference {reference!r} is no right answer in task {task!r} ({kind.title})")
            if place and scoring == "official":
                run_query(*place, "SELECT 1")
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error


def _place(database: str | Path | None, user: str) -> tuple[Path, ...]:
    return () if database is None else (database_path(database, user),)


def database_path(folder: str | Path, user: str) -> Path:
    """Where the database of a question of Spider lies.

    Raises:
        ValueError: the question names none.

    Example:
        >>> database_path("databases", "For db_id:[dorm_1]\\n\\nHow many?").as_posix()
        'databases/dorm_1/dorm_1.sqlite'
    """
    match = _DATABASE.search(user)
    if match is None:
        raise ValueError(f"the question {user!r} names no database as 'db_id:[NAME]'")
    return Path(folder) / match[1] / f"{match[1]}.sqlite"


__all__ = ["LETTERS", "SCORINGS", "TASKS", "ScoredText", "Task", "TextScores", "check_references", "database_path"]
__all__ += ["find_task", "score_texts", "wilson_interval"]
