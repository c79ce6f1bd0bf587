"""Tells the training data set its epoch where the data loader does not."""

from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SetEpochCallback(TrainerCallback):
    """Call `set_epoch` of the training data set at the start of every epoch.

    The loaders of accelerate forward the epoch to a data set only if they find no sampler to forward it to. With the
    seedable sampler, on by default, that leaves out runs with several ranks and the epoch in which a run resumes:
    without this callback they would repeat the crops of the first epoch. Streams need no help and are left alone.

    Example:
        >>> SetEpochCallback().on_epoch_begin.__name__
        'on_epoch_begin'
    """

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        dataset = getattr(train_dataloader, "dataset", None)
        if hasattr(dataset, "set_epoch") and not isinstance(dataset, IterableDataset):
            dataset.set_epoch(int(state.epoch or 0))  # 1.5 when a run resumes in the middle of its second epoch


__all__ = ["SetEpochCallback"]
