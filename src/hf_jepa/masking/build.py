"""Choose a mask sampler by name, as scripts and the command line do."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hf_jepa.masking.block_mask import BlockMask
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock3d import MultiBlock3dMaskSampler
from hf_jepa.masking.multiblock3d_official import OfficialMultiBlock3dMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.masking.random_tube import OfficialRandomTubeMaskSampler, RandomTubeMaskSampler


Mode = Literal["corrected", "official"]
VideoMaskSampler = (
    MultiBlock3dMaskSampler | OfficialMultiBlock3dMaskSampler | RandomTubeMaskSampler | OfficialRandomTubeMaskSampler
)

_IMAGE_SAMPLERS = {"corrected": MultiBlockMaskSampler, "official": OfficialMultiBlockMaskSampler}
_VIDEO_SAMPLERS = {
    "multiblock3d": {"corrected": MultiBlock3dMaskSampler, "official": OfficialMultiBlock3dMaskSampler},
    "random_tube": {"corrected": RandomTubeMaskSampler, "official": OfficialRandomTubeMaskSampler},
}


def build_mask_sampler(mode: Mode = "corrected", **settings) -> MultiBlockMaskSampler | OfficialMultiBlockMaskSampler:
    """Build the multi-block mask sampler of a mode for images (I-JEPA).

    Args:
        mode: "corrected" (the default, unbiased and reproducible) or "official" (index-exact with the official code).
        settings: arguments of `MultiBlockMaskSampler`; "official" knows no `context_length` and no `seed`.

    Returns:
        A sampler: `masks = sampler(sample_index, step=step, epoch=epoch)`.

    Raises:
        ValueError: unknown mode, or settings that no mask can satisfy.
        TypeError: a setting that the mode does not know.

    Example:
        >>> build_mask_sampler("corrected", grid_size=14).grid_size
        (14, 14)
    """
    return _choose(_IMAGE_SAMPLERS, mode, "mask mode")(**settings)


def build_video_mask_sampler(
    mode: Mode = "corrected",
    *,
    grid_size: tuple[int, int, int],
    kind: Literal["multiblock3d", "random_tube"] = "multiblock3d",
    masks: Sequence[BlockMask | Mapping[str, Any]] | None = None,
    **settings,
) -> VideoMaskSampler:
    """Build the mask sampler of a mode and kind for clips of one length (V-JEPA), or for images as clips of one frame.

    Args:
        mode: "corrected" (the default, unbiased and reproducible) or "official" (index-exact with the official code).
        grid_size: (frames, rows, columns) in tokens.
        kind: "multiblock3d", unions of blocks, or "random_tube", random places through all frames.
        masks: of "multiblock3d", its mask pairs as `BlockMask`s or as mappings of its fields, which may have the names
            of the official recipes. None: the short-range and the long-range mask of V-JEPA.
        settings: `ratio` of "random_tube"; `seed` of "corrected".

    Returns:
        A sampler: `masks = sampler(sample_index, step=step, epoch=epoch)`. For batches of clips of several lengths,
        put several into a `MultiSequenceMaskSampler`.

    Raises:
        ValueError: unknown mode or kind, or settings that no mask can satisfy.
        TypeError: a setting that the sampler does not know.

    Example:
        >>> recipe = [{"num_blocks": 8, "spatial_scale": 0.15}, {"num_blocks": 2, "spatial_scale": 0.7}]
        >>> build_video_mask_sampler("official", grid_size=(8, 16, 16), masks=recipe).masks[1].spatial_scale
        (0.7, 0.7)
    """
    if masks is not None:
        settings["masks"] = tuple(BlockMask(**mask) if isinstance(mask, Mapping) else mask for mask in masks)
    sampler_class = _choose(_choose(_VIDEO_SAMPLERS, kind, "kind of masks"), mode, "mask mode")
    return sampler_class(grid_size=grid_size, **settings)


def _choose(table: Mapping[str, Any], name: str, what: str):
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose one of {sorted(table)}")
    return table[name]


__all__ = ["VideoMaskSampler", "build_mask_sampler", "build_video_mask_sampler"]
