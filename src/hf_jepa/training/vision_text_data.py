"""The data of VL-JEPA's programs: sources of videos or images with texts, one or several with weights."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.digit_stories import DigitStories
from hf_jepa.data.digit_texts import digit_scenes, story_caption, story_questions
from hf_jepa.data.moving_digits import MEAN, STD
from hf_jepa.data.row_stream import loaded
from hf_jepa.data.vision_text import (
    IterableVisionTextDataset,
    VisionTextDataset,
    VLJepaDataCollator,
)
from hf_jepa.data.vision_text_mixture import MixedVisionText
from hf_jepa.data.vision_text_reader import VisionTextReader
from hf_jepa.data.vision_text_sources import load_vision_text
from hf_jepa.training.source_arguments import SourceArguments
from hf_jepa.training.vision_token_cache import CachedVision, cache_data_set


STORIES = "digit_stories"
CAPTION_QUERY = "what happens?"  # asked of its clips where queries are used
TOKENIZED = 10_000  # records whose texts a tokenizer is trained on


@dataclass(frozen=True)
class VisionTextSource:
    """One source of videos or images with texts; see `load_vision_text`.

    Args:
        path: JSONL, folder, parquet, shards or Hub id, or "digit_stories" (generated).
        weight: how often it is drawn from, relative to the others.
        split: of the source, if not that of the run.
        media: "video" or "image", to take only these; shards need it, and sources that are mixed have one kind.
        media_column, query_column, target_column: found by type or name unless given.
        frames_per_clip: frames of its clips, if not those of the run.

    Example:
        >>> VisionTextSource("vqa.jsonl", weight=25).media is None
        True
    """

    path: str
    _: KW_ONLY
    weight: float = 1.0
    split: str | None = None
    media: str | None = None
    media_column: str | None = None
    query_column: str | None = None
    target_column: str | None = None
    frames_per_clip: int | None = None


@dataclass(kw_only=True)
class VisionTextArguments(SourceArguments):
    """Where videos, images and texts come from, and which frames are read."""

    source_class, generated = VisionTextSource, STORIES

    dataset: dict | str | None = field(
        default=None,
        metadata={
            "help": f"JSONL, folder with captions, parquet, shards, Hub id or '{STORIES}' (generated); or several "
            "sources (JSON): name -> path, and the other fields of VisionTextSource."
        },
    )
    media: str | None = field(default=None, metadata={"help": "Take only 'video' or 'image'; shards need it."})
    streaming: bool = field(default=False, metadata={"help": "Read files and Hub ids while training."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Records of a stream that are shuffled."})
    frames_per_clip: int = field(default=16, metadata={"help": "Frames of a video, spread evenly over it."})
    image_frames: int = field(default=1, metadata={"help": "Frames that an image becomes."})
    short_videos: str = field(default="refuse", metadata={"help": "'refuse' (skip and count them) or 'pad' them."})
    folder_fps: float | None = field(default=None, metadata={"help": "Frames per second of folders of images."})
    use_queries: bool = field(
        default=True, metadata={"help": "Ask the queries of the records; false for stage 1, which has none."}
    )
    eval_dataset: str | None = field(default=None, metadata={"help": "Data to measure the loss and recalls on."})
    eval_split: str | None = field(default=None, metadata={"help": "Split of that, or of the data set."})
    eval_length: int = field(default=0, metadata={"help": f"Clips of '{STORIES}' to measure on, of its test split."})
    generated_length: int = field(default=4096, metadata={"help": f"Clips per epoch of '{STORIES}'."})
    stories_task: str = field(default="caption", metadata={"help": "'caption', 'question' or 'both'."})
    stories_combinations: str = field(
        default="seen", metadata={"help": "Directions of a digit: 'seen', 'unseen' (held out) or 'all'."}
    )
    stories_directions: int = field(default=4, metadata={"help": "4, or 8 with the diagonals."})
    cache_vision_tokens: str | None = field(
        default=None, metadata={"help": "Folder where a frozen vision encoder's tokens are kept, computed once."}
    )
    cache_dtype: str = field(default="float32", metadata={"help": "Of these tokens: float32, bfloat16 or float16."})

    def of_run(self) -> dict[str, Any]:
        return super().of_run() | {"media": self.media}

    def open(self, seed: int = 0, chunk: int = 1, read_media: bool = True) -> Any:
        """The data to train on, or to measure.

        Args:
            seed: of what is random.
            chunk: pairs of one clip length in a mixture, the batch size of all processes.
            read_media: False for the texts alone.

        Raises:
            ValueError: see `sources`; several sources that are streamed.
        """
        sources = self.sources()
        found = [self._open(source, seed, read_media) for source in sources.values()]
        if len(found) == 1:
            return found[0]
        if self.streaming:
            raise ValueError(f"streaming: {len(found)} sources cannot be mixed as they are read: take shards of each")
        return MixedVisionText(found, [source.weight for source in sources.values()], chunk, self.epoch_length, seed)

    def _open(self, source: VisionTextSource, seed: int, read_media: bool) -> Any:
        frames = source.frames_per_clip or self.frames_per_clip
        if source.path == STORIES:
            return self._stories(self.generated_length, source.split, frames, seed)
        columns = {name: getattr(source, f"{name}_column") for name in ("media", "query", "target")}
        columns = {f"{name}_column": column for name, column in columns.items() if column is not None}
        with PartialState().local_main_process_first():  # what a shard holds is looked up once
            rows = load_vision_text(
                source.path,
                source.split,
                media=source.media,
                streaming=self.streaming,
                shards=self.shard_options(),
                **columns,
            )
        reader = self._reader(frames, read_media)
        if self.streaming:
            return IterableVisionTextDataset(rows, reader, seed, self.shuffle_buffer, endless=True)
        return VisionTextDataset(rows, reader, seed)

    def _reader(self, frames: int, read_media: bool) -> VisionTextReader:
        return VisionTextReader(frames, self.image_frames, self.short_videos, self.folder_fps, read_media=read_media)

    def _stories(self, length: int, split: str, frames: int, seed: int) -> DigitStories:
        return DigitStories(
            length,
            split,
            self.stories_combinations,
            frames,
            self.stories_directions,
            self.stories_task,
            CAPTION_QUERY if self.use_queries else "",
            seed,
        )

    def open_eval(self, seed: int = 0, read_media: bool = True) -> Any | None:
        """The data to measure a run on; None where nothing asks for it."""
        if self.eval_length:
            return self._stories(self.eval_length, "test", self.frames_per_clip, seed)
        if self.eval_dataset is None and self.eval_split is None:
            return None
        (source,) = self.sources().values() if self.eval_dataset is None else (None,)
        path, split = self.eval_dataset or source.path, self.eval_split or self.train_split
        rows = load_vision_text(path, split, media=self.media, shards=self.shard_options())
        return VisionTextDataset(rows, self._reader(self.frames_per_clip, read_media), seed)

    def collator(self, processor: Any) -> "VisionTextCollator":
        """What makes batches for the model."""
        return VisionTextCollator(processor, self.use_queries)

    def video_fields(self) -> dict[str, Any]:
        """Of the processor of a fresh model, where the data are known."""
        if not self.all_generated():
            return {}
        return {"image_mean": [MEAN] * 3, "image_std": [STD] * 3, "crop_pct": 1.0}

    def texts(self) -> Iterator[str]:
        """Queries and targets, for a tokenizer; of large data the first."""
        if self.all_generated():
            scenes = digit_scenes("all", self.stories_directions)
            found = [CAPTION_QUERY, *(story_caption(*scene.T) for scene in scenes)]
            asked = (story_questions(*scene.T, self.stories_directions) for scene in scenes)
            found += [text for each in asked for question in each for text in (question.question, question.answer)]
            yield from dict.fromkeys(found)
            return
        dataset = self.open(read_media=False)
        samples = dataset if self.streaming else (dataset[index] for index in range(len(dataset)))
        for sample in loaded(islice(samples, TOKENIZED)):
            if not isinstance(sample, UndecodableImage):
                yield from (sample["query"], sample["target"])

    def cached(self, model: nn.Module, processor: Any, training: TrainingArguments) -> Dataset:
        """The data with vision tokens in place of videos, which are computed where they are not there yet.

        Raises:
            ValueError: a vision encoder that is trained, or data that are streamed; see `cache_vision_tokens`.
        """
        if not model.config.freeze_vision:
            raise ValueError("cache_vision_tokens: the vision encoder is trained, so its tokens change at every step")
        if self.streaming:
            raise ValueError("cache_vision_tokens needs the number of every sample, which a stream does not have")
        chunk = training.per_device_train_batch_size * training.world_size
        samples, texts = (self.open(training.seed, chunk, read_media) for read_media in (True, False))
        cache = cache_data_set(
            self.cache_vision_tokens, samples, self.collator(processor), model, training, self.cache_dtype
        )
        return CachedVision(texts, cache)


class VisionTextCollator:
    """Batches of `VLJepaForPreTraining`, also without queries and with vision tokens in place of videos.

    Args:
        processor: a `VLJepaProcessor`.
        use_queries: False leaves the queries out.
    """

    def __init__(self, processor: Any, use_queries: bool = True):
        self.collate, self.use_queries = VLJepaDataCollator(processor), use_queries

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        samples = loaded(samples)
        if not self.use_queries:
            samples = [each if isinstance(each, UndecodableImage) else each | {"query": ""} for each in samples]
        batch = self.collate(samples)
        tokens = [sample["vision_tokens"] for sample in samples if "vision_tokens" in _fields(sample)]
        return batch | ({"vision_tokens": torch.stack(tokens)} if tokens else {})


def _fields(sample: Any) -> Any:
    return () if isinstance(sample, UndecodableImage) else sample


class Targets(Dataset):
    """The targets of samples, for what is trained on texts alone.

    Args:
        samples: {"target": ...} and whatever else; those that cannot be read are handed on.
    """

    def __init__(self, samples: Any):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> str | UndecodableImage:
        sample = self.samples[index]
        return sample if isinstance(sample, UndecodableImage) else sample["target"]


__all__ = ["STORIES", "Targets", "VisionTextArguments", "VisionTextCollator", "VisionTextSource"]
