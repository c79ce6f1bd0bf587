"""Queries that a model wrote, run where they can do no harm: read only, one database, bounded in time and size."""

import math
import re
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


TIMEOUT = 10.0  # seconds
MAX_ROWS = 1_000_000
MAX_TEXT = 100_000_000  # characters of all rows
# The clock is looked at between the steps of SQLite's virtual machine, so each must be short: one that searches a
# string takes as long as the string times what is searched.
_MAX_LENGTH = 200_000  # bytes of a string, blob or row
_MAX_PATTERN = 1000  # bytes of what LIKE and GLOB look for
_STEPS = 100  # between two looks at the clock
_HEADER = b"SQLite format 3\0"
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer"}  # those that reach outside of SQL
# What hides brackets, semicolons and ORDER BY that are none: strings, quoted names, comments.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)


@dataclass(frozen=True)
class SqlResult:
    """What a query gave.

    Args:
        rows: the rows in the order in which they came; those before the error where there was one, of which Python
            keeps back the last.
        error: why it failed; None where it did not.
        statements: how many statements there were.
        stopped: whether the error is that a limit was reached.
    """

    rows: tuple[tuple, ...] = ()
    error: str | None = None
    statements: int = 1
    stopped: bool = False


def run_query(database: str | Path, query: str, timeout: float = TIMEOUT, max_rows: int = MAX_ROWS) -> SqlResult:
    """Run SQL that nobody has read on an SQLite database.

    The file is opened read-only, and an authorizer lets pass only what reads its tables: no writing (not even to
    temporary tables), no ATTACH, no PRAGMA, no transaction, no extension. A query that takes longer than `timeout` or
    gives more rows than `max_rows`, or more than `MAX_TEXT` characters, is stopped, and a string has at most 200,000
    bytes. Several statements run one after another until one fails, as in the sqlite3 program; its dot commands are no
    SQL and fail.

    Args:
        database: an SQLite file.
        query: SQL.
        timeout: seconds for all statements together.
        max_rows: of all statements together.

    Returns:
        `SqlResult`; a query that fails, or is stopped or refused, gives its `error`.

    Raises:
        FileNotFoundError: no such database.
        ValueError: the file is no SQLite database, such as the pointer that Git LFS leaves.

    Example:
        >>> import sqlite3, tempfile
        >>> path = tempfile.mkdtemp() + "/cities.sqlite"
        >>> connection = sqlite3.connect(path)
        >>> _ = connection.executescript("CREATE TABLE city (name); INSERT INTO city VALUES ('Oslo')")
        >>> connection.close()
        >>> run_query(path, "SELECT name FROM city").rows
        (('Oslo',),)
        >>> run_query(path, "DROP TABLE city").error
        'not authorized'
    """
    statements = split_statements(query)
    rows: list[tuple] = []
    size = 0
    connection = _open(Path(database), time.monotonic() + timeout)
    try:
        for statement in statements:
            for row in connection.execute(statement):
                rows.append(row)
                size += sum(len(value) for value in row if isinstance(value, str | bytes))
                if size > MAX_TEXT:
                    return SqlResult((), f"more than {MAX_TEXT} characters", len(statements), True)
                if len(rows) > max_rows:
                    return SqlResult(tuple(rows[:max_rows]), f"more than {max_rows} rows", len(statements), True)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:  # ValueError: what is no text of SQL, a zero byte
        stopped = str(error) == "interrupted"
        reason = f"not done after {timeout:g} s" if stopped else str(error)
        return SqlResult(tuple(rows), reason, len(statements), stopped)
    finally:
        connection.close()
    return SqlResult(tuple(rows), None if statements else "no statement", len(statements))


def _open(database: Path, deadline: float) -> sqlite3.Connection:
    if not database.is_file():
        raise FileNotFoundError(f"database {database} does not exist")
    with database.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:  # every query would fail, and failing queries are equal in one mode
            raise ValueError(f"{database} is no SQLite database: is it the pointer of a file that Git LFS holds?")
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.text_factory = _decode
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_LENGTH)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _MAX_PATTERN)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    return connection


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")  # databases of Spider hold bytes that are not UTF-8


