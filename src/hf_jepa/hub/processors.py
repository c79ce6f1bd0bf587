"""The processor of a checkpoint, of images or videos, and the transform that it makes for a data set."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.utils import cached_file, logging

from hf_jepa.layers.patch_embedding import pair
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.registry import find_variant


logger = logging.get_logger(__name__)

FILE_NAMES = ("preprocessor_config.json", "processor_config.json")
VIDEO_FILE_NAMES = ("video_preprocessor_config.json", *FILE_NAMES)
VIDEOS = ("video", "trajectory")  # modalities whose samples are frames


def load_processor(checkpoint: str | None, config: PreTrainedConfig, as_saved: bool = False) -> Callable:
    """The processor beside the weights, or the variant's own where there is none.

    Checkpoints that transformers converted carry the ViT processor at its defaults: it squeezes images and normalises
    with 0.5, but the weights were trained on other statistics, but for NEPA's, and on images that are not squeezed.
    There the variant's own is taken, with a warning.
    Videos are prepared by the variant's own class in any case, with the fields that are saved. Frames of world models
    are shown whole, from edge to edge of their short side.

    Args:
        checkpoint: folder or Hub id; None, a model that starts afresh.
        config: of the model.
        as_saved: take what is saved, whatever it says.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> load_processor(None, IJepaConfig(image_size=64)).crop_size["height"]
        64
    """
    variant = find_variant(config.model_type, checkpoint or config.model_type)
    videos = variant.modality in VIDEOS
    names = VIDEO_FILE_NAMES if videos else FILE_NAMES
    if checkpoint is None or not any(
        cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False) for name in names
    ):
        return _whole_frames(config) if variant.modality == "trajectory" else variant.processor(config)
    if videos:  # the classes of transformers need torchvision
        return (variant.processor_class or VJepa2VideoProcessor).from_pretrained(checkpoint)
    saved = AutoImageProcessor.from_pretrained(checkpoint)
    if as_saved or not _is_untouched_vit_processor(saved):
        return saved
    own = variant.processor(config)
    trained = "normalises otherwise" if pixel_statistics(own) != pixel_statistics(saved) else "does not squeeze images"
    logger.warning(
        f"{checkpoint} has the ViT processor at its defaults (mean and std 0.5, images squeezed into the square), but "
        f"{variant.title} {trained}: images are prepared by {type(own).__name__} instead, with mean "
        f"{list(own.image_mean)}"
    )
    return own


def _whole_frames(config: PreTrainedConfig) -> VJepa2VideoProcessor:
    height, width = pair(config.image_size)
    return VJepa2VideoProcessor(
        size={"shortest_edge": max(height, width)}, crop_size={"height": height, "width": width}
    )


def _is_untouched_vit_processor(processor: Any) -> bool:
    if not type(processor).__name__.startswith("ViTImageProcessor") or not processor.do_normalize:
        return False
    return {value for values in pixel_statistics(processor) for value in values} == {0.5}


def pixel_statistics(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a processor normalises with, per channel or one for all."""
    if not processor.do_normalize or processor.image_mean is None or processor.image_std is None:
        return (0.0,), (1.0,)
    return tuple(
        tuple(values) if isinstance(values, Sequence) else (values,)
        for values in (processor.image_mean, processor.image_std)
    )


class ProcessorTransform:
    """A processor as the transform of an `ImageDataset`: one PIL image to pixels (C, H, W), nothing random.

    Args:
        processor: an image processor.

    Example:
        >>> from PIL import Image
        >>> from hf_jepa import IJepaConfig
        >>> transform = ProcessorTransform(load_processor(None, IJepaConfig(image_size=32)))
        >>> transform(Image.new("RGB", (50, 40))).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, processor: Callable):
        self.processor = processor

    def __call__(self, image: Image.Image, rng: Any = None) -> torch.Tensor:
        return self.processor(images=image, return_tensors="pt").pixel_values[0]


class ProcessedClip:
    """A video processor as the transform of a `VideoDataset`: frames (T, H, W, 3) to pixels (T, C, H, W).

    Args:
        processor: a video processor.

    Example:
        >>> from hf_jepa import VJepa2Config
        >>> transform = ProcessedClip(load_processor(None, VJepa2Config(crop_size=32)))
        >>> transform(np.zeros((4, 40, 50, 3), np.uint8)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(self, processor: Callable):
        self.processor = processor

    def __call__(self, frames: np.ndarray, rng: Any = None) -> torch.Tensor:
        return self.processor(frames).pixel_values_videos[0]


__all__ = ["ProcessedClip", "ProcessorTransform", "load_processor", "pixel_statistics"]
