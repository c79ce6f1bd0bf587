"""Batches of one group of samples or of several, each of one size, their masks, and what a model says of each mask."""

from collections.abc import Callable, Sequence

import torch

from hf_jepa.core.clips import as_groups
from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.losses.prediction import prediction_loss
from hf_jepa.masking.masks import Masks


Groups = torch.Tensor | Sequence[torch.Tensor]
GroupMasks = Sequence[torch.Tensor] | Sequence[Sequence[torch.Tensor]]


def draw_masks(
    sampler: Callable[..., Masks | list[Masks]],
    sample_index: Groups,
    grids: Sequence[tuple[int, ...]],
    step: int,
    epoch: int,
    samples: str = "images",
) -> dict[str, GroupMasks]:
    """The masks of a batch, as the arguments of a pretraining model.

    Args:
        sampler: of one token grid, or a `MultiSequenceMaskSampler`, which has `grid_sizes`. One that returns a bool
            tensor (B, N) says which tokens are hidden in their places.
        sample_index: LongTensor (B,), or one for every group.
        grids: of every group its token grid.
        step, epoch: as the sampler takes them.
        samples: what the batch is of, for messages.

    Raises:
        ValueError: masks for another token grid than that of the samples, several groups for a sampler of one grid.

    Example:
        >>> from hf_jepa import MultiBlockMaskSampler
        >>> sampler = MultiBlockMaskSampler((8, 8), min_keep=4)
        >>> sorted(draw_masks(sampler, torch.arange(2), [(8, 8)], step=0, epoch=0))
        ['context_mask', 'target_mask']
    """
    groups = [index.cpu() for index in as_groups(sample_index)]
    if hasattr(sampler, "grid_sizes"):
        drawn = sampler(groups, grid_size=grids, step=step, epoch=epoch)
        return {name: [getattr(masks, name) for masks in drawn] for name in Masks._fields}
    grid = getattr(sampler, "grid_size", grids[0])
    if unlike := [found for found in grids if tuple(grid) != found]:
        raise ValueError(
            f"masks are drawn on a grid of {tuple(grid)} tokens, but the {samples} are {unlike[0]} tokens"
        )
    if len(groups) > 1:
        raise ValueError(f"a batch of {len(groups)} groups of {samples} needs a MultiSequenceMaskSampler")
    drawn = sampler(groups[0], step=step, epoch=epoch)
    return {"bool_masked_pos": drawn} if isinstance(drawn, torch.Tensor) else drawn._asdict()


def group_masks(masks: GroupMasks) -> list[list[torch.Tensor]]:
    """Masks of a batch as one list for every group."""
    return [list(masks)] if isinstance(masks[0], torch.Tensor) else [list(group) for group in masks]


def flat_masks(masks: GroupMasks) -> list[torch.Tensor]:
    """All masks of a batch, ordered (group, mask)."""
    return [mask for group in group_masks(masks) for mask in group]


def by_mask(output: torch.Tensor | Sequence[torch.Tensor], rows: int) -> list[torch.Tensor]:
    """An entry of `JepaForPreTrainingOutput` as one tensor (B, K_i, D) for every mask.

    Args:
        output: a tuple of such tensors, or one tensor whose rows are ordered (mask, sample).
        rows: B of a single tensor.
    """
    return list(output.unflatten(0, (-1, rows))) if isinstance(output, torch.Tensor) else list(output)


def sample_losses(output: JepaForPreTrainingOutput, target_mask: GroupMasks, loss_type: str) -> torch.Tensor:
    """The prediction loss of every sample, the mean over its masks of the mean over their tokens.

    Args:
        output: of a pretraining model.
        target_mask: that it was called with.
        loss_type: see `prediction_loss`.

    Returns:
        (B,), the samples of all groups one after another.
    """
    groups = group_masks(target_mask)
    rows = len(groups[0][0])
    predictions, targets = (by_mask(x, rows) for x in (output.predictions, output.targets))
    counts = [len(masks) for masks in groups] if len(groups) > 1 else [len(predictions)]  # contexts * targets
    losses = []
    for count in counts:
        pairs = [list(zip(predictions.pop(0), targets.pop(0), strict=True)) for _ in range(count)]
        of_masks = [torch.stack([prediction_loss(*pair, loss_type) for pair in samples]) for samples in pairs]
        losses.append(torch.stack(of_masks).mean(dim=0))
    return torch.cat(losses)


__all__ = ["by_mask", "draw_masks", "flat_masks", "group_masks", "sample_losses"]
