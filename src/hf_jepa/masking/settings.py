"""Settings of multi-block masking, shared and checked once for both of its modes."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real


def as_range(name: str, given: Sequence[float], largest: float) -> tuple[float, float]:
    """Check a range of a setting and return it as two floats.

    Raises:
        ValueError: not two numbers (low, high) with 0 < low <= high <= largest.
    """
    values = tuple(float(value) for value in ([given] if isinstance(given, Real) else given))
    if len(values) != 2 or not 0 < values[0] <= values[1] <= largest:
        raise ValueError(f"{name} must be a range (low, high) with 0 < low <= high <= {largest}, got {given}")
    return values


@dataclass(frozen=True)
class MultiBlockSettings:
    """Sizes and numbers of the blocks of multi-block masking (I-JEPA, arXiv 2301.08243, section 3).

    Args:
        grid_size: tokens per side of the square token grid, or (rows, columns).
        context_scale: range of the context block's share of the grid.
        target_scale: range of one target block's share of the grid.
        target_aspect_ratio: range of a target block's height / width.
        num_context_masks: context blocks per image.
        num_target_masks: target blocks per image; they may overlap one another.
        min_keep: every mask must keep more tokens than this.
        allow_overlap: leave target tokens in the context.

    Raises:
        ValueError: a setting is out of range.
    """

    grid_size: int | tuple[int, int]
    _: KW_ONLY
    context_scale: tuple[float, float] = (0.85, 1.0)
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect_ratio: tuple[float, float] = (0.75, 1.5)
    num_context_masks: int = 1
    num_target_masks: int = 4
    min_keep: int = 10
    allow_overlap: bool = False

    def __post_init__(self):
        grid = (self.grid_size, self.grid_size) if isinstance(self.grid_size, Integral) else tuple(self.grid_size)
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid_size must be a positive number or (rows, columns), got {self.grid_size}")
        object.__setattr__(self, "grid_size", grid)
        for name, largest in (("context_scale", 1.0), ("target_scale", 1.0), ("target_aspect_ratio", float("inf"))):
            object.__setattr__(self, name, as_range(name, getattr(self, name), largest))
        for name, smallest in (("num_context_masks", 1), ("num_target_masks", 1), ("min_keep", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")

    def require_more_than_min_keep(self, kind: str, block_size: tuple[int, int]) -> None:
        """Refuse a block that can never satisfy `min_keep`, for which the official code searches without end.

        Args:
            kind: "context" or "target".
            block_size: (height, width) in tokens.

        Raises:
            ValueError: the block has no more than `min_keep` tokens.
        """
        height, width = block_size
        if height * width > self.min_keep:
            return
        rows, columns = self.grid_size
        raise ValueError(
            f"a {kind} block of {height} x {width} = {height * width} tokens cannot keep more than "
            f"min_keep={self.min_keep} on a {rows} x {columns} grid: lower min_keep, raise {kind}_scale "
            f"{getattr(self, f'{kind}_scale')} or use a finer grid (smaller patches, larger images)"
        )


__all__ = ["MultiBlockSettings", "as_range"]
