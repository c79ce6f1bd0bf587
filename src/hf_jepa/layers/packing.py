"""Several batches of token sequences in one tensor, so that a network runs once on all of them.

Masks of different lengths, clips of different lengths: everything in a transformer but its attention works token by
token. So the sequences lie one after another, and the attention alone is computed batch by batch, which is exact and
needs no padding.
"""

from collections.abc import Sequence

import torch


class Packing:
    """How batches of sequences (B_i, N_i, D) lie in one tensor.

    Batches of one length N are stacked to (sum of B_i, N, D), others flattened to (1, sum of B_i * N_i, D).

    Args:
        shapes: (B_i, N_i) of every batch.

    Example:
        >>> packing = Packing([(2, 3), (2, 5)])
        >>> x = packing.join([torch.zeros(2, 3, 4), torch.ones(2, 5, 4)])
        >>> x.shape, [part.shape for part in packing.split(x)]
        (torch.Size([1, 16, 4]), [torch.Size([2, 3, 4]), torch.Size([2, 5, 4])])
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]):
        self.shapes = tuple(shapes)
        # Compared, not put into a set: hashing a length would make a compiled model compile anew for every length.
        self.stacked = all(length == self.shapes[0][1] for _, length in self.shapes)

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Batches (B_i or 1, N_i, ...) to one tensor; those of one row are repeated."""
        if len(parts) == 1:
            return parts[0]
        parts = [part.expand(shape[0], *part.shape[1:]) for part, shape in zip(parts, self.shapes, strict=True)]
        if self.stacked:
            return torch.cat(parts)
        return torch.cat([part.flatten(0, 1) for part in parts]).unsqueeze(0)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """One tensor to its batches (B_i, N_i, ...), which are views of it."""
        if len(self.shapes) == 1:
            return [x]
        if self.stacked:
            return list(x.split([rows for rows, _ in self.shapes]))
        parts = x[0].split([rows * length for rows, length in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def last(self, lengths: Sequence[int]) -> "Packing":
        """The packing of the last tokens of every sequence, so many for every batch."""
        return Packing([(rows, kept) for (rows, _), kept in zip(self.shapes, lengths, strict=True)])

    def take_last(self, x: torch.Tensor, kept: "Packing") -> torch.Tensor:
        """The tokens of `kept = self.last(...)` out of a tensor of this packing."""
        parts = zip(self.split(x), kept.shapes, strict=True)
        return kept.join([part[:, part.shape[1] - length :] for part, (_, length) in parts])


__all__ = ["Packing"]
