"""Losses that are statistics of a batch have, through whole models, the gradient of the batch of all processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.distributed


def test_gradients_of_one_two_and_four_processes_agree():
    script = Path(__file__).parents[1] / "batch_statistics_processes.py"
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(" 2 processes: ") == done.stdout.count(" 4 processes: ") == 6, done.stdout
