"""Mask sampling: the default sampler beside the official algorithm, restated."""

from collections.abc import Iterator

import torch
from timing import Row, medians

from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler


BATCH_SIZE = 64
LIMIT_MS = 1.5  # for 64 images of 14 x 14 tokens
STEPS = 20  # per reading, each with other block sizes


def run(quick: bool) -> Iterator[Row]:
    """Three grids, the first of them twice: once against its limit, once beside the official algorithm."""
    index = torch.arange(BATCH_SIZE)
    for grid in (14, 16, 28):
        ours, official = MultiBlockMaskSampler(grid), OfficialMultiBlockMaskSampler(grid)
        torch.manual_seed(0)
        times = medians(
            lambda ours=ours: [ours(index, step=step) for step in range(STEPS)],
            lambda official=official: [official(index, step=step) for step in range(STEPS)],
            repeats=1 if quick else 7,
        )
        ours_ms, official_ms = (time / STEPS for time in times)
        what = f"masks of {BATCH_SIZE} images, {grid} x {grid}"
        if grid == 14:
            yield Row(what, "limit", ours_ms, None, LIMIT_MS)
        yield Row(what, "official sampler", ours_ms, official_ms, None)
