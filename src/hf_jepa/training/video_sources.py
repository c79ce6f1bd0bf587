"""The data of video training: one source or several with weights, each with its own clip length."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from hf_jepa.data.moving_digits import CANVAS, MovingDigits
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import height_width
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.video_transforms import clip_pretraining_transform
from hf_jepa.data.videos import VideoDataset
from hf_jepa.data.weighted_sources import WeightedSources
from hf_jepa.hub.processors import pixel_statistics
from hf_jepa.training.source_arguments import SourceArguments


DIGITS = "moving_digits"
DISTANCES = ("fps", "frame_step", "duration")  # of the frames of a clip, of which one is given


@dataclass(frozen=True)
class VideoSource:
    """One source of clips.

    Args:
        path: folder, .csv list, parquet, shards or Hub id, or "moving_digits" (generated).
        weight: how often it is drawn from, relative to the others.
        split: of the source, if not that of the run.
        column: that holds the videos, found by type unless given.
        images: it is a data set of images, which become static clips.
        frames_per_clip: frames of its clips, if not those of the model; of a data set of images, how often an image
            is repeated (1 is for the image tokenizer of V-JEPA 2.1).
        crop_size: pixels of its clips, if not those of the model; clips of one length have one size.
        fps, frame_step, duration: distance of its frames, if not that of the run.

    Example:
        >>> VideoSource("/data/ssv2.csv", weight=0.1).frames_per_clip is None
        True
    """

    path: str
    _: KW_ONLY
    weight: float = 1.0
    split: str | None = None
    column: str | None = None
    images: bool = False
    frames_per_clip: int | None = None
    crop_size: int | list[int] | None = None
    fps: float | None = None
    frame_step: int | None = None
    duration: float | None = None

    def clip_size(self, config: PreTrainedConfig) -> tuple[int, int, int]:
        """(frames, height, width) of its clips, in pixels."""
        return self.frames_per_clip or config.frames_per_clip, *height_width(self.crop_size or config.crop_size)


@dataclass(kw_only=True)
class VideoDataArguments(SourceArguments):
    """Where clips come from, and how they are cut out of their videos."""

    source_class, generated = VideoSource, DIGITS

    dataset: dict | str | None = field(
        default=None,
        metadata={
            "help": f"Folder of videos, .csv list, parquet, shards, Hub id or '{DIGITS}' (generated); or "
            "several sources (JSON): name -> path, and the other fields of VideoSource."
        },
    )
    generated_length: int = field(default=4096, metadata={"help": f"Clips per epoch of '{DIGITS}'."})
    fps: float | None = field(default=None, metadata={"help": "Frames of a clip per second of the video."})
    frame_step: int | None = field(default=None, metadata={"help": "Or their distance in frames of the video."})
    duration: float | None = field(default=None, metadata={"help": "Or the seconds that a clip covers."})
    frame_sampling: str = field(
        default="constant", metadata={"help": "'constant' steps, 'official' or 'official_overlap' (ClipSampling)."}
    )
    short_videos: str = field(default="refuse", metadata={"help": "'refuse' (skip and count them) or 'pad' them."})
    folder_fps: float | None = field(default=None, metadata={"help": "Frames per second of folders of images."})
    crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0], metadata={"help": "Area of a random crop."})
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.35], metadata={"help": "Its width/height."})
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror every second clip."})

    def clip_sizes(self, config: PreTrainedConfig) -> list[tuple[int, int, int]]:
        """(frames, height, width) of the clips, in the order in which they first occur among the sources.

        Raises:
            ValueError: clips of one length, which share batches, in two sizes.
        """
        sizes = list(dict.fromkeys(source.clip_size(config) for source in self.sources().values()))
        if len({frames for frames, *_ in sizes}) < len(sizes):
            raise ValueError(f"clips of equally many frames must have one size, the sources give {sizes}")
        return sizes


def build_dataset(arguments: VideoDataArguments, config: PreTrainedConfig, processor: Callable, seed: int) -> Dataset:
    """The training clips, cropped to the size of the model and normalised as the processor does."""
    sources = list(arguments.sources().values())
    datasets = [_open(source, arguments, config, processor, seed) for source in sources]
    if len(datasets) == 1:
        return datasets[0]
    return WeightedSources(datasets, [source.weight for source in sources], arguments.epoch_length, seed)


def _open(
    source: VideoSource, arguments: VideoDataArguments, config: PreTrainedConfig, processor: Callable, seed: int
) -> Dataset:
    frames, *size = source.clip_size(config)
    if source.path == DIGITS:
        if size != [CANVAS, CANVAS]:
            raise ValueError(f"moving digits have {CANVAS} x {CANVAS} pixels, but crop_size is {size}")
        return MovingDigits(arguments.generated_length, "train", frames, config.in_chans, seed=seed)
    mean, std = pixel_statistics(processor)
    transform = clip_pretraining_transform(
        size,
        tuple(arguments.crop_scale),
        tuple(arguments.crop_ratio),
        arguments.horizontal_flip,
        mean=mean,
        std=std,
    )
    shards = arguments.shard_options()
    with PartialState().local_main_process_first():  # what a shard holds is looked up once
        if source.images:
            rows = load_images(source.path, source.split, image_column=source.column, shards=shards)
        else:
            rows = load_videos(source.path, source.split, video_column=source.column, shards=shards)
    # Labels play no part, so they may be missing.
    rows = rows.select_columns([name for name in rows.column_names if name != "label"])
    return VideoDataset(
        rows, transform, _sampling(source, arguments, frames), seed=seed, folder_fps=arguments.folder_fps
    )


def _sampling(source: VideoSource, arguments: VideoDataArguments, frames: int) -> ClipSampling:
    distance = {name: getattr(source, name) for name in DISTANCES}
    if not any(distance.values()):
        distance = {name: getattr(arguments, name) for name in DISTANCES}
    if source.images:  # of one frame, which has no distance to another
        distance = {"frame_step": 1}
    return ClipSampling(frames, **distance, short_videos=arguments.short_videos, mode=arguments.frame_sampling)


__all__ = ["DIGITS", "VideoDataArguments", "VideoSource", "build_dataset"]
