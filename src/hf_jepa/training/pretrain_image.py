"""The program behind the image pretraining scripts: recipe in, trained checkpoint out, whatever the objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from torch.utils.data import Dataset

from hf_jepa.data.columns import check_same_classes
from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageCollator, ImageDataset, IterableImageDataset
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import height_width, pretraining_transform
from hf_jepa.data.views import EmbeddedViews, ViewCollator
from hf_jepa.hub.processors import ProcessorTransform, load_processor, pixel_statistics
from hf_jepa.masking.beit_blocks import BeitBlockMaskSampler, OfficialBeitBlockMaskSampler
from hf_jepa.masking.build import build_mask_sampler
from hf_jepa.registry import VARIANTS, Variant
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.knn_probe import KnnProbeArguments, OnlineKnnProbe
from hf_jepa.training.pretraining import ModelArguments, build_model
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.run_cards import dataset_names
from hf_jepa.training.shards import ShardArguments
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.training.view_arguments import ViewArguments


EMBEDDED = "embedded"


@dataclass(kw_only=True)
class ImageArguments(ShardArguments, ModelArguments, KnnProbeArguments):
    """Model and images of a pretraining run."""

    dataset: str = field(
        metadata={"help": f"Folder of images, parquet, shards, Hub id, or '{EMBEDDED}' (bundled pictures)."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found by type when unset."})
    streaming: bool = field(default=False, metadata={"help": "Read while training instead of indexing first."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that a stream is shuffled among; 0: none."})
    generated_length: int = field(default=19200, metadata={"help": f"Crops per epoch of '{EMBEDDED}'."})


@dataclass(kw_only=True)
class PretrainingArguments(ImageArguments):
    """Model, images and their crops, for objectives that see one crop of an image."""

    crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0], metadata={"help": "Area of a random crop."})
    horizontal_flip: bool = field(default=False, metadata={"help": "Mirror every second image."})
    color_distortion: float = field(default=0.0, metadata={"help": "Strength of colour distortion; 0 is none."})
    gaussian_blur: bool = field(default=False, metadata={"help": "Blur every second image."})


@dataclass
class MaskArguments:
    """Multi-block masks; see `MultiBlockMaskSampler`."""

    mask_mode: str = field(default="corrected", metadata={"help": "'corrected' or 'official' (docs/masking.md)."})
    context_scale: list[float] = field(default_factory=lambda: [0.85, 1.0], metadata={"help": "Area of the context."})
    target_scale: list[float] = field(default_factory=lambda: [0.15, 0.2], metadata={"help": "Area of a target."})
    target_aspect_ratio: list[float] = field(default_factory=lambda: [0.75, 1.5], metadata={"help": "Height/width."})
    num_context_masks: int = field(default=1, metadata={"help": "Contexts per image."})
    num_target_masks: int = field(default=4, metadata={"help": "Targets per image."})
    min_keep: int = field(default=10, metadata={"help": "Every block keeps more tokens than this."})
    allow_overlap: bool = field(default=False, metadata={"help": "Let context and targets share tokens."})
    context_length: int | None = field(default=None, metadata={"help": "Tokens per context (corrected mode)."})
    length_bucket: int = field(
        default=1, metadata={"help": "Every mask keeps a multiple of this many tokens, for torch_compile (corrected)."}
    )

    def sampler(self, grid_size: tuple[int, int], seed: int):
        names = ("num_context_masks", "num_target_masks", "min_keep", "allow_overlap")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        for name in ("context_scale", "target_scale", "target_aspect_ratio"):
            settings[name] = tuple(getattr(self, name))
        if self.mask_mode == "corrected":
            settings |= {"context_length": self.context_length, "length_bucket": self.length_bucket, "seed": seed}
        elif self.context_length is not None:
            raise ValueError(f"context_length={self.context_length}: official masks choose the length batch by batch")
        elif self.length_bucket != 1:
            raise ValueError(
                f"length_bucket={self.length_bucket}: official masks keep what blocks leave, token by token"
            )
        return build_mask_sampler(self.mask_mode, grid_size=tuple(grid_size), **settings)


@dataclass
class BlockMaskArguments:
    """Blocks of patches that are hidden in their places; see `BeitBlockMaskSampler`."""

    mask_mode: str = field(default="corrected", metadata={"help": "'corrected' or 'official' (docs/masking.md)."})
    num_mask_patches: int = field(default=120, metadata={"help": "Hidden patches per image."})
    min_block_patches: int = field(default=16, metadata={"help": "Smallest area of a block."})

    def sampler(self, grid_size: tuple[int, int], seed: int):
        if self.mask_mode not in ("corrected", "official"):
            raise ValueError(f"mask_mode={self.mask_mode!r} is not one of corrected, official")
        sizes = {"num_mask_patches": self.num_mask_patches, "min_block_patches": self.min_block_patches}
        if self.mask_mode == "official":
            return OfficialBeitBlockMaskSampler(tuple(grid_size), **sizes)
        return BeitBlockMaskSampler(tuple(grid_size), **sizes, seed=seed)


@dataclass
class NothingHidden:
    """No masks: the objective itself says what is predicted from what."""

    def sampler(self, grid_size: tuple[int, int], seed: int) -> None:
        return None


# What is asked for beside data, model and training, by what the pretraining model is called with.
INPUTS = {
    "masks": MaskArguments,
    "views": ViewArguments,
    "in_place_masks": BlockMaskArguments,
    "plain": NothingHidden,
}


def recipe_sections(variant: Variant) -> tuple[type, type, type]:
    """The dataclasses that a recipe of a variant fills."""
    images = ImageArguments if variant.inputs == "views" else PretrainingArguments
    return images, INPUTS[variant.inputs], JepaTrainingArguments


def build_views(arguments: ImageArguments, views: ViewArguments, config, seed: int) -> Dataset:
    """The crops of the training images, for a model that compares views."""
    transform = views.transform(config.image_size)
    if arguments.dataset == EMBEDDED:
        window = 2 * max(height_width(config.image_size))
        return EmbeddedViews(arguments.generated_length, transform, window, seed)
    return _read_images(arguments, transform, seed)


def build_dataset(arguments: PretrainingArguments, config, processor: Callable, seed: int) -> Dataset:
    """The training images, cropped to the size of the model and normalised as the processor does."""
    if arguments.dataset == EMBEDDED:
        return EmbeddedCrops(arguments.generated_length, config.image_size, seed)
    mean, std = pixel_statistics(processor)
    transform = pretraining_transform(
        config.image_size,
        scale=tuple(arguments.crop_scale),
        horizontal_flip=arguments.horizontal_flip,
        color_distortion=arguments.color_distortion,
        gaussian_blur=arguments.gaussian_blur,
        mean=mean,
        std=std,
    )
    return _read_images(arguments, transform, seed)


def _read_images(arguments: ImageArguments, transform: Callable, seed: int) -> Dataset:
    with PartialState().local_main_process_first():  # what a shard holds is looked up once
        images = load_images(
            arguments.dataset,
            arguments.train_split,
            arguments.streaming,
            image_column=arguments.image_column,
            shards=arguments.shard_options(),
        )
    images = images.select_columns("image")  # labels play no part, so they may be missing
    if arguments.streaming and not hasattr(images, "__len__"):
        return IterableImageDataset(images, transform, seed, arguments.shuffle_buffer, endless=True)
    return ImageDataset(images, transform, seed)


def add_knn_probe(trainer: JepaTrainer, arguments: ImageArguments) -> None:
    """Let the run log the k-NN accuracy on two labelled splits, images prepared by the trainer's processor."""
    transform = ProcessorTransform(trainer.processing_class)
    train, test = (
        ImageDataset(load_images(arguments.knn_dataset, split), transform) for split in arguments.knn_splits
    )
    check_same_classes(arguments.knn_splits[0], train.class_names, arguments.knn_splits[1], test.class_names)
    trainer.add_callback(OnlineKnnProbe(trainer, train, test, arguments.knn_every))


