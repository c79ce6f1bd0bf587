"""What plans are measured beside predicts as much as they do."""

import importlib
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench_planning(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("bench_planning")


def test_the_quick_run_gives_its_rows_and_asks_the_model_equally(bench_planning, monkeypatch):
    asked = []
    unroll = bench_planning.VJepa2ACModel.unroll

    def counted(self, state, actions):
        asked.append(tuple(actions.shape))
        return unroll(self, state, actions)

    monkeypatch.setattr(bench_planning.VJepa2ACModel, "unroll", counted)
    rows = list(bench_planning.run(quick=True))
    assert len(rows) == 4 and all(row.ours > 0 for row in rows) and rows[0].limit == 1.1
    per_plan = bench_planning.ITERATIONS + 1
    plans = [asked[i : i + per_plan] for i in range(0, len(asked), per_plan)]
    assert len(asked) == 3 * 2 * 2 * per_plan  # three planners, two contestants, one round to warm up
    assert all(plan == plans[0] for plan in plans) and plans[0][-1] == (1, 1, 2, 7)


def test_a_goal_is_not_where_the_robot_stands(bench_planning):
    model, state, goal = bench_planning.robot(32)
    assert goal.shape == state.last.shape and not torch.allclose(goal, state.last) and not model.training
