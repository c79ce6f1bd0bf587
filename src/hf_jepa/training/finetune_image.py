"""The program behind the fine-tuning script of images: recipe and checkpoint in, trained classifier out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from transformers.utils import logging

from hf_jepa.data.embedded import LabelledCrops
from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import height_width, pretraining_transform
from hf_jepa.hub.processors import ProcessorTransform, pixel_statistics
from hf_jepa.training.classification import CommonClassificationArguments, open_checkpoint, require_labels
from hf_jepa.training.classification import finetune as finetune_classifier
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.pretrain_image import EMBEDDED


logger = logging.get_logger(__name__)


@dataclass
class ClassificationArguments(CommonClassificationArguments):
    """Checkpoint, images and mode of a fine-tuning run.

    `dataset` is a folder of images, parquet files, shards, a Hub id, or 'embedded' (bundled pictures).
    """

    image_column: str | None = field(default=None, metadata={"help": "Column of images; found by type when unset."})
    embedded_per_picture: int = field(default=60, metadata={"help": f"Crops per picture and split of '{EMBEDDED}'."})
    crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0], metadata={"help": "Area of a random crop."})
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror every second image."})
    color_distortion: float = field(default=0.0, metadata={"help": "Strength of colour distortion; 0 is none."})


def open_split(
    arguments: ClassificationArguments, split: str, processor: Callable, size: Any, seed: int, train: bool
) -> Dataset:
    """A labelled split, with random crops for training, else as the processor prepares images.

    Raises:
        ValueError: the data has no labels, or unlabelled rows.
    """
    if arguments.dataset == EMBEDDED:
        return LabelledCrops(split, arguments.embedded_per_picture, size=size, seed=seed)
    transform = ProcessorTransform(processor)
    if train:
        mean, std = pixel_statistics(processor)
        transform = pretraining_transform(
            size,
            scale=tuple(arguments.crop_scale),
            horizontal_flip=arguments.horizontal_flip,
            color_distortion=arguments.color_distortion,
            mean=mean,
            std=std,
        )
    images = load_images(
        arguments.dataset,
        split,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        shards=arguments.shard_options(),
    )
    dataset = ImageDataset(images, transform, seed)
    return require_labels(dataset, arguments.dataset, split)


def finetune(argv: Sequence[str], description: str | None = None) -> ClassificationTrainer:
    """Run a recipe.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `ClassificationArguments` and `FineTuningArguments`.
        description: for `--help`.

    Returns:
        the trainer, after training, measuring and saving.

    Raises:
        ValueError: see `hf_jepa.training.classification.finetune`.
    """
    types = (ClassificationArguments, FineTuningArguments)
    arguments, training, config, processor = open_checkpoint(types, argv, description)
    shown = tuple(ProcessorTransform(processor)(Image.new("RGB", (512, 512))).shape[1:])
    if shown != height_width(config.image_size):
        logger.warning(
            f"training crops have {config.image_size} pixels, but images for evaluation {shown}: the processor of "
            f"{arguments.model_name_or_path} says so; correct it if that is not meant"
        )
    return finetune_classifier(
        arguments,
        training,
        (types, argv),
        config,
        processor,
        lambda split, train: open_split(arguments, split, processor, config.image_size, training.seed, train),
        ImageCollator(keep_unreadable=True),
    )


__all__ = ["ClassificationArguments", "finetune", "open_split"]
