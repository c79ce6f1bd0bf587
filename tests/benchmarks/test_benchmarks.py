"""Every benchmark runs; times are not judged here, a test machine is no place for that."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow  # half a minute: every part of `make bench`, once
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN")
def test_quick_run_measures_everything_and_writes_nothing():
    results = ROOT / "benchmarks/results/cpu.md"
    before = results.read_bytes()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "benchmarks"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()[2:] if line.count("  ") > 3]
    measured = " ".join(row[0] for row in rows)
    for what in ("masks", "encoder forward", "training step", "torch.compile", "onednn", "average", "import"):
        assert what in measured
    for what in ("encoder forward", "masked encoder", "memory", "training step", "non-view operations"):
        assert f"V-JEPA 2 {what}" in measured
    assert all(float(number) >= 0 for row in rows for number in row[2:4] if re.fullmatch(r"[\d.]+", number))
    assert results.read_bytes() == before


def test_recorded_results_name_their_verdicts():
    lines = (ROOT / "benchmarks/results/cpu.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    judged = [row for row in rows if row[5] and row[4]]
    assert len(rows) >= 10 and judged
    assert all(row[6] == ("met" if float(row[4]) <= float(row[5]) else "missed") for row in judged)


def test_counting(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    counting = importlib.import_module("counting")
    before = torch.ones(2**20)  # 4 MiB

    def three_at_a_time():
        first = before + 1
        second = first.view(2, -1).t().exp()
        del first
        third = second * 2
        fourth = third * 2
        return fourth

    assert counting.operations(three_at_a_time) == 4
    assert counting.peak_memory(three_at_a_time) == pytest.approx(12, abs=0.1)


def test_video_layers_stay_within_their_operations(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench_video = importlib.import_module("bench_video")
    limit, beside = bench_video.bench_operations(bench_video.TINY)
    assert limit.verdict == "met" and limit.ours > 10
    assert beside.ratio < 0.25


@pytest.mark.parametrize(
    ("ours", "other", "limit", "verdict"),
    [
        (5.0, 10.0, 0.5, "met"),
        (5.05, 10.0, 0.5, "missed"),
        (1.0, None, 1.5, "met"),
        (1.6, None, 1.5, "missed"),
        (9.0, 1.0, None, ""),
    ],
)
def test_verdicts(monkeypatch, ours, other, limit, verdict):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    row = importlib.import_module("timing").Row("what", "beside", ours, other, limit)
    assert row.verdict == verdict
