"""Two processes of a world model are one: weights, losses, evaluation, and what cannot be read."""

import forks
import pytest
from trained_weights import require_the_same_alone
from trajectory_processes import RUNS, make, train_two


pytestmark = pytest.mark.distributed


def test_training_by_two_processes_is_training_by_one(tmp_path):
    forks.run(train_two, tmp_path, logs=tmp_path)
    for name, (variant, _, _, broken) in RUNS.items():
        trainer = make(name, tmp_path / "single", single=True)
        found = require_the_same_alone(trainer, tmp_path, name)
        assert found["skipped"] == (["run/2: damaged", "run/3: damaged"] if broken else []), name
        if variant == "vjepa2_ac":  # the regulariser of another depends on its batches
            measured = trainer.evaluate()
            assert found["measured"]["eval_rollout_loss"] == pytest.approx(measured["eval_rollout_loss"], abs=1e-6)
