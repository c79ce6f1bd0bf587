"""Mask sampling: the default samplers beside the official algorithms, restated."""

from collections.abc import Iterator

import torch
from official_masks import RestatedClipMasks
from timing import Row, medians

from hf_jepa.masking.block_mask import VJEPA_MASKS
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock3d import MultiBlock3dMaskSampler
from hf_jepa.masking.multiblock3d_official import OfficialMultiBlock3dMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler


BATCH_SIZE = 64
LIMIT_MS = 1.5  # for 64 images of 14 x 14 tokens
CLIPS = 24
CLIP_GRIDS = ((8, 14, 14), (8, 16, 16), (32, 14, 14), (32, 16, 16))
CLIP_LIMIT = 0.2  # of the time of the restated official algorithm
STEPS = 20  # per reading, each with other block sizes


def run(quick: bool) -> Iterator[Row]:
    """Images, then clips."""
    repeats = 1 if quick else 7
    yield from _images(repeats)
    for grid in CLIP_GRIDS:
        yield from _clips(grid, repeats)


def _images(repeats: int) -> Iterator[Row]:
    """Three grids, the first of them twice: once against its limit, once beside the official algorithm."""
    index = torch.arange(BATCH_SIZE)
    for grid in (14, 16, 28):
        ours, official = MultiBlockMaskSampler(grid), OfficialMultiBlockMaskSampler(grid)
        torch.manual_seed(0)
        times = medians(
            lambda ours=ours: [ours(index, step=step) for step in range(STEPS)],
            lambda official=official: [official(index, step=step) for step in range(STEPS)],
            repeats=repeats,
        )
        ours_ms, official_ms = (time / STEPS for time in times)
        what = f"masks of {BATCH_SIZE} images, {grid} x {grid}"
        if grid == 14:
            yield Row(what, "limit", ours_ms, None, LIMIT_MS)
        yield Row(what, "official sampler", ours_ms, official_ms, None)


def _clips(grid: tuple[int, int, int], repeats: int) -> Iterator[Row]:
    """The short-range and the long-range mask: ours beside the restatement, and our official mode beside it."""
    index = torch.arange(CLIPS)
    ours, exact = MultiBlock3dMaskSampler(grid), OfficialMultiBlock3dMaskSampler(grid)
    _require_same_masks(exact, grid)

    def restated() -> None:
        pairs = [RestatedClipMasks(mask, grid) for mask in VJEPA_MASKS]
        for _ in range(STEPS):
            for pair in pairs:
                pair.draw(CLIPS)

    torch.manual_seed(0)
    times = medians(
        lambda: [ours(index, step=step) for step in range(STEPS)],
        lambda: [exact(index, step=step) for step in range(STEPS)],
        restated,
        repeats=repeats,
    )
    ours_ms, exact_ms, restated_ms = (time / STEPS for time in times)
    what = f"masks of {CLIPS} clips, {' x '.join(map(str, grid))}"
    yield Row(what, "restated official sampler", ours_ms, restated_ms, CLIP_LIMIT)
    yield Row(f"{what}, official mode", "restated official sampler", exact_ms, restated_ms, None)


def _require_same_masks(exact: OfficialMultiBlock3dMaskSampler, grid: tuple[int, int, int]) -> None:
    """The restatement and our official mode draw the same masks from the same random state."""
    torch.manual_seed(0)
    contexts, targets = exact(torch.arange(CLIPS), step=0)
    torch.manual_seed(0)
    for i, mask in enumerate(VJEPA_MASKS):
        context, target = RestatedClipMasks(mask, grid).draw(CLIPS)
        if not (torch.equal(context, contexts[i]) and torch.equal(target, targets[i])):
            raise AssertionError(f"the restated sampler draws other masks than the official mode on {grid}: {mask}")
