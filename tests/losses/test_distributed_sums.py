"""Losses of several processes are those of one, in value and in gradient."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hf_jepa.losses.distributed import (
    full_precision,
    gather_rows,
    global_mean,
    global_rows,
    process_count,
    reduce_sum,
    rows_by_process,
)


def test_two_and_four_processes_equal_one():
    script = Path(__file__).with_name("processes.py")
    done = subprocess.run([sys.executable, script, "12,12", "5,0,12,7"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_process_communicates_nothing(monkeypatch):
    x = torch.ones(3, 2, requires_grad=True)
    for _ in range(2):  # without a group, then in a group of one
        assert reduce_sum(x) is x and gather_rows(x) is x
        assert global_rows(3) == 3 and rows_by_process(3) == [3] and process_count() == 1
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: 1)


def test_the_group_is_looked_up_at_every_call(monkeypatch):
    assert process_count() == 1
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    assert process_count() == 3


def test_means():
    assert global_mean(torch.tensor([1, 2], dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\(0, 3\) has no mean"):
        global_mean(torch.empty(0, 3))


def test_precision_is_never_lowered():
    for given, expected in (
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert full_precision(torch.ones(1, dtype=given)).dtype == expected
