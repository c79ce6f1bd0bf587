"""What `embed` and `probe` share: a checkpoint's encoder and processor, and the features of images or videos."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import AutoConfig, PreTrainedModel

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.sources import is_hub_id, load_images
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_sources import load_videos
from hf_jepa.data.videos import VideoCollator, VideoDataset
from hf_jepa.evaluation.features import default_readout, extract_features
from hf_jepa.hub.processors import ProcessedClip, ProcessorTransform, load_processor
from hf_jepa.hub.run_folders import require_finished
from hf_jepa.layers.onednn import use_onednn
from hf_jepa.registry import Variant, find_variant


if TYPE_CHECKING:
    import datasets

FPS = 4  # of clips, unless something else is said; that of V-JEPA 2's pretraining
BATCH_SIZE = {"image": 64, "video": 8}
CLIP_OPTIONS = ("frames", "fps", "frame_step", "duration", "clips", "short_videos", "folder_fps")


class Features(NamedTuple):
    """Features of the readable images or videos of a data set.

    Args:
        features: (N, F) float32
        labels: (N,), -1 for a row without label; None where the data set has none.
        sample_index: (N,) row of each in the data set.
        skipped: "path: reason" of every file that could not be read.
    """

    features: torch.Tensor
    labels: torch.Tensor | None
    sample_index: torch.Tensor
    skipped: list[str]


class Embedder:
    """A checkpoint's encoder at work on data of its modality; what cannot be read is named on stderr.

    Its methods are called in order: `open` every split, `load` the weights, `embed` every split.

    Args:
        checkpoint: folder or Hub id; of a pretraining checkpoint the target encoder is taken.
        args: with the options of `add_encoder_options`.

    Attributes:
        samples: "images" or "videos", for messages.

    Raises:
        OSError: no such checkpoint.
        ValueError: a model of no variant of this package, or of neither images nor videos, options of videos for a
            model of images, or a clip that no video has.
    """

    def __init__(self, checkpoint: str, args: argparse.Namespace):
        self.checkpoint, self.args = checkpoint, args
        self.variant = variant_of(checkpoint)
        if self.variant.modality not in BATCH_SIZE:
            raise ValueError(
                f"{self.variant.title} is no encoder of images or videos alone: call the model itself (see its card)"
            )
        self.samples = f"{self.variant.modality}s"
        given = {name: value for name, value in vars(args).items() if name in CLIP_OPTIONS and value is not None}
        if self.variant.modality == "video":
            self.sampling = clip_sampling(AutoConfig.from_pretrained(checkpoint).frames_per_clip, **given)
        elif given:
            option = next(iter(given)).replace("_", "-")
            raise ValueError(f"--{option} says nothing about images, which {self.variant.title} encodes: leave it out")

    def open(self, data: str, split: str) -> "datasets.Dataset":
        """A split with the column `image` or `video`, and `label` where there are labels."""
        if self.variant.modality == "image":
            return load_images(data, split=split)
        videos = load_videos(data, split=split)
        paths = videos.flatten()["video.path"] if Path(data).is_dir() else []
        if folders := sum(path is not None and Path(path).is_dir() for path in paths):
            told = "images, read as the frames of one video each"
            print(f"{folders} of {len(videos)} videos in {data} are folders of {told}", file=sys.stderr)
        return videos

    def load(self) -> None:
        """Load the weights, and say what is at work.

        Raises:
            ValueError: not all weights of the encoder are there.
        """
        self.model = load_encoder(self.checkpoint, self.variant, self.args.onednn)
        self.readout = self.args.readout or default_readout(self.model)
        self.processor = load_processor(self.checkpoint, self.model.config, self.args.saved_processor)
        size = f"{self.model.num_parameters():,} parameters"
        print(f"{self.checkpoint}: {type(self.model).__name__}, {size}, {self._input_line()}")

    def embed(self, dataset: "datasets.Dataset") -> Features:
        """Pooled features of every image or video that can be read.

        Args:
            dataset: from `open`.

        Raises:
            ValueError: nothing can be read.
        """
        skipped, sample_index = [], []
        args, samples = self.args, self._samples(dataset.select_columns(source_column(dataset)))
        collator = VideoCollator() if isinstance(samples, VideoDataset) else ImageCollator()
        batch_size = BATCH_SIZE[self.variant.modality] if args.batch_size is None else args.batch_size

        def batches():
            for batch in DataLoader(samples, batch_size, collate_fn=collator, num_workers=args.workers):
                for line in batch["skipped"]:
                    print(f"skipped {line}", file=sys.stderr)
                skipped.extend(batch["skipped"])
                if len(skipped) == len(samples):
                    raise ValueError(f"none of the {len(samples)} {self.samples} can be read{self._hint()}")
                sample_index.append(batch["sample_index"])
                yield batch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        features, _ = extract_features(
            self.model, batches(), self.readout, device=device, progress=False, layers=args.layers or ()
        )
        rows = torch.cat(sample_index)
        if "label" not in dataset.features:
            return Features(features, None, rows, skipped)
        labels = torch.tensor([-1 if label is None else int(label) for label in dataset["label"]])
        return Features(features, labels[rows], rows, skipped)

    def _samples(self, rows: "datasets.Dataset") -> ImageDataset | VideoDataset:
        if self.variant.modality == "image":
            return ImageDataset(rows, ProcessorTransform(self.processor))
        transform = ProcessedClip(self.processor)
        return VideoDataset(rows, transform, self.sampling, random_position=False, folder_fps=self.args.folder_fps)

    def _input_line(self) -> str:
        if self.variant.modality == "image":
            return f"image size {self.model.config.image_size}"
        return f"crop size {self.model.config.crop_size}, {self._clip()}, clips per video: {self.sampling.num_clips}"

    def _clip(self) -> str:
        sampling = self.sampling
        distances = {"fps": "per second", "frame_step": "frames apart", "duration": "seconds in all"}
        name, words = next(item for item in distances.items() if getattr(sampling, item[0]) is not None)
        return f"clips of {sampling.frames_per_clip} frames, {getattr(sampling, name):g} {words}"

    def _hint(self) -> str:
        if self.variant.modality == "image" or self.sampling.short_videos == "pad":
            return ""
        return (
            f" as {self._clip()}: for short ones lower --frames, take them closer (--frame-step, --fps), "
            "or pad (--short-videos pad); for folders of frames say --frame-step or --folder-fps"
        )


def variant_of(checkpoint: str) -> Variant:
    """The variant of a folder or Hub id.

    Raises:
        OSError: no such checkpoint.
        ValueError: adapters alone, a model of no variant, or the folder of a run that was stopped.
    """
    if (Path(checkpoint) / "adapter_config.json").is_file() and not (Path(checkpoint) / "config.json").is_file():
        raise ValueError(f"{checkpoint} holds adapters only: use the folder of the run, where they are merged")
    require_finished(checkpoint)
    here = Path(checkpoint).exists()
    if not here and not is_hub_id(checkpoint):
        raise FileNotFoundError(f"no such folder: {checkpoint}")
    if not here:  # without a network that takes long: a mistyped folder is seen before
        print(f"{checkpoint} is no folder here: asking the Hub ...", file=sys.stderr)
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except OSError as error:
        if here:
            raise
        raise OSError(f"{checkpoint} is no folder here, and the Hub has not given it: {error}") from error
    return find_variant(config.model_type, checkpoint)


def load_encoder(checkpoint: str, variant: Variant, onednn: bool = False) -> PreTrainedModel:
    """The encoder of a folder or Hub id; of a pretraining checkpoint the target encoder.

    Args:
        checkpoint: folder or Hub id.
        variant: from `variant_of`.
        onednn: see `use_onednn`.

    Raises:
        ValueError: not all weights of the encoder are there.
    """
    base, report = variant.model_class(variant.base_model).from_pretrained(checkpoint, output_loading_info=True)
    encoder = variant.encoder_of(base)
    place = next(name for name, module in base.named_modules() if module is encoder)
    # A predictor beside the encoder plays no part, so it may be missing.
    if missing := sorted(key for key in report["missing_keys"] if key.startswith(place)):
        raise ValueError(f"{checkpoint} lacks {len(missing)} weights of the encoder, among them {missing[0]}")
    return (use_onednn(encoder) if onednn else encoder).eval()


def clip_sampling(frames_per_clip: int, clips: int = 1, frames: int | None = None, **given) -> ClipSampling:
    """The clips that the options ask for.

    Args:
        frames_per_clip: of the checkpoint.
        clips: per video.
        frames: instead of those of the checkpoint.
        given: further options, as they are named there.

    Example:
        >>> clip_sampling(16, clips=2, frame_step=3).stride(video_fps=25)
        3
    """
    distance = {name: given[name] for name in ("fps", "frame_step", "duration") if name in given} or {"fps": FPS}
    short_videos = given.get("short_videos", "refuse")
    length = frames_per_clip if frames is None else frames
    return ClipSampling(length, **distance, num_clips=clips, short_videos=short_videos)


def source_column(dataset: "datasets.Dataset") -> str:
    """The column of images or videos, beside which there may be labels."""
    (column,) = set(dataset.column_names) - {"label"}
    return column


__all__ = ["Embedder", "Features", "clip_sampling", "load_encoder", "source_column", "variant_of"]
