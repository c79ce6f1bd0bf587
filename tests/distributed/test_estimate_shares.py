"""Two processes hold what `hf-jepa estimate` says of each: weights, target encoder, copies, optimizer."""

import json
from importlib.util import find_spec

import forks
import pytest
from share_processes import RECIPE, count_shares

from hf_jepa.training.estimate import Estimator
from hf_jepa.training.estimate_recipes import read_job
from hf_jepa.training.estimate_strategies import Strategy


pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason='pip install "hf_jepa[deepspeed]"'),
]
PARTS = {
    "weights": "weights",
    "frozen": "target encoder and others that are frozen",
    "copies": "copy of this process's share of weights",
    "optimizer": "optimizer",
}


def test_two_processes_hold_what_is_estimated(tmp_path):
    forks.run(count_shares, tmp_path, logs=tmp_path)
    name, *fields = RECIPE
    estimator = Estimator(read_job(name, fields))
    for rank in (0, 1):
        for strategy, held in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            device = estimator(Strategy(strategy, 2), 2).device
            for part, shown in PARTS.items():
                # Engines pad shares to full blocks.
                assert held[part] == pytest.approx(device[shown], rel=0.01), (rank, strategy, part)
