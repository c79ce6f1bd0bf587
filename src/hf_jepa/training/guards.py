"""What stops a run that would end with nothing of use."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from hf_jepa.core.ema import local_shard


DIVERGED = (
    "lower the learning rate, lengthen the warm-up, or check the data; the last checkpoint is intact, because only "
    "finite weights are saved"
)


class GuardMixin:
    """A `Trainer` that refuses to train on less than a batch, to log a loss of NaN, and to save such weights.

    `dataloader_drop_last` is about training: evaluation counts every row.

    Raises:
        ValueError: fewer training samples than one batch of all processes, with `dataloader_drop_last`.
        FloatingPointError: weights that are NaN or infinite when they would be saved, or such a loss when it is
            logged; steps with such a loss are left out before, see `FiniteStepMixin`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(_FiniteWeights(self))

    def get_train_dataloader(self: Trainer) -> DataLoader:
        loader = super().get_train_dataloader()
        if has_length(self.train_dataset) and len(loader) == 0:
            batch = self.args.train_batch_size * self.args.world_size
            raise ValueError(
                f"{len(self.train_dataset)} training samples do not fill one batch of {batch}: lower "
                "per_device_train_batch_size, or set dataloader_drop_last to false"
            )
        return loader

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        with self._keeping_the_last_batch():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        with self._keeping_the_last_batch():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _keeping_the_last_batch(self: Trainer) -> Iterator[None]:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def log(self: Trainer, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(f"the loss is {logs['loss']} at step {self.state.global_step}: {DIVERGED}")
        super().log(logs, start_time)


class _FiniteWeights(TrainerCallback):
    """Looks at the weights where they are about to be saved, in all processes alike."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def _check(self, state) -> None:
        if found := sorted(set(gather_object(not_finite(self.trainer.model)))):
            raise FloatingPointError(
                f"{len(found)} weights are NaN or infinite after step {state.global_step}, among them {found[0]}: "
                f"{DIVERGED}"
            )

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            self._check(state)

    on_epoch_end = on_step_end

    def on_train_end(self, args, state, control, **kwargs):
        self._check(state)


@torch.no_grad()
def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters of which this process holds a value that is NaN or infinite."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    finite = torch.stack([local_shard(parameter).isfinite().all() for parameter in parameters])
    return [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]


__all__ = ["DIVERGED", "GuardMixin", "not_finite"]
