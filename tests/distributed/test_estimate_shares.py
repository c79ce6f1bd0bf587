"""Two processes hold what `hf-jepa estimate` says of each: weights, target encoder, copies, optimizer."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from share_processes import RECIPE

from hf_jepa.training.estimate import Estimator
from hf_jepa.training.estimate_recipes import read_job
from hf_jepa.training.estimate_strategies import Strategy


pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason='pip install "hf_jepa[deepspeed]"'),
]
TESTS = Path(__file__).resolve().parents[1]
PARTS = {
    "weights": "weights",
    "frozen": "target encoder and others that are frozen",
    "copies": "copy of this process's share of weights",
    "optimizer": "optimizer",
}


def test_two_processes_hold_what_is_estimated(tmp_path):
    command = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", TESTS / "without_shared_memory.py")
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command), str(TESTS / "share_processes.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | settings,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    name, *fields = RECIPE
    estimator = Estimator(read_job(name, fields))
    for rank in (0, 1):
        for strategy, held in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            device = estimator(Strategy(strategy, 2), 2).device
            for part, shown in PARTS.items():
                # Engines pad shares to full blocks.
                assert held[part] == pytest.approx(device[shown], rel=0.01), (rank, strategy, part)
