"""The epoch of a data set, visible to loader workers that are already running."""

import torch


class SharedEpoch:
    """An epoch number in shared memory.

    Args:
        seed: of the data set that owns it, checked here because the two are used together.

    Raises:
        ValueError: a negative seed or epoch.

    Example:
        >>> epoch = SharedEpoch(seed=0)
        >>> epoch.set(3)
        >>> epoch.get()
        3
    """

    def __init__(self, seed: int):
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.value = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f"epoch must be 0 or more, got {epoch}")
        self.value.fill_(epoch)

    def get(self) -> int:
        return int(self.value)


__all__ = ["SharedEpoch"]
