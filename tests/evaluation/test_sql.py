"""Generated SQL: it reads what it may read, and can neither write, nor reach out, nor run for ever."""

import hashlib
import sqlite3
import time

import pytest

from hf_jepa.evaluation.sql import is_ordered, run_query, same_rows, same_text, split_statements


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    path = tmp_path_factory.mktemp("cities ?#%41") / "cities.sqlite"  # a name that a URI must escape
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE city (id INTEGER, name TEXT, size REAL, note TEXT); CREATE INDEX names ON city (name);"
        "INSERT INTO city VALUES (1, 'Oslo', 0.1, 'a'), (2, 'Rome', 0.2, NULL), (3, 'Bonn', 1e20, x'4100ff');"
    )
    connection.close()
    return path


@pytest.fixture(autouse=True)
def untouched(cities):
    """Whatever a test runs: the folder of the database is as it was."""
    before = hashlib.sha256(cities.read_bytes()).hexdigest()
    yield
    assert hashlib.sha256(cities.read_bytes()).hexdigest() == before
    assert [path.name for path in cities.parent.iterdir()] == ["cities.sqlite"]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO city VALUES (4, 'Bern', 1, '')",
        "UPDATE city SET name = 'x'",
        "DELETE FROM city",
        "REPLACE INTO city VALUES (1, 'x', 1, '')",
        "DROP TABLE city",
        "ALTER TABLE city RENAME TO town",
        "CREATE TABLE town (a)",
        "CREATE TEMP TABLE town (a)",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "CREATE VIEW v AS SELECT 1",
        "WITH a AS (SELECT 1) DELETE FROM city",
        "PRAGMA user_version = 5",
        "PRAGMA journal_mode = WAL",
        "SELECT * FROM pragma_table_info('city')",
        "BEGIN EXCLUSIVE",
        "SAVEPOINT a",
        "REINDEX",
        "ANALYZE",
    ],
)
def test_nothing_but_reading_is_authorized(cities, query):
    assert run_query(cities, "SELECT 1; " + query).error == "not authorized"
    assert run_query(cities, "SELECT count(*) FROM city").rows == ((3,),)


@pytest.mark.parametrize("query", ["VACUUM", "VACUUM INTO '{}'", "ATTACH '{}' AS other", "ATTACH ':memory:' AS m"])
def test_no_file_can_be_reached(cities, tmp_path, query):
    result = run_query(cities, query.format(tmp_path / "other.sqlite"))
    assert result.error and not result.rows
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "query",
    ["SELECT load_extension('x')", "SELECT LOAD_EXTENSION('x', 'y')", "SELECT fts3_tokenizer('simple', x'00')"],
)
def test_no_code_can_be_loaded(cities, query):
    error = run_query(cities, query).error
    assert "not authorized" in error


def test_the_file_is_read_only_even_without_the_authorizer(cities, monkeypatch):
    monkeypatch.setattr("hf_jepa.evaluation.sql._authorize", lambda *args: sqlite3.SQLITE_OK)
    assert "readonly" in run_query(cities, "DELETE FROM city").error


@pytest.mark.parametrize(
    "query",
    [
        ENDLESS + "count(*) FROM n",
        ENDLESS + "i FROM n WHERE i < 0",
        "SELECT 1; " + ENDLESS + "sum(a.i) FROM n a, n b",
    ],
)
def test_an_endless_query_is_stopped(cities, query):
    start = time.thread_time()  # what others take of the processor does not count
    result = run_query(cities, query, timeout=0.2)
    assert result.error == "not done after 0.2 s" and result.stopped
    assert time.thread_time() - start < 2


def test_slow_functions_do_not_outlive_the_clock(cities):
    slow = "instr(hex(zeroblob(98000)), substr(hex(zeroblob(98000)), 1, 96000 + i % 9) || '1')"
    start = time.thread_time()
    assert run_query(cities, ENDLESS + f"max({slow}) FROM n", timeout=0.2).stopped
    assert time.thread_time() - start < 5


def test_rows_before_an_error_are_kept(cities):
    result = run_query(cities, "SELECT abs(iif(id < 3, id, -9223372036854775808)) FROM city")
    assert (
        result.rows[0] == (1,) and len(result.rows) < 3 and result.error == "integer overflow" and not result.stopped
    )


def test_rows_and_strings_have_limits(cities):
    result = run_query(cities, ENDLESS + "i FROM n", max_rows=10)
    assert result.error == "more than 10 rows" and result.stopped and len(result.rows) == 10
    assert run_query(cities, "SELECT id FROM city", max_rows=3).error is None
    blobs = "WITH RECURSIVE n(i) AS (SELECT zeroblob(190000) UNION ALL SELECT zeroblob(190000) FROM n) SELECT i FROM n"
    result = run_query(cities, blobs)
    assert result.error == "more than 100000000 characters" and result.stopped and not result.rows
    if hasattr(sqlite3.Connection, "setlimit"):
        assert "pattern too complex" in run_query(cities, "SELECT name LIKE hex(zeroblob(501)) FROM city").error
        for query in ("SELECT zeroblob(1000000000)", "SELECT replace(hex(zeroblob(1000)), '0', hex(zeroblob(9999)))"):
            assert "too big" in run_query(cities, query).error


