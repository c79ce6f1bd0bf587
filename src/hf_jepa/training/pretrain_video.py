"""The program behind the video pretraining scripts: recipe in, trained checkpoint out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import cached_file, logging

from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.data.columns import check_same_classes
from hf_jepa.data.moving_digits import MEAN, STD, DigitClasses
from hf_jepa.data.transforms import height_width
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.videos import VideoCollator, VideoDataset
from hf_jepa.hub.processors import ProcessedClip
from hf_jepa.masking.block_mask import VJEPA21_IMAGE_MASKS, VJEPA_MASKS, BlockMask
from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.registry import VARIANTS, Variant
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.knn_probe import KnnProbeArguments, Labelled, OnlineKnnProbe
from hf_jepa.training.pretraining import ModelArguments, build_model, continue_model
from hf_jepa.training.program import begin, finish, run_training, whole_models
from hf_jepa.training.recipe import as_mapping, given_fields, parse_recipe
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.training.video_sources import DIGITS, DISTANCES, VideoDataArguments, build_dataset


logger = logging.get_logger(__name__)

PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
KNN_DIGITS = 320  # clips per split of moving digits that the k-NN probe looks at
MASKS = {"vjepa": VJEPA_MASKS, "vjepa2_1_image": VJEPA21_IMAGE_MASKS}


@dataclass(kw_only=True)
class VideoPretrainingArguments(ModelArguments, VideoDataArguments, KnnProbeArguments):
    """Model and data of a video pretraining run.

    Of a checkpoint that is continued, `model_config` changes what its weights do not depend on, such as `crop_size`
    and `frames_per_clip`. `knn_dataset` is a folder of videos, parquet, a Hub id, or 'moving_digits' (generated), from
    which clips are taken as the run says.
    """


@dataclass
class VideoMaskArguments:
    """Masks of clips; see `build_video_mask_sampler`."""

    mask_mode: str = field(default="corrected", metadata={"help": "'corrected' or 'official' (docs/masking.md)."})
    mask_kind: str = field(default="multiblock3d", metadata={"help": "'multiblock3d' or 'random_tube'."})
    masks: dict | str | None = field(
        default="vjepa",
        metadata={"help": f"Blocks: {' or '.join(MASKS)}, or fields of BlockMask by the name of the mask (JSON)."},
    )
    image_masks: dict | str | None = field(
        default="vjepa2_1_image", metadata={"help": "The same for images, that is clips of one frame."}
    )
    tube_ratio: list[float] = field(
        default_factory=lambda: [0.9], metadata={"help": "Share of the places that a random tube hides, per mask."}
    )

    def sampler(self, grids: Mapping[int, tuple[int, int, int]], seed: int) -> Callable:
        """The sampler of masks.

        Args:
            grids: number of frames -> token grid of such clips.
            seed: of corrected masks.

        Returns:
            a sampler of one grid, or a `MultiSequenceMaskSampler` of several.
        """
        blocks = {frames: self.image_masks if frames == 1 else self.masks for frames in grids}
        samplers = [self._sampler(grid, blocks[frames], seed) for frames, grid in grids.items()]
        return samplers[0] if len(samplers) == 1 else MultiSequenceMaskSampler(samplers)

    def _sampler(self, grid: tuple[int, int, int], masks: dict | str | None, seed: int) -> Callable:
        settings: dict[str, Any] = {"seed": seed} if self.mask_mode == "corrected" else {}
        if self.mask_kind == "random_tube":
            settings["ratio"] = tuple(self.tube_ratio)
        else:
            settings["masks"] = block_masks(masks)
        return build_video_mask_sampler(self.mask_mode, grid_size=grid, kind=self.mask_kind, **settings)


def block_masks(given: dict | str | None) -> tuple[BlockMask, ...]:
    """The masks of a recipe: the name of a set, or fields of `BlockMask` by the name of each.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> block_masks({"short": {"num_blocks": 8, "spatial_scale": 0.15}}) == block_masks("vjepa")[:1]
        True
    """
    given = as_mapping(given)
    if isinstance(given, dict):
        return tuple(BlockMask(**{name: _pair(value) for name, value in mask.items()}) for mask in given.values())
    if given not in MASKS:
        raise ValueError(f"masks={given!r} is not one of {', '.join(MASKS)}")
    return MASKS[given]


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def build_video_model(variant: Variant, arguments: ModelArguments) -> JepaPreTrainingMixin:
    """A fresh model, or a checkpoint with those fields of its config changed that `model_config` names."""
    start = arguments.model_name_or_path
    if not (start and arguments.model_config):
        return build_model(variant, arguments)
    if arguments.model_size:
        logger.warning(f"{start} has a size: model_size {arguments.model_size} is not used")
    return continue_model(variant, start, arguments.model_config)


def clip_processor(arguments: VideoPretrainingArguments, config: PreTrainedConfig) -> VJepa2VideoProcessor:
    """The processor for the frames of the model, with the pixel statistics of the checkpoint that is continued."""
    start = arguments.model_name_or_path
    if start and any(
        cached_file(start, name, _raise_exceptions_for_missing_entries=False) for name in PROCESSOR_FILES
    ):
        saved = VJepa2VideoProcessor.from_pretrained(start)
        if (saved.crop_size["height"], saved.crop_size["width"]) == height_width(config.crop_size):
            return saved
        return VJepa2VideoProcessor.from_config(config, image_mean=saved.image_mean, image_std=saved.image_std)
    if arguments.all_generated():
        statistics = {"image_mean": [MEAN] * config.in_chans, "image_std": [STD] * config.in_chans}
        return VJepa2VideoProcessor.from_config(config, crop_pct=1.0, **statistics)
    return VJepa2VideoProcessor.from_config(config)


def token_grids(
    model: JepaPreTrainingMixin, clip_sizes: Sequence[tuple[int, int, int]]
) -> dict[int, tuple[int, int, int]]:
    """The token grid of clips by their number of frames.

    Args:
        model: that is pretrained.
        clip_sizes: (frames, height, width) in pixels.

    Raises:
        ValueError: clips of one frame, which the model repeats to the length of others.
    """
    channels, grid = model.config.in_chans, model.context_encoder.token_grid
    grids = {t: grid(torch.empty(1, t, channels, height, width, device="meta")) for t, height, width in clip_sizes}
    if 1 in grids and list(grids.values()).count(grids[1]) > 1:
        raise ValueError(
            f"frames_per_clip 1: {type(model).__name__} repeats an image to the length of its clips, so leave out "
            "frames_per_clip of the source of images"
        )
    return grids


def add_knn_probe(trainer: JepaTrainer, arguments: VideoPretrainingArguments) -> None:
    """Let the run log the k-NN accuracy on two labelled splits, clips prepared by the trainer's processor."""
    train, test = (_labelled(split, trainer, arguments) for split in arguments.knn_splits)
    check_same_classes(arguments.knn_splits[0], train.class_names, arguments.knn_splits[1], test.class_names)
    batch_size = trainer.args.per_device_eval_batch_size
    trainer.add_callback(OnlineKnnProbe(trainer, train, test, arguments.knn_every, batch_size=batch_size))


