"""The program behind the fine-tuning script of videos: recipe and checkpoint in, trained classifier out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from hf_jepa.data.moving_digits import DigitClasses
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.video_transforms import clip_evaluation_transform, clip_pretraining_transform
from hf_jepa.data.videos import VideoCollator, VideoDataset
from hf_jepa.hub.processors import ProcessedClip, pixel_statistics
from hf_jepa.training.classification import CommonClassificationArguments, open_checkpoint, require_labels
from hf_jepa.training.classification import finetune as finetune_classifier
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.video_sources import DIGITS


VIEW_RATIO = (3 / 4, 4 / 3)  # width over height of a training crop in the official probes


@dataclass
class VideoClassificationArguments(CommonClassificationArguments):
    """Checkpoint, videos and mode of a fine-tuning run.

    `dataset` is a folder of videos, a csv list, parquet files, a Hub id, or 'moving_digits' (generated).
    """

    video_column: str | None = field(default=None, metadata={"help": "Column of videos; found by type when unset."})
    generated_length: int = field(default=320, metadata={"help": f"Clips per split of '{DIGITS}'."})
    frames_per_clip: int | None = field(default=None, metadata={"help": "Frames of a clip; those of the checkpoint."})
    fps: float | None = field(default=None, metadata={"help": "Frames of a clip per second of the video."})
    frame_step: int | None = field(default=None, metadata={"help": "Frames of the video from one to the next."})
    duration: float | None = field(default=None, metadata={"help": "Seconds that a clip covers."})
    num_segments: int = field(default=1, metadata={"help": "Clips per video that the classifier reads together."})
    num_views: int = field(default=1, metadata={"help": "Spatial crops per clip when measuring, averaged."})
    short_videos: str = field(
        default="refuse", metadata={"help": "Videos shorter than a clip: 'refuse' skips them, 'pad' repeats frames."}
    )
    crop_scale: list[float] = field(default_factory=lambda: [0.08, 1.0], metadata={"help": "Area of a random crop."})
    horizontal_flip: bool = field(
        default=False, metadata={"help": "Mirror every second clip; not for actions that know left from right."}
    )
    classifier_layers: list[int] | None = field(
        default=None, metadata={"help": "Layers of the encoder that the classifier reads; the last one when unset."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_segments", "num_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dataset == DIGITS and self.num_segments * self.num_views > 1:
            raise ValueError(f"the clips of '{DIGITS}' are whole videos: num_segments and num_views are 1 there")

    def sampling(self, config: PreTrainedConfig) -> ClipSampling:
        """How clips are taken from a video."""
        return ClipSampling(
            self.frames_per_clip or config.frames_per_clip,
            self.fps,
            self.frame_step,
            self.duration,
            num_clips=self.num_segments,
            short_videos=self.short_videos,
        )


class SegmentCollator(VideoCollator):
    """A `VideoCollator` whose batches tell segments and views apart, (B, S, V, T, C, H, W), where there are several.

    Args:
        num_segments: S, clips per video.
    """

    def __init__(self, num_segments: int):
        super().__init__(keep_unreadable=True)
        self.num_segments = num_segments

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        batch = super().__call__(samples)
        clips = batch["pixel_values_videos"]
        if clips.ndim == 6:
            batch["pixel_values_videos"] = clips.unflatten(1, (self.num_segments, -1))
        return batch


def open_split(
    arguments: VideoClassificationArguments,
    split: str,
    processor: Callable,
    config: PreTrainedConfig,
    seed: int,
    train: bool,
) -> Dataset:
    """A labelled split: random moments and crops for training, else even segments in one or several views.

    Raises:
        ValueError: the data has no labels, or unlabelled rows.
    """
    if arguments.dataset == DIGITS:
        return DigitClasses(arguments.generated_length, split, arguments.frames_per_clip or config.frames_per_clip)
    mean, std = pixel_statistics(processor)
    if train:
        transform = clip_pretraining_transform(
            config.crop_size,
            scale=tuple(arguments.crop_scale),
            ratio=VIEW_RATIO,
            horizontal_flip=arguments.horizontal_flip,
            antialias=True,
            mean=mean,
            std=std,
        )
    elif arguments.num_views > 1:
        transform = clip_evaluation_transform(config.crop_size, views=arguments.num_views, mean=mean, std=std)
    else:
        transform = ProcessedClip(processor)
    videos = load_videos(
        arguments.dataset, split, arguments.video_column, arguments.label_column, arguments.shard_options()
    )
    dataset = VideoDataset(videos, transform, arguments.sampling(config), random_position=train, seed=seed)
    return require_labels(dataset, arguments.dataset, split)


def finetune(argv: Sequence[str], description: str | None = None) -> ClassificationTrainer:
    """Run a recipe.

    Args:
        argv: `[recipe.yaml] [--field value ...]`, fields of `VideoClassificationArguments` and `FineTuningArguments`.
        description: for `--help`.

    Returns:
        the trainer, after training, measuring and saving.

    Raises:
        ValueError: see `hf_jepa.training.classification.finetune`.
    """
    types = (VideoClassificationArguments, FineTuningArguments)
    arguments, training, config, processor = open_checkpoint(types, argv, description)
    return finetune_classifier(
        arguments,
        training,
        (types, argv),
        config,
        processor,
        lambda split, train: open_split(arguments, split, processor, config, training.seed, train),
        SegmentCollator(arguments.num_segments),
        model_fields={"classifier_layers": arguments.classifier_layers} if arguments.classifier_layers else {},
    )


__all__ = ["SegmentCollator", "VideoClassificationArguments", "finetune", "open_split"]