def pretrain(
    variant_name: str, argv: Sequence[str], description: str | None = None, prog: str | None = None
) -> JepaTrainer:
    """Run a recipe.

    Args:
        variant_name: key of `VARIANTS`.
        argv: `[recipe.yaml] [--field value ...]`, fields of `recipe_sections`.
        description, prog: for `--help`, see `parse_recipe`.

    Returns:
        the trainer, after training and saving.
    """
    variant = VARIANTS[variant_name]
    types = recipe_sections(variant)
    arguments, hidden, training = parse_recipe(types, argv, description, prog)
    begin(training)
    card = dataset_names(arguments.dataset) | arguments.model_card()
    with whole_models(training):
        model = arguments.adapt(build_model(variant, arguments), training)
    processor = load_processor(arguments.model_name_or_path, model.config)
    if variant.inputs == "views":
        mean, std = (None, None) if arguments.dataset == EMBEDDED else pixel_statistics(processor)
        parts = {
            "view_augmentation": hidden.augmentation(mean, std, training.seed),
            "train_dataset": build_views(arguments, hidden, model.config, training.seed),
            "data_collator": ViewCollator(),
        }
    else:
        parts = {
            "mask_sampler": hidden.sampler(model.config.grid_size, training.seed),
            "train_dataset": build_dataset(arguments, model.config, processor, training.seed),
            "data_collator": ImageCollator(),
        }
    trainer = JepaTrainer(model, training, processing_class=processor, **parts)
    if arguments.knn_dataset:
        add_knn_probe(trainer, arguments)
    run_training(trainer, given_fields(types, argv))
    trainer.merge_adapters()
    finish(trainer, card)
    return trainer


__all__ = [
    "BlockMaskArguments",
    "ImageArguments",
    "MaskArguments",
    "PretrainingArguments",
    "add_knn_probe",
    "build_dataset",
    "build_model",
    "build_views",
    "pretrain",
    "recipe_sections",
]
