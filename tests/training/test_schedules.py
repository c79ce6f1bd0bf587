"""Schedules equal the recorded values of the official code."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_jepa.training.schedules import learning_rate_at, momentum_at, weight_decay_at


CASE = Path(__file__).parents[1] / "fixtures/golden/ijepa/schedules"
CONFIGS = json.loads((CASE / "config.json").read_text())
VALUES = load_file(CASE / "io.safetensors")


@pytest.mark.parametrize("name", CONFIGS)
def test_schedules_equal_the_official_ones(name):
    c = CONFIGS[name]
    horizon = c["ipe_scale"] * c["epochs"] * c["ipe"]
    total, warmup = int(horizon), int(c["warmup"] * c["ipe"])
    schedules = {
        "lr": lambda i: learning_rate_at(i, total, warmup, c["start_lr"], c["lr"], c["final_lr"]),
        "weight_decay": lambda i: weight_decay_at(i, total, c["wd"], c["final_wd"]),
        "ema_momentum": lambda i: momentum_at(i, horizon, *c["ema"]),
    }
    for kind, schedule in schedules.items():
        steps, values = VALUES[f"{name}.step_index"].tolist(), VALUES[f"{name}.{kind}"].tolist()
        assert len(values) > 30
        for step, value in zip(steps, values, strict=True):
            assert schedule(step) == pytest.approx(value, rel=1e-12), (kind, step)


def test_past_the_horizon_schedules_stay_at_their_end():
    assert learning_rate_at(500, 100, 10, 0.1, 1.0, 0.01) == pytest.approx(0.01)
    assert weight_decay_at(500, 100, 0.04, 0.4) == pytest.approx(0.4)
    assert momentum_at(500, 100, 0.9, 1.0) == 1.0