def _authorize(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and second.lower() in _FORBIDDEN_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def split_statements(query: str) -> list[str]:
    """The statements of a query, without those that are empty.

    Example:
        >>> split_statements("SELECT ';'; SELECT 2;; -- done")
        ["SELECT ';'", 'SELECT 2']
    """
    hidden = _hide(query)
    ends = [match.start() for match in re.finditer(";", hidden)] + [len(query)]
    spans = zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True)
    return [query[start:end].strip() for start, end in spans if _without_comments(query[start:end]).strip()]


def _hide(query: str) -> str:
    """The query with strings, quoted names and comments made blank, as long as before."""
    return _QUOTED.sub(lambda match: " " * len(match[0]), query)


def _without_comments(query: str) -> str:
    return _QUOTED.sub(lambda match: " " if match[0].startswith(("--", "/*")) else match[0], query)


def is_ordered(query: str) -> bool:
    """Whether the rows of a query have an order: an ORDER BY outside of brackets, where it is not a sub-query's.

    Example:
        >>> is_ordered("SELECT a FROM t ORDER  BY b"), is_ordered("SELECT a FROM (SELECT a FROM t ORDER BY b)")
        (True, False)
    """
    depth, outside = 0, []
    for character in _hide(query):
        depth += (character == "(") - (character == ")")
        outside.append(character if depth == 0 else " ")
    return re.search(r"\border\s+by\b", "".join(outside), re.IGNORECASE) is not None


def same_rows(database: str | Path, query: str, reference: str) -> bool:
    """Whether a query gives the rows of the reference query, compared as values.

    A query that fails, is stopped, or consists of several statements gives no rows to compare. The order matters only
    if the reference asks for one; how often a row occurs does. The order of columns matters, their names do not. Real
    numbers are compared to 12 digits, because sums in another order differ by rounding; 1 and 1.0 are equal.

    Args:
        database: an SQLite file.
        query: what the model wrote.
        reference: the right query.

    Raises:
        FileNotFoundError, ValueError: as `run_query`, and ValueError where the reference fails.
    """
    wanted = run_query(database, reference)
    if wanted.error is not None:
        raise ValueError(f"the reference query {reference!r} fails on {database}: {wanted.error}")
    found = run_query(database, query)
    if found.error is not None or found.statements != 1:
        return False
    rows, wanted_rows = ([tuple(map(_rounded, row)) for row in result.rows] for result in (found, wanted))
    return rows == wanted_rows if is_ordered(reference) else Counter(rows) == Counter(wanted_rows)


def _rounded(value: object) -> object:
    return float(f"{value:.12g}") if isinstance(value, float) and math.isfinite(value) else value


def same_text(database: str | Path, query: str, reference: str) -> bool:
    """Whether two queries print the same text in the sqlite3 program: the rule of the official code.

    Rows are lines of columns joined by "|", in their order; NULL is empty. What a failing query printed before it
    failed counts, so a query that fails at once equals one without rows, also where both fail. Other than the official
    code this runs only what reads, so what is refused (PRAGMA, for example) prints nothing, and it has limits: a query
    that reaches one is wrong.

    Args, raises: as `same_rows`, but the reference may fail as long as it reaches no limit.
    """
    wanted, found = run_query(database, reference), run_query(database, query)
    if wanted.stopped:
        raise ValueError(f"the reference query {reference!r} fails on {database}: {wanted.error}")
    return not found.stopped and _printed(found.rows) == _printed(wanted.rows)


def _printed(rows: tuple[tuple, ...]) -> str:
    with_text = sqlite3.connect(":memory:")
    try:
        return "".join("|".join(_cell(with_text, value) for value in row) + "\n" for row in rows)
    finally:
        with_text.close()


def _cell(connection: sqlite3.Connection, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):  # as SQLite writes it: 1e20 is 1.0e+20
        return connection.execute("SELECT CAST(? AS TEXT)", (value,)).fetchone()[0]
    text = _decode(value) if isinstance(value, bytes) else str(value)
    return text.split("\0", 1)[0]  # the program prints up to a zero byte


__all__ = [
    "MAX_ROWS",
    "MAX_TEXT",
    "TIMEOUT",
    "SqlResult",
    "is_ordered",
    "run_query",
    "same_rows",
    "same_text",
    "split_statements",
]
