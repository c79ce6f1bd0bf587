"""Mask samplers: which tokens the context encoder sees, and which the predictor must predict."""

from hf_jepa.masking.block_mask import VJEPA21_IMAGE_MASKS, VJEPA_MASKS, BlockMask, MultiBlock3dSettings
from hf_jepa.masking.build import build_mask_sampler, build_video_mask_sampler
from hf_jepa.masking.masks import Masks
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock3d import MultiBlock3dMaskSampler
from hf_jepa.masking.multiblock3d_official import OfficialMultiBlock3dMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.masking.random_ratio_official import OfficialRandomRatioMaskSampler
from hf_jepa.masking.random_tube import OfficialRandomTubeMaskSampler, RandomTubeMaskSampler, RandomTubeSettings
from hf_jepa.masking.settings import MultiBlockSettings


__all__ = [
    "VJEPA21_IMAGE_MASKS",
    "VJEPA_MASKS",
    "BlockMask",
    "Masks",
    "MultiBlock3dMaskSampler",
    "MultiBlock3dSettings",
    "MultiBlockMaskSampler",
    "MultiBlockSettings",
    "MultiSequenceMaskSampler",
    "OfficialMultiBlock3dMaskSampler",
    "OfficialMultiBlockMaskSampler",
    "OfficialRandomRatioMaskSampler",
    "OfficialRandomTubeMaskSampler",
    "RandomTubeMaskSampler",
    "RandomTubeSettings",
    "build_mask_sampler",
    "build_video_mask_sampler",
]
