"""Video processor of LeWorldModel: whole frames at the model's size, ImageNet statistics."""

from typing import Any

from hf_jepa.layers.patch_embedding import pair
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor


class LeWorldModelVideoProcessor(VJepa2VideoProcessor):
    """Turn videos into `pixel_values_videos` (B, T, C, H, W): the short side resized to the model's size, nothing cut.

    Frames that are not square lose what a centre crop leaves out.

    Args:
        kwargs: see `VJepa2VideoProcessor`.

    Example:
        >>> import numpy as np
        >>> from hf_jepa import LeWorldModelConfig, LeWorldModelVideoProcessor
        >>> processor = LeWorldModelVideoProcessor.from_config(LeWorldModelConfig())
        >>> processor(np.zeros((2, 96, 96, 3), np.uint8)).pixel_values_videos.shape
        torch.Size([1, 2, 3, 224, 224])
    """

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> "LeWorldModelVideoProcessor":
        """The processor for a model's frame size.

        Args:
            config: of a LeWorldModel.
            kwargs: further fields of the processor.

        Raises:
            ValueError: other than three channels without `image_mean` and `image_std` for them.
        """
        height, width = pair(config.image_size)
        size = {"shortest_edge": max(height, width)}
        processor = cls(**({"size": size, "crop_size": {"height": height, "width": width}} | kwargs))
        if processor.num_channels != config.num_channels:
            raise ValueError(
                f"the model wants {config.num_channels} channels, image_mean has {processor.num_channels}: pass "
                "image_mean and image_std for the model's channels"
            )
        return processor


__all__ = ["LeWorldModelVideoProcessor"]
