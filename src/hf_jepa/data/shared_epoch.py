"""The epoch of a data set, visible to loader workers that are already running, and the data sets that have one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_jepa.data.transforms import sample_rng


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


class EpochDataset(Dataset):
    """A data set in which what is random in a sample follows from (seed, epoch, index) alone.

    What it reads from, `self.dataset`, is told the epoch, too, where it wants to know it.

    Args:
        seed: of what is random.

    Raises:
        ValueError: a negative seed.
    """

    items = "samples"  # what an error calls them

    def __init__(self, seed: int):
        self.seed = seed
        self._epoch = SharedEpoch(seed)

    def rng(self, index: int) -> np.random.Generator:
        """The random numbers of a sample in the present epoch."""
        return sample_rng(self.seed, self.epoch, index)

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are in use."""
        return self._epoch.get()

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of an epoch, in running persistent workers too."""
        self._epoch.set(epoch)
        if hasattr(dataset := getattr(self, "dataset", None), "set_epoch"):
            dataset.set_epoch(epoch)


class RowDataset(EpochDataset):
    """Map-style `EpochDataset` of rows. Sub-classes have `__len__` and `sample`.

    Example:
        >>> class Dice(RowDataset):
        ...     items = "throws"
        ...     def __len__(self): return 10
        ...     def sample(self, index, rng): return int(rng.integers(1, 7))
        >>> dice = Dice(seed=0)
        >>> first = list(dice)
        >>> dice.set_epoch(1)
        >>> list(dice) == first, dice.epoch
        (False, 1)
    """

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        """The sample of row `index`, 0..length - 1, with given random numbers."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """The sample at `index` in the present epoch, see `sample`."""
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} {self.items}")
        index %= len(self)
        return self.sample(index, self.rng(index))


class EndlessDataset(EpochDataset):
    """An `EpochDataset` whose samples are made: a batch at a time, by `__getitems__`, and others in every epoch.

    Args:
        length: samples per epoch.
        seed: of what is random.

    Raises:
        ValueError: a length below 1, or a negative seed.
    """

    def __init__(self, length: int, seed: int):
        super().__init__(seed)
        if length < 1:
            raise ValueError(f"an epoch needs {self.items}, got length={length}")
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """A batch of samples at once; PyTorch's loader calls this where it exists."""
        raise NotImplementedError

    def rngs(self, indices: Sequence[int]) -> list[np.random.Generator]:
        """The random numbers of samples in the present epoch.

        Raises:
            IndexError: an index out of range.
        """
        if wrong := [index for index in indices if not 0 <= index < self.length]:
            raise IndexError(f"index {wrong[0]} is out of range for {self.length} {self.items}")
        return [self.rng(int(index)) for index in indices]


__all__ = ["EndlessDataset", "EpochDataset", "RowDataset", "SharedEpoch"]
