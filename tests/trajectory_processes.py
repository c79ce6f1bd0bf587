"""World models trained by two processes; what they found, for a test to compare with a single one."""

from pathlib import Path
from typing import Any

from tiny_trajectories import draw, make_model, make_trainer, unreadable
from torch.utils.data import SequentialSampler
from trained_weights import keep_run

from hf_jepa.training.trajectory import TrajectoryTrainer


# name -> variant, batch size of each of two processes, learning rate, whether some trajectories cannot be read
RUNS: dict[str, tuple[str, int, float, bool]] = {
    "vjepa2_ac": ("vjepa2_ac", 2, 0.1, False),
    "eb_jepa": ("eb_jepa", 4, 0.01, False),  # its regulariser, whose gradients are large, is that of the global batch
    "broken": ("vjepa2_ac", 2, 0.1, True),  # the second process can read nothing in the first step
}


def make(name: str, folder: Path, single: bool = False) -> TrajectoryTrainer:
    """The trainer of a run, in two processes or in one."""
    variant, size, rate, broken = RUNS[name]
    config = make_model(variant).config
    samples: list[Any] = draw(config, 24)
    if broken:
        samples[2:4] = [unreadable(config, number) for number in (2, 3)]
    options = dict.fromkeys(("learning_rate", "start_learning_rate", "final_learning_rate"), rate)
    options |= {"per_device_train_batch_size": 2 * size if single else size, "per_device_eval_batch_size": 3}
    trainer = make_trainer(folder / name, samples, variant, eval_dataset=draw(config, 12, 1), **options)
    trainer._get_train_sampler = lambda *args: SequentialSampler(trainer.train_dataset)
    return trainer


def train_two(folder: Path) -> None:
    for name in RUNS:
        keep_run(make(name, folder), folder, name)
