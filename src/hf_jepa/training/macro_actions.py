"""What a hierarchical world model must know of its data after training: which macro-actions there are."""

from collections.abc import Callable

from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset


MOST_TRAJECTORIES = 1024  # thousands of macro-actions: enough for the 2nd and 98th percentile


def measure_macro_actions(model: nn.Module, data: Dataset, collator: Callable, batch_size: int) -> None:
    """Call `fit_macro_actions` of a model, where it has that, with actions of its data.

    Every process reads the same trajectories, so that all of them save the same numbers.

    Args:
        model: after training.
        data: a data set with a length; of a longer one `MOST_TRAJECTORIES`, evenly chosen.
        collator: gives batches with `actions`.
        batch_size: of reading.
    """
    if not hasattr(model, "fit_macro_actions"):
        return
    stride = max(1, len(data) // MOST_TRAJECTORIES)
    chosen = Subset(data, range(0, len(data), stride)[:MOST_TRAJECTORIES])
    batches = DataLoader(chosen, batch_size=batch_size, collate_fn=collator)
    model.fit_macro_actions(batch["actions"] for batch in batches if "actions" in batch)


__all__ = ["MOST_TRAJECTORIES", "measure_macro_actions"]
