"""Mask samplers: which tokens the context encoder sees, and which the predictor must predict."""

from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.masking.masks import Masks
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.masking.random_ratio_official import OfficialRandomRatioMaskSampler
from hf_jepa.masking.settings import MultiBlockSettings


__all__ = [
    "Masks",
    "MultiBlockMaskSampler",
    "MultiBlockSettings",
    "OfficialMultiBlockMaskSampler",
    "OfficialRandomRatioMaskSampler",
    "build_mask_sampler",
]
