"""Two processes of a world model are one: weights, losses, evaluation, and what cannot be read."""

import json

import forks
import pytest
import torch
from tiny_trajectories import largest_difference, weights
from trajectory_processes import RUNS, make, train_two


pytestmark = pytest.mark.distributed


def test_training_by_two_processes_is_training_by_one(tmp_path):
    forks.run(train_two, tmp_path, logs=tmp_path)
    for name, (variant, _, _, broken) in RUNS.items():
        first, second = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        found = json.loads((tmp_path / f"{name}-0.json").read_text())
        assert largest_difference(first, second) == 0.0, name
        trainer = make(name, tmp_path / "single", single=True)
        start = weights(trainer.model)
        trainer.train()
        expected = weights(trainer.model)
        assert largest_difference(first, expected) < 2e-6 and largest_difference(start, expected) > 1e-3, name
        losses = [
            [entry["loss"] for entry in log if "loss" in entry] for log in (found["log"], trainer.state.log_history)
        ]
        assert losses[0] == pytest.approx(losses[1], abs=5e-6) and len(losses[0]) == 3, name
        assert found["skipped"] == (["run/2: damaged", "run/3: damaged"] if broken else []), name
        if variant == "vjepa2_ac":  # the regulariser of another depends on its batches
            measured = trainer.evaluate()
            assert found["measured"]["eval_rollout_loss"] == pytest.approx(measured["eval_rollout_loss"], abs=1e-6)