def _labelled(split: str, trainer: JepaTrainer, arguments: VideoPretrainingArguments) -> Labelled:
    frames = trainer.model.config.frames_per_clip
    if arguments.knn_dataset == DIGITS:
        return DigitClasses(KNN_DIGITS, split, frames, trainer.model.config.in_chans)
    distance = {name: getattr(arguments, name) for name in DISTANCES}
    if not any(distance.values()):
        raise ValueError(f"knn_dataset {arguments.knn_dataset!r} needs one of {', '.join(DISTANCES)} for its clips")
    sampling = ClipSampling(frames, **distance, short_videos=arguments.short_videos, mode=arguments.frame_sampling)
    return VideoDataset(
        load_videos(arguments.knn_dataset, split),
        ProcessedClip(trainer.processing_class),
        sampling,
        random_position=False,
        folder_fps=arguments.folder_fps,
    )


def pretrain(
    variant_name: str, argv: Sequence[str], description: str | None = None, prog: str | None = None
) -> JepaTrainer:
    """Run a recipe.

    Args:
        variant_name: key of `VARIANTS`.
        argv: `[recipe.yaml] [--field value ...]`, fields of the two classes above and of `JepaTrainingArguments`.
        description, prog: for `--help`, see `parse_recipe`.

    Returns:
        the trainer, after training and saving.
    """
    types = (VideoPretrainingArguments, VideoMaskArguments, JepaTrainingArguments)
    arguments, masks, training = parse_recipe(types, argv, description, prog)
    begin(training)
    card = arguments.data_card() | arguments.model_card()
    with whole_models(training):
        model = arguments.adapt(build_video_model(VARIANTS[variant_name], arguments), training)
    processor = clip_processor(arguments, model.config)
    grids = token_grids(model, arguments.clip_sizes(model.config))
    if len(grids) > 1 and is_deepspeed_zero3_enabled():
        raise ValueError(
            f"clips of {sorted(grids)} frames: each process has others of them in a batch and so calls other parts of "
            "the model, where ZeRO-3 wants the same everywhere: take zero2.yaml or fsdp2.yaml"
        )
    if hasattr(model, "train_one_modality") and len({frames == 1 for frames in grids}) == 1:
        model.train_one_modality(images=1 in grids)
    trainer = JepaTrainer(
        model,
        training,
        mask_sampler=masks.sampler(grids, training.seed),
        train_dataset=build_dataset(arguments, model.config, processor, training.seed),
        data_collator=VideoCollator(frame_counts=list(grids)),
        processing_class=processor,
    )
    if arguments.knn_dataset:
        add_knn_probe(trainer, arguments)
    run_training(trainer, given_fields(types, argv))
    trainer.merge_adapters()
    finish(trainer, card)
    return trainer


__all__ = [
    "VideoMaskArguments",
    "VideoPretrainingArguments",
    "add_knn_probe",
    "block_masks",
    "build_video_model",
    "clip_processor",
    "pretrain",
    "token_grids",
]
