"""Masks of batches that hold clips of several lengths: a sampler per token grid (V-JEPA 2, arXiv 2506.09985)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hf_jepa.masking.block_mask import as_video_grid
from hf_jepa.masking.masks import Masks


@dataclass(frozen=True)
class MultiSequenceMaskSampler:
    """One sampler per token grid; the groups of a batch find theirs by their grid.

    A batch comes as groups of clips of one length. Official samplers share the global random state, in the order of
    the official collator (`src/masks/multiseq_multiblock3d.py`) if they are listed in the order in which their clip
    lengths first occur among the datasets: groups are drawn in that order, whatever order they are passed in.

    Args:
        samplers: samplers of clips or images, each with a `grid_size` (frames, rows, columns); equal ones collapse.

    Raises:
        ValueError: no sampler, or different samplers for one grid.

    Example:
        >>> import torch
        >>> from hf_jepa import build_video_mask_sampler
        >>> grids = [(8, 14, 14), (32, 14, 14)]
        >>> sampler = MultiSequenceMaskSampler([build_video_mask_sampler(grid_size=grid) for grid in grids])
        >>> groups = [torch.tensor([5, 17]), torch.tensor([4])]  # dataset indices of two short clips and a long one
        >>> short, long = sampler(groups, grid_size=grids, step=0, epoch=0)
        >>> short.context_mask[0].shape[0], long.context_mask[0].shape[0]
        (2, 1)
    """

    samplers: tuple[Callable[..., Masks], ...]

    def __post_init__(self):
        found = {}
        for sampler in self.samplers:
            if found.setdefault(sampler.grid_size, sampler) != sampler:
                raise ValueError(
                    f"two different samplers for the grid {sampler.grid_size}: {found[sampler.grid_size]} "
                    f"and {sampler}"
                )
        if not found:
            raise ValueError("samplers is empty: pass one sampler per token grid")
        object.__setattr__(self, "samplers", tuple(found.values()))

    @property
    def grid_sizes(self) -> list[tuple[int, int, int]]:
        """The token grids (frames, rows, columns), in the order in which they are drawn."""
        return [sampler.grid_size for sampler in self.samplers]

    def __call__(
        self,
        sample_index: Sequence[torch.Tensor],
        *,
        grid_size: Sequence[tuple[int, int, int]],
        step: int | Sequence[int],
        epoch: int = 0,
    ) -> list[Masks]:
        """Draw the masks of the groups of one batch.

        Args:
            sample_index: per group a LongTensor (B_g,), the dataset indices of its clips.
            grid_size: per group its token grid (frames, rows, columns), each grid once.
            step: optimizer step; or one number per group. The official collator counts batches length by length: where
                some batches lack a length, its counter is the number of earlier batches that had it.
            epoch: pass over the data.

        Returns:
            Per group its masks, in the order of the groups.

        Raises:
            ValueError: numbers of groups differ, or a grid has no sampler or comes twice.
        """
        grids = [as_video_grid(grid) for grid in grid_size]
        steps = [step] * len(grids) if isinstance(step, int) else list(step)
        if not len(sample_index) == len(grids) == len(steps):
            raise ValueError(
                f"{len(sample_index)} groups of sample_index, {len(grids)} of grid_size and {len(steps)} of step: "
                "they must be as many"
            )
        for grid in grids:
            if grid not in self.grid_sizes or grids.count(grid) > 1:
                fault = "comes twice: put its clips into one group" if grid in self.grid_sizes else "has no sampler"
                raise ValueError(f"the grid {grid} {fault}; samplers are for {self.grid_sizes}")
        masks = {
            grid: sampler(sample_index[grids.index(grid)], step=steps[grids.index(grid)], epoch=epoch)
            for grid, sampler in zip(self.grid_sizes, self.samplers, strict=True)
            if grid in grids
        }
        return [masks[grid] for grid in grids]


__all__ = ["MultiSequenceMaskSampler"]
