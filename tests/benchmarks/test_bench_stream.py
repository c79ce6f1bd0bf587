"""What Ward segments are measured against cuts a stream into the same segments."""

import importlib
from pathlib import Path

import numpy as np
import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench_stream(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("bench_stream")


@pytest.mark.parametrize("segments", [1, 2, 9, 60])
def test_scikit_learn_cuts_where_we_do(bench_stream, segments):
    stream = bench_stream.scenes(60, 8)
    ours, other = (cut(stream, segments)() for cut in (bench_stream._ours, bench_stream._scikit_learn))
    np.testing.assert_array_equal(ours, other)
    assert ours[-1] == segments - 1


def test_the_quick_run_gives_its_rows(bench_stream):
    beside, growth = bench_stream.run(quick=True)
    assert "scikit-learn" in beside.beside and beside.ours > 0 and growth.unit == "times" and not growth.verdict
