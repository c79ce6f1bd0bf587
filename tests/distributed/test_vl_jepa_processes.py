"""Two processes of VL-JEPA are one: negatives of both, with their gradients, also where gradients are cached."""

import forks
import pytest
import torch
from tiny_vl_pairs import make_model
from trained_weights import largest_difference, require_the_same_alone, weights
from vl_jepa_processes import LOSSES, RUNS, batch, gradients, losses_of_two, make, make_blank, train_blank, train_two


pytestmark = pytest.mark.distributed


def test_the_gradient_of_two_processes_is_that_of_one(tmp_path):
    forks.run(losses_of_two, tmp_path, logs=tmp_path)
    found = [torch.load(tmp_path / f"losses-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in LOSSES:
        expected, (first, second) = gradients(name, batch()), (each[name] for each in found)
        assert first.keys() == second.keys() == expected.keys()
        torch.testing.assert_close(
            (first.pop("loss") + second.pop("loss")) / 2, expected.pop("loss"), rtol=0, atol=1e-6
        )
        assert max(value.abs().max().item() for value in expected.values()) > 1e-2, name
        for parameter, value in expected.items():
            torch.testing.assert_close(first[parameter], value, rtol=0, atol=1e-6, msg=f"{name} {parameter}")
            assert torch.equal(first[parameter], second[parameter])


def test_training_by_two_processes_is_training_by_one(tmp_path):
    forks.run(train_two, tmp_path, logs=tmp_path)
    for name in RUNS:
        trainer = make(name, tmp_path / "single", single=True)
        found = require_the_same_alone(trainer, tmp_path, name)
        assert found["summary"]["negatives of a pair"] == trainer.summary()["negatives of a pair"] == 7
        recalls = {key: value for key, value in trainer.evaluate().items() if "_R@" in key}
        assert len(recalls) == 6 and recalls.items() <= found["measured"].items()


def test_a_process_that_can_read_nothing_keeps_the_others_going(tmp_path):
    forks.run(train_blank, tmp_path, logs=tmp_path)
    first, second = (torch.load(tmp_path / f"blank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert largest_difference(first, second) == 0.0
    assert largest_difference(first, weights(make_model())) > 1e-3
    trainer = make_blank(tmp_path / "single", 8)
    trainer.train()
    assert largest_difference(first, weights(trainer.model)) < 2e-6  # what cannot be read is no negative of others
