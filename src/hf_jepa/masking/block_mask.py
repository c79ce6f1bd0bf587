"""Settings of multi-block masks of clips (V-JEPA, arXiv 2404.08471, section 3), checked once for both modes."""

from dataclasses import KW_ONLY, dataclass

from hf_jepa.masking.settings import as_range


@dataclass(frozen=True)
class BlockMask:
    """One mask pair of a clip: the target is the union of blocks, the context what they leave.

    Fields have the names of the official recipes, so a mask of such a recipe is `BlockMask(**mask)`. The official
    masks are in `hf_jepa.masking`: `VJEPA_MASKS`, the short-range and the long-range mask of V-JEPA 1 and 2, and
    `VJEPA21_IMAGE_MASKS`, the one mask of images in V-JEPA 2.1.

    Args:
        num_blocks: blocks per clip; they may overlap one another.
        spatial_scale: range of a block's share of a frame; one number for a fixed share.
        temporal_scale: range of a block's share of the frames; one number for a fixed share.
        aspect_ratio: range of a block's height / width.
        max_keep: context tokens at most. None: no limit.
        max_temporal_keep: the context sees this share of the frames, the first ones; the others are target.
        full_complement: the target is every token that is not in the (shortened) context.
        pred_full_complement: the context is every token that is not in the (shortened) target.
        inv_block: swap context and target at the end.

    Raises:
        ValueError: a setting is out of range, or two of them exclude one another.

    Example:
        >>> BlockMask(num_blocks=8, spatial_scale=0.15).spatial_scale
        (0.15, 0.15)
    """

    num_blocks: int
    spatial_scale: float | tuple[float, float]
    _: KW_ONLY
    temporal_scale: float | tuple[float, float] = (1.0, 1.0)
    aspect_ratio: float | tuple[float, float] = (0.75, 1.5)
    max_keep: int | None = None
    max_temporal_keep: float = 1.0
    full_complement: bool = False
    pred_full_complement: bool = False
    inv_block: bool = False

    def __post_init__(self):
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {self.num_blocks}")
        for name, largest in (("spatial_scale", 1.0), ("temporal_scale", 1.0), ("aspect_ratio", float("inf"))):
            given = getattr(self, name)
            pair = (given, given) if isinstance(given, int | float) else given
            object.__setattr__(self, name, as_range(name, pair, largest))
        if self.max_keep is not None and self.max_keep < 1:
            raise ValueError(f"max_keep must be at least 1, or None for no limit, got {self.max_keep}")
        if not 0 < self.max_temporal_keep <= 1:
            raise ValueError(f"max_temporal_keep must be in (0, 1], got {self.max_temporal_keep}")
        if self.pred_full_complement and (self.full_complement or self.max_keep is not None):
            other = "full_complement" if self.full_complement else f"max_keep={self.max_keep}"
            raise ValueError(
                f"pred_full_complement makes the context of all tokens that the target leaves, so {other} has no "
                "effect: drop one of the two"
            )

    def context_frames(self, num_frames: int) -> int:
        """How many of the first `num_frames` token frames the context may see, at least one."""
        return max(1, int(num_frames * self.max_temporal_keep))


SHORT_RANGE = BlockMask(num_blocks=8, spatial_scale=0.15)
LONG_RANGE = BlockMask(num_blocks=2, spatial_scale=0.7)
VJEPA_MASKS = (SHORT_RANGE, LONG_RANGE)
VJEPA21_IMAGE_MASKS = (BlockMask(num_blocks=10, spatial_scale=0.15),)


@dataclass(frozen=True)
class MultiBlock3dSettings:
    """Token grid and mask pairs of a sampler of clips.

    Args:
        grid_size: (frames, rows, columns) in tokens; an image has one frame.
        masks: the mask pairs, in the order of the predictor's mask tokens.

    Raises:
        ValueError: no grid of three positive extents, or no mask.
        TypeError: a mask is not a `BlockMask`.
    """

    grid_size: tuple[int, int, int]
    masks: tuple[BlockMask, ...] = VJEPA_MASKS

    def __post_init__(self):
        object.__setattr__(self, "grid_size", as_video_grid(self.grid_size))
        object.__setattr__(self, "masks", tuple(self.masks))
        if not self.masks:
            raise ValueError("masks is empty: a sampler needs at least one BlockMask")
        for mask in self.masks:
            if not isinstance(mask, BlockMask):
                raise TypeError(f"masks must be BlockMasks, got {mask!r}: write BlockMask(num_blocks=..., ...)")


def as_video_grid(grid_size) -> tuple[int, int, int]:
    """Check a token grid and return it as (frames, rows, columns).

    Raises:
        ValueError: not three positive integers.
    """
    try:
        grid = tuple(grid_size)
    except TypeError:
        grid = ()
    if len(grid) != 3 or any(int(extent) != extent for extent in grid) or min(grid) < 1:
        raise ValueError(
            f"grid_size must be (frames, rows, columns) in tokens, got {grid_size}; an image is (1, rows, columns)"
        )
    return tuple(int(extent) for extent in grid)


__all__ = [
    "LONG_RANGE",
    "SHORT_RANGE",
    "VJEPA21_IMAGE_MASKS",
    "VJEPA_MASKS",
    "BlockMask",
    "MultiBlock3dSettings",
    "as_video_grid",
]
