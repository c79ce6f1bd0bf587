"""What training has made of a model: in one run beside another, in two processes beside one."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weights of a model."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def largest_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Over all weights."""
    assert found.keys() == expected.keys()
    return max((value - expected[name]).abs().max().item() for name, value in found.items())


def keep_run(trainer: Trainer, folder: Path, name: str, summary: bool = False) -> None:
    """Trains, evaluates, and leaves what `require_the_same_alone` reads; in each of two processes."""
    trainer.train()
    found = {"log": trainer.state.log_history, "measured": trainer.evaluate(), "skipped": list(trainer.skipped)}
    found |= {"summary": trainer.summary()} if summary else {}
    rank = trainer.args.process_index
    (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
    torch.save(weights(trainer.model), folder / f"{name}-{rank}.pt")
    trainer.accelerator.wait_for_everyone()


def require_the_same_alone(trainer: Trainer, folder: Path, name: str) -> dict:
    """Trains in this process: weights and losses of three steps are those of two processes, of which it returns more.

    Args:
        trainer: of the same run, in one process.
        folder, name: those of `keep_run`.
    """
    first, second = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert largest_difference(first, second) == 0.0, name
    start = weights(trainer.model)
    trainer.train()
    expected = weights(trainer.model)
    assert largest_difference(first, expected) < 2e-6 and largest_difference(start, expected) > 1e-3, name
    found = json.loads((folder / f"{name}-0.json").read_text())
    logs = (found["log"], trainer.state.log_history)
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=5e-6) and len(losses[0]) == 3, name
    return found
