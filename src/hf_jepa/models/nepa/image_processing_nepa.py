"""NEPA image processor: that of I-JEPA with the official evaluation's numbers.

The processor beside the Hub's files squeezes images into the square; the official evaluation only takes its pixel
statistics (0.5) and resizes the short side, bicubic, before it cuts out the centre. So does this one.
"""

from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling

from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor


class NepaImageProcessor(IJepaImageProcessor):
    """Turn images of any size into normalised pixels for NEPA.

    A saved processor loads in stock transformers (`AutoImageProcessor.from_pretrained`) as the native BiT processor
    with these values, without this package.

    Args:
        kwargs: fields of a native processor, as in `IJepaImageProcessor`.

    Example:
        >>> import numpy as np
        >>> from hf_jepa import NepaConfig, NepaImageProcessor
        >>> processor = NepaImageProcessor.from_config(NepaConfig(image_size=32))
        >>> processor(np.zeros((40, 50, 3), np.uint8), return_tensors="pt").pixel_values.unique().tolist()
        [-1.0]
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD


__all__ = ["NepaImageProcessor"]
