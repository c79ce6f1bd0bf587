"""Random tubes: a random share of the places of a frame is the target in all frames, the rest the context."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hf_jepa.masking.block_mask import as_video_grid
from hf_jepa.masking.counter_rng import hash_integers
from hf_jepa.masking.masks import Masks, batch_indices, keep_random_tokens


@dataclass(frozen=True)
class RandomTubeSettings:
    """Token grid and share of random tubes.

    Args:
        grid_size: (frames, rows, columns) in tokens; an image has one frame.
        ratio: share of the places of a frame that are the target; several numbers for several mask pairs.

    Raises:
        ValueError: no grid of three positive extents, or a ratio that leaves no context or no target.
    """

    grid_size: tuple[int, int, int]
    ratio: float | Sequence[float] = 0.9

    def __post_init__(self):
        object.__setattr__(self, "grid_size", as_video_grid(self.grid_size))
        ratios = (self.ratio,) if isinstance(self.ratio, int | float) else tuple(self.ratio)
        object.__setattr__(self, "ratio", ratios)
        if not ratios:
            raise ValueError("ratio is empty: a sampler needs at least one")
        _, rows, columns = self.grid_size
        for ratio in ratios:
            kept = self._num_kept(ratio)
            if not 0 < kept < rows * columns:
                raise ValueError(
                    f"ratio {ratio} keeps {kept} of {rows} x {columns} places as context: choose a ratio in (0, 1) "
                    f"that leaves 1 to {rows * columns - 1}"
                )

    def _num_kept(self, ratio: float) -> int:
        raise NotImplementedError

    def _tubes(self, is_context: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of context and target, sorted, of bool places (B, H * W) with as many true in each row."""
        batch_size, frames = len(is_context), self.grid_size[0]
        through_time = np.tile(is_context, frames)  # (B, T * H * W)
        both = (np.flatnonzero(member) % through_time.shape[1] for member in (through_time, ~through_time))
        context, target = (torch.from_numpy(tokens.reshape(batch_size, -1)) for tokens in both)
        return context, target


@dataclass(frozen=True)
class RandomTubeMaskSampler(RandomTubeSettings):
    """Random tubes that depend on (seed, step, epoch, dataset index) only.

    Args:
        grid_size, ratio: see `RandomTubeSettings`; the number of context places is rounded to the nearest.
        seed: another seed, other masks.

    Example:
        >>> import torch
        >>> masks = RandomTubeMaskSampler((8, 14, 14))(torch.arange(2), step=0)
        >>> masks.context_mask[0].shape, masks.target_mask[0].shape
        (torch.Size([2, 160]), torch.Size([2, 1408]))
    """

    seed: int = 0

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,), the dataset index of each clip.
            step: optimizer step, so that a clip that comes again within an epoch gets other masks.
            epoch: pass over the data.

        Returns:
            Masks on the CPU, a pair per ratio, that together hold every token once.
        """
        num_places = self.grid_size[1] * self.grid_size[2]
        key = hash_integers(self.seed, step, epoch, batch_indices(sample_index))[:, None]  # (B, 1)
        masks = Masks([], [])
        for i, ratio in enumerate(self.ratio):
            keys = hash_integers(hash_integers(key, i), np.arange(num_places))
            kept = keep_random_tokens(np.ones(keys.shape, dtype=bool), self._num_kept(ratio), keys)
            is_context = np.zeros(keys.shape, dtype=bool)
            np.put_along_axis(is_context, kept, True, axis=1)
            for group, tokens in zip(masks, self._tubes(is_context), strict=True):
                group.append(tokens)
        return masks

    def _num_kept(self, ratio: float) -> int:
        return round(self.grid_size[1] * self.grid_size[2] * (1 - ratio))


@dataclass(frozen=True)
class OfficialRandomTubeMaskSampler(RandomTubeSettings):
    """Random tubes as the official V-JEPA 1 code draws them (`src/masks/random_tube.py`), index for index.

    They come from the global numpy generator, which the official program seeds once, alike on every rank.

    Args:
        grid_size, ratio: see `RandomTubeSettings`; the number of context places is rounded down, rounding errors of
            floating point included (ratio 0.9 keeps none of 10 places).

    Example:
        >>> import numpy, torch
        >>> numpy.random.seed(0)
        >>> masks = OfficialRandomTubeMaskSampler((8, 14, 14))(torch.arange(2), step=0)
        >>> masks.context_mask[0].shape, masks.target_mask[0].shape
        (torch.Size([2, 152]), torch.Size([2, 1416]))
    """

    def __call__(self, sample_index: torch.Tensor, *, step: int, epoch: int = 0) -> Masks:
        """Draw the masks of one batch.

        Args:
            sample_index: LongTensor (B,); only its length is used.
            step, epoch: not used; the global numpy generator already moves on from batch to batch.

        Returns:
            Masks on the CPU, a pair per ratio, that together hold every token once.
        """
        batch_size = len(batch_indices(sample_index))
        num_places = self.grid_size[1] * self.grid_size[2]
        masks = Masks([], [])
        for ratio in self.ratio:
            is_context = np.zeros((batch_size, num_places), dtype=bool)
            is_context[:, num_places - self._num_kept(ratio) :] = True
            for clip in is_context:
                np.random.shuffle(clip)
            for group, tokens in zip(masks, self._tubes(is_context), strict=True):
                group.append(tokens)
        return masks

    def _num_kept(self, ratio: float) -> int:
        return int(self.grid_size[1] * self.grid_size[2] * (1 - ratio))


__all__ = ["OfficialRandomTubeMaskSampler", "RandomTubeMaskSampler", "RandomTubeSettings"]
