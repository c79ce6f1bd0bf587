"""Masks of clips drawn as the official V-JEPA collators draw them, restated: clip by clip, block by block."""

import math

import torch

from hf_jepa.masking.block_mask import BlockMask


class RestatedClipMasks:
    """One mask pair; `draw(batch_size)` gives what the official generator gives at its next counter.

    `OfficialMultiBlock3dMaskSampler` draws the same masks from the same random state, which is checked before timing.
    """

    def __init__(self, mask: BlockMask, grid_size: tuple[int, int, int]):
        self.mask, self.grid_size = mask, grid_size
        self.counter = -1

    def draw(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.counter += 1
        size = self._block_size()
        contexts, targets = [], []
        while len(contexts) < batch_size:
            visible = torch.ones(self.grid_size, dtype=torch.int32)
            for _ in range(self.mask.num_blocks):
                visible *= self._one_block(size)
            flat = visible.flatten()
            context = torch.nonzero(flat).squeeze(1)
            if len(context):
                contexts.append(context)
                targets.append(torch.nonzero(flat == 0).squeeze(1))
        shortest_context, shortest_target = min(map(len, contexts)), min(map(len, targets))
        if self.mask.max_keep is not None:
            shortest_context = min(shortest_context, self.mask.max_keep)
        context = torch.stack([tokens[:shortest_context] for tokens in contexts])
        target = torch.stack([tokens[:shortest_target] for tokens in targets])
        if self.mask.full_complement:
            target = self._complement(context)
        return context, target

    def _block_size(self) -> tuple[int, int, int]:
        generator = torch.Generator()
        generator.manual_seed(self.counter)
        frames, rows, columns = self.grid_size
        low, high = self.mask.temporal_scale
        length = max(1, int(frames * (low + torch.rand(1, generator=generator).item() * (high - low))))
        low, high = self.mask.spatial_scale
        area = int(rows * columns * (low + torch.rand(1, generator=generator).item() * (high - low)))
        low, high = self.mask.aspect_ratio
        aspect = low + torch.rand(1, generator=generator).item() * (high - low)
        height, width = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        return length, min(height, rows), min(width, columns)

    def _one_block(self, size: tuple[int, int, int]) -> torch.Tensor:
        (length, height, width), (frames, rows, columns) = size, self.grid_size
        top = int(torch.randint(0, rows - height + 1, (1,)))
        left = int(torch.randint(0, columns - width + 1, (1,)))
        start = int(torch.randint(0, frames - length + 1, (1,)))
        block = torch.ones(self.grid_size, dtype=torch.int32)
        block[start : start + length, top : top + height, left : left + width] = 0
        last = self.mask.context_frames(frames)
        if last < frames:
            block[last:] = 0
        return block

    def _complement(self, tokens: torch.Tensor) -> torch.Tensor:
        """With python sets, as the official code computes it."""
        everything = set(range(math.prod(self.grid_size)))
        return torch.stack([torch.tensor(sorted(everything - set(row.tolist()))) for row in tokens])


__all__ = ["RestatedClipMasks"]
