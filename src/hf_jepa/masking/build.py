"""Choose a multi-block mask sampler by name, as scripts and the command line do."""

from typing import Literal

from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler


_SAMPLERS = {"corrected": MultiBlockMaskSampler, "official": OfficialMultiBlockMaskSampler}


def build_mask_sampler(
    mode: Literal["corrected", "official"] = "corrected", **settings
) -> MultiBlockMaskSampler | OfficialMultiBlockMaskSampler:
    """Build the multi-block mask sampler of a mode.

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
    if mode not in _SAMPLERS:
        raise ValueError(f"unknown mask mode {mode!r}: choose one of {sorted(_SAMPLERS)}")
    return _SAMPLERS[mode](**settings)


__all__ = ["build_mask_sampler"]
