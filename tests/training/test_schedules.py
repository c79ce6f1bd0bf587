"""Schedules equal the recorded values of the official code."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_jepa.training.schedules import context_loss_weight_at, learning_rate_at, momentum_at, weight_decay_at


GOLDEN = Path(__file__).parents[1] / "fixtures/golden"
CASE = GOLDEN / "ijepa/schedules"
CONFIGS = json.loads((CASE / "config.json").read_text())
VALUES = load_file(CASE / "io.safetensors")
VIDEO = json.loads((GOLDEN / "vjepa2/schedules/values.json").read_text())
CONTEXT = VIDEO.pop("context_lambda")


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


@pytest.mark.parametrize("name", VIDEO)
def test_schedules_equal_those_of_the_video_models(name):
    recorded, c = VIDEO[name], VIDEO[name]["config"]
    horizon = c["ipe_scale"] * c["epochs"] * c["ipe"]
    total, warmup = int(horizon), c["warmup"] * c["ipe"]
    assert total == recorded["T_max"]
    decay = {
        "warmup_cosine": {},  # constant where the final rate is the peak
        "linear_decay": {"schedule": "linear"},
        "wsd": {"schedule": "linear", "decay_steps": c.get("anneal", 0) * c["ipe"]},
    }[c["kind"]]
    schedules = {
        "lr": lambda i: learning_rate_at(i, total, warmup, c["start_lr"], c["lr"], c["final_lr"], **decay),
        "weight_decay": lambda i: weight_decay_at(i, total, c["wd"], c["final_wd"]),
        "momentum": lambda i: momentum_at(i, horizon, *c["ema"]),
    }
    for kind, schedule in schedules.items():
        assert len(recorded[kind]) >= 5
        for call, value in recorded[kind].items():  # the official code counts its calls from 1
            assert schedule(int(call) - 1) == pytest.approx(value, rel=1e-9, abs=0), (kind, call)


def test_context_loss_weight_equals_the_official_one():
    c = CONTEXT["config"]
    assert len(CONTEXT["values"]) == 8
    for step, value in CONTEXT["values"].items():
        found = context_loss_weight_at(int(step), c["lambda_value"], c["start_iter"], c["end_iter"])
        assert found == pytest.approx(value, rel=1e-9, abs=0), step
        assert context_loss_weight_at(int(step), c["lambda_value"], 0, 0) == c["lambda_value"]
    with pytest.raises(ValueError, match="from step 20 back to 10"):
        context_loss_weight_at(0, 0.5, 20, 10)


def test_learning_rate_holds_its_peak_until_the_decay():
    def rate(step, schedule):
        return learning_rate_at(step, 100, 10, 0.1, 1.0, 0.01, schedule, decay_steps=40)

    for schedule in ("linear", "cosine"):
        assert [rate(step, schedule) for step in (9, 30, 59)] == [1.0, 1.0, 1.0]
        assert rate(79, schedule) == pytest.approx(0.505)  # half way down, in both forms
        assert [rate(step, schedule) for step in (99, 500)] == [pytest.approx(0.01)] * 2
    assert rate(69, "linear") == pytest.approx(0.7525) and rate(69, "cosine") == pytest.approx(0.8550, abs=1e-4)
    assert rate(4, "linear") == learning_rate_at(4, 100, 10, 0.1, 1.0, 0.01)  # the warm-up is the same


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="schedule 'wsd' is not one of cosine, linear"):
        learning_rate_at(0, 100, 10, 0.1, 1.0, 0.01, "wsd")
    for steps in (0, 91):
        with pytest.raises(ValueError, match=f"decay_steps={steps} must be at least 1 and at most the 90 of 100"):
            learning_rate_at(0, 100, 10, 0.1, 1.0, 0.01, "linear", steps)


def test_past_the_horizon_schedules_stay_at_their_end():
    assert learning_rate_at(500, 100, 10, 0.1, 1.0, 0.01) == pytest.approx(0.01)
    assert weight_decay_at(500, 100, 0.04, 0.4) == pytest.approx(0.4)
    assert momentum_at(500, 100, 0.9, 1.0) == 1.0
