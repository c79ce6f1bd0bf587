"""I-JEPA image processor: resize the short side, cut out the centre, normalise with ImageNet statistics.

Native transformers gives I-JEPA the ViT processor, which squeezes the image into the square and normalises with 0.5;
the models were trained on crops that keep their shape and on ImageNet's statistics. The function wanted is that of the
native BiT processor, so that class does the work and the saved file names it.
"""

from typing import Any

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.utils import is_torchvision_available

from hf_jepa.layers.patch_embedding import pair


# The class stock AutoImageProcessor chooses for "BitImageProcessor" here: results agree bit for bit.
if is_torchvision_available():
    from transformers.models.bit.image_processing_bit import BitImageProcessor as NativeImageProcessor
else:
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil as NativeImageProcessor


class IJepaImageProcessor(NativeImageProcessor):
    """Turn images of any size into normalised pixels for I-JEPA.

    A saved processor loads in stock transformers (`AutoImageProcessor.from_pretrained`) as the native BiT processor
    with these values, without this package.

    Args:
        size: {"shortest_edge": pixels} of the resized image (bilinear with antialiasing).
        crop_size: {"height", "width"} of the centre crop.
        kwargs: all other fields of a native processor, such as `image_mean`, `image_std` or `do_center_crop`.

    Example:
        >>> import numpy as np
        >>> from hf_jepa import IJepaImageProcessor
        >>> processor = IJepaImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
        >>> processor(np.zeros((40, 50, 3), np.uint8), return_tensors="pt").pixel_values.shape
        torch.Size([1, 3, 32, 32])
    """

    size = {"shortest_edge": 256}
    crop_size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD

    @classmethod
    def from_config(cls, config: Any, crop_pct: float = 0.875, **kwargs: Any) -> "IJepaImageProcessor":
        """The processor for a model's image size.

        Args:
            config: an I-JEPA config; `image_size` may be an int or (height, width).
            crop_pct: longer side of the crop over short side of the resized image; 0.875 resizes to 256 for 224. Use 1
                for images that already have the model's size.
            kwargs: further fields of the processor.

        Returns:
            the processor.

        Raises:
            ValueError: crop_pct outside (0, 1], a size that is not positive, a model of other than three channels.

        Example:
            >>> from hf_jepa import IJepaConfig, IJepaImageProcessor
            >>> IJepaImageProcessor.from_config(IJepaConfig(image_size=(32, 64))).size["shortest_edge"]
            73
        """
        height, width = pair(config.image_size)
        if min(height, width) < 1:
            raise ValueError(f"image_size must be positive, got {config.image_size!r}")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {crop_pct}")
        if config.num_channels != 3:
            raise ValueError(f"the processor makes RGB images, the model wants {config.num_channels} channels")
        short_side = int(max(height, width) / crop_pct)
        return cls(size={"shortest_edge": short_side}, crop_size={"height": height, "width": width}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The saved form, which names the native class."""
        return super().to_dict() | {"image_processor_type": "BitImageProcessor"}


__all__ = ["IJepaImageProcessor"]