@pytest.mark.parametrize(
    "query", ["", " ;; ", "-- nothing", ".tables", ".shell ls", "SELECT '\0'", "SELECT ?", "\ud800"]
)
def test_what_is_no_query_fails(cities, query):
    result = run_query(cities, query)
    assert result.error and not result.rows
    assert not same_rows(cities, query, "SELECT id FROM city WHERE id > 9")
    assert same_text(cities, query, "SELECT id FROM city WHERE id > 9")


def test_a_database_that_is_none_is_named(cities, tmp_path):
    pointer = tmp_path / "a.sqlite"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match=r"a\.sqlite is no SQLite database.*Git LFS"):
        run_query(pointer, "SELECT 1")
    with pytest.raises(FileNotFoundError, match=r"b\.sqlite does not exist"):
        run_query(tmp_path / "b.sqlite", "SELECT 1")
    assert not (tmp_path / "b.sqlite").exists()


def test_order_matters_only_where_it_is_asked_for(cities):
    by_name, by_id = ("SELECT name FROM city ORDER BY name", "SELECT name FROM city ORDER BY id")
    assert same_rows(cities, by_name, "SELECT name FROM city WHERE id > 0")
    assert not same_rows(cities, by_name, by_id) and not same_text(cities, by_name, by_id)
    assert not same_text(cities, by_name, "SELECT name FROM city WHERE id > 0")
    assert not same_rows(cities, "SELECT DISTINCT 1 FROM city", "SELECT 1 FROM city"), "how often a row occurs counts"
    assert not is_ordered("SELECT 'order by' AS \"order by\" -- order by\nFROM t /* ORDER BY */")
    assert not is_ordered("SELECT sum(a) OVER (ORDER BY b) FROM t")
    assert is_ordered("SELECT a FROM t UNION SELECT b FROM (SELECT 1) oRdEr\nby a")


def test_values_are_compared_as_values_or_as_printed(cities):
    def both(query, reference):
        return same_rows(cities, query, reference), same_text(cities, query, reference)

    assert both("SELECT 3.0", "SELECT 3") == (True, False)
    assert both("SELECT '3'", "SELECT 3") == (False, True)
    assert both("SELECT ''", "SELECT NULL") == (False, True)
    assert both("SELECT 'a|b'", "SELECT 'a', 'b'") == (False, True)
    assert both("SELECT 0.1 + 0.2", "SELECT 0.3") == (True, True)
    assert both("SELECT 1e20", "SELECT '1.0e+20'") == (False, True)
    assert both("SELECT 1e20", "SELECT size FROM city WHERE id = 3") == (True, True)
    assert both("SELECT 1.0001", "SELECT 1.0") == (False, False)
    assert both("SELECT name, id FROM city", "SELECT id, name FROM city") == (False, False)
    assert both("SELECT note FROM city WHERE id = 3", "SELECT 'A'") == (False, True)
    assert both("SELECT 1; SELECT 2", "SELECT 1 UNION ALL SELECT 2") == (False, True)
    assert both("SELECT id FROM city;", "SELECT id FROM city") == (True, True)


def test_text_that_is_not_utf8_is_kept(tmp_path):
    path = tmp_path / "latin.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t AS SELECT CAST(x'e9' AS TEXT) AS a, CAST(x'e8' AS TEXT) AS b")
    connection.commit()
    connection.close()
    assert same_rows(path, "SELECT a FROM t", "SELECT a FROM t") and same_text(
        path, "SELECT a FROM t", "SELECT a FROM t"
    )
    assert not same_rows(path, "SELECT a FROM t", "SELECT b FROM t")
    assert not same_text(path, "SELECT a FROM t", "SELECT b FROM t")


def test_a_reference_that_fails_is_named(cities, monkeypatch):
    with pytest.raises(ValueError, match=r"reference query 'SELECT nme FROM city' fails .* no such column: nme"):
        same_rows(cities, "SELECT 1", "SELECT nme FROM city")
    assert same_text(cities, "SELECT 1 WHERE 0", "SELECT nme FROM city")
    monkeypatch.setattr(run_query, "__defaults__", (10.0, 2))
    with pytest.raises(ValueError, match="more than 2 rows"):
        same_text(cities, "SELECT 1", "SELECT id FROM city")
    assert not same_text(cities, "SELECT id FROM city", "SELECT 1")


def test_statements_are_split_where_sql_splits_them():
    assert split_statements("SELECT 'a;b', \"c;d\", `e;f`, [g;h] /* ; */; SELECT 'it''s;' -- ;\n;") == [
        "SELECT 'a;b', \"c;d\", `e;f`, [g;h] /* ; */",
        "SELECT 'it''s;' -- ;",
    ]
