"""The program behind the video pretraining scripts: recipe in, trained checkpoint out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import cached_file, logging

from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.data.moving_digits import MEAN, STD
from hf_jepa.data.transforms import height_width
from hf_jepa.data.videos import VideoCollator
from hf_jepa.masking.block_mask import VJEPA21_IMAGE_MASKS, VJEPA_MASKS, BlockMask
from hf_jepa.masking.build import build_video_mask_sampler
from hf_jepa.masking.multi_sequence import MultiSequenceMaskSampler
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.registry import VARIANTS, Variant
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.pretraining import ModelArguments, as_mapping, build_model, continue_model, train_and_finish
from hf_jepa.training.program import begin
from hf_jepa.training.recipe import given_fields, parse_recipe
from hf_jepa.training.run_cards import dataset_names
from hf_jepa.training.trainer import JepaTrainer
from hf_jepa.training.video_sources import EMBEDDED, VideoDataArguments, build_dataset


logger = logging.get_logger(__name__)

PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
MASKS = {"vjepa": VJEPA_MASKS, "vjepa2_1_image": VJEPA21_IMAGE_MASKS}


@dataclass(kw_only=True)
class VideoPretrainingArguments(ModelArguments, VideoDataArguments):
    """Model and data of a video pretraining run.

    Of a checkpoint that is continued, `model_config` changes what its weights do not depend on, such as `crop_size`
    and `frames_per_clip`.
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
    if {source.path for source in arguments.sources().values()} == {EMBEDDED}:
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
    """
    channels, grid = model.config.in_chans, model.context_encoder.token_grid
    return {t: grid(torch.empty(1, t, channels, height, width, device="meta")) for t, height, width in clip_sizes}


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
    sources = arguments.sources().values()
    named = [dataset_names(source.path) for source in sources]
    card = {key: [each[key] for each in named if key in each] for key in ("dataset", "dataset_tags")}
    card |= arguments.card()
    model = build_video_model(VARIANTS[variant_name], arguments)
    processor = clip_processor(arguments, model.config)
    grids = token_grids(model, arguments.clip_sizes(model.config))
    trainer = JepaTrainer(
        model,
        training,
        mask_sampler=masks.sampler(grids, training.seed),
        train_dataset=build_dataset(arguments, model.config, processor, training.seed),
        data_collator=VideoCollator(frame_counts=list(grids)),
        processing_class=processor,
    )
    train_and_finish(trainer, given_fields(types, argv), card)
    return trainer


__all__ = [
    "VideoMaskArguments",
    "VideoPretrainingArguments",
    "block_masks",
    "build_video_model",
    "clip_processor",
    "pretrain",
    "token_grids",
]
