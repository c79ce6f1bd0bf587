"""Data sets of images or videos with texts, and the collator that makes the batches of VL-JEPA.

A sample that cannot be read, or whose target is empty, does not raise: its place is taken by an `UndecodableVideo`,
which the collator drops and names.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from hf_jepa.data.columns import column_names
from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.row_stream import PendingSample, RowStream, loaded
from hf_jepa.data.shared_epoch import RowDataset
from hf_jepa.data.videos import UndecodableVideo
from hf_jepa.data.vision_text_columns import VisionTextRows, standard_stream
from hf_jepa.data.vision_text_reader import VisionTextReader
from hf_jepa.data.vision_text_shards import VisionTextShards


class VisionTextDataset(RowDataset):
    """Map-style data set of frames with texts.

    What is random in a sample follows from (seed, epoch, index) alone: workers, ranks, order and resuming change
    nothing. Whoever iterates tells it the epoch by `set_epoch`. Rows of shards have their order from `ShardSampler`,
    rows of several clip lengths from `FrameCountSampler`: `vision_text_sampler` knows which.

    Args:
        dataset: what `load_vision_text` gives, a `datasets.Dataset` whose columns are found by name, or a sequence of
            rows {"image" or "video", "target", optionally "query"} with anything that `open_video` or `decode_image`
            takes.
        reader: how a row becomes a sample.
        seed: of what is random.

    Raises:
        ValueError: rows without media or target, or a negative seed.
        TypeError: a streamed data set.

    Example:
        >>> rows = [{"video": np.zeros((40, 6, 8, 3), np.uint8), "query": "who?", "target": "a seven"}]
        >>> samples = VisionTextDataset(rows, VisionTextReader(num_frames=8))
        >>> samples[0]["video"].shape, samples[0]["query"], samples[0]["target"], samples[0]["sample_index"]
        ((8, 6, 8, 3), 'who?', 'a seven', 0)
    """

    items = "rows"

    def __init__(self, dataset: Any, reader: VisionTextReader | None = None, seed: int = 0):
        if not hasattr(dataset, "__len__"):
            raise TypeError(f"{type(dataset).__name__} has no length: use IterableVisionTextDataset for streams")
        reader = reader or VisionTextReader()
        if hasattr(dataset, "features"):
            dataset = VisionTextRows(dataset)
        elif len(dataset):
            _require_standard(column_names(dataset))
        if isinstance(dataset, VisionTextShards) and not reader.read_media:
            dataset = dataset.select_columns([name for name in dataset.column_names if name != dataset.media])
        super().__init__(seed)
        self.dataset, self.reader = dataset, reader

    @property
    def frame_counts(self) -> np.ndarray:
        """int64 (N,), frames of every sample, without reading a file."""
        if hasattr(self.dataset, "is_image"):
            is_image = self.dataset.is_image
        else:
            is_image = np.array(["video" not in row for row in self.dataset], bool)
        if len(is_image) and is_image.strides == (0,):  # all alike: millions of rows need no table
            return np.broadcast_to(self.reader.frames_of(is_image[0]), len(is_image))
        return self.reader.frames_of(is_image)

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any] | UndecodableVideo:
        """The sample of a row with given random numbers, see `VisionTextReader`."""
        return self.reader(self.dataset[index], index, rng)


def _require_standard(names: Sequence[str]) -> None:
    if "target" not in names or not {"image", "video"} & set(names):
        raise ValueError(
            f"rows need a 'target', and an 'image' or a 'video', got {sorted(names)}: see load_vision_text"
        )


class IterableVisionTextDataset(RowStream):
    """Streamed data set of frames with texts, which its collator decodes; see `RowStream` for its limits.

    Args:
        dataset: `load_vision_text(..., streaming=True)`, or a `datasets.IterableDataset` whose columns are known.
        reader: how a row becomes a sample.
        seed, shuffle_buffer, endless: as of `RowStream`.

    Raises:
        TypeError: not a `datasets.IterableDataset`.
        ValueError: unknown columns, a negative seed, or, once it is read, rows of another form, or an endless stream
            without rows.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_list([{"video": "1.mp4", "caption": "a seven moves left"}])
        >>> stream = IterableVisionTextDataset(rows.to_iterable_dataset())
        >>> next(iter(stream)).row
        {'video': '1.mp4', 'query': None, 'target': 'a seven moves left'}
    """

    map_style = "VisionTextDataset"

    def __init__(
        self,
        dataset: Any,
        reader: VisionTextReader | None = None,
        seed: int = 0,
        shuffle_buffer: int = 0,
        endless: bool = False,
    ):
        super().__init__(dataset, reader or VisionTextReader(), seed, shuffle_buffer, endless)
        if dataset.features is not None:
            self.dataset = standard_stream(dataset)

    def check(self, row: dict[str, Any]) -> None:
        _require_standard(list(row))


def text_group(text: str) -> int:
    """A number that stands for a text on all processes, for telling equal targets apart from different ones.

    Args:
        text: of which blanks at both ends play no part.

    Returns:
        a 64-bit number; different texts share one by a chance of 2^-64.

    Example:
        >>> text_group("yes") == text_group(" yes ") != text_group("no")
        True
    """
    return int.from_bytes(blake2b(text.strip().encode(), digest_size=8).digest(), "little", signed=True)


class VLJepaDataCollator:
    """Make the batch of `VLJepaForPreTraining`, leaving out the samples that could not be read.

    The batch has what the processor makes, `pixel_values_videos` (B, T, C, H, W), `target_ids` and `target_mask`
    (B, Lt), and, where any sample has a query, `query_ids` and `query_mask` (B, Lq); `target_group` (B,), equal for
    equal targets on all processes; `sample_index` (B,); and `skipped`, one "path: reason" per sample left out. A batch
    of which nothing could be read has no row.

    Args:
        processor: a `VLJepaProcessor`.
        decoder_labels: add the targets as `labels` for the decoder.

    Raises:
        ValueError: clips of different lengths, which `vision_text_sampler` keeps apart.

    Example:
        >>> from hf_jepa.data.byte_tokenizer import byte_tokenizer
        >>> from hf_jepa.data.digit_stories import DigitStories
        >>> from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
        >>> from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor
        >>> frames = VJepa2VideoProcessor(size={"shortest_edge": 64}, crop_size=64)
        >>> collate = VLJepaDataCollator(VLJepaProcessor(frames, byte_tokenizer(), byte_tokenizer()))
        >>> batch = collate(DigitStories(length=10, num_frames=8).__getitems__([3, 4]))
        >>> batch["pixel_values_videos"].shape, batch["sample_index"]
        (torch.Size([2, 8, 3, 64, 64]), tensor([3, 4]))
    """

    def __init__(self, processor: Callable, decoder_labels: bool = False):
        self.processor, self.decoder_labels = processor, decoder_labels

    def __call__(self, samples: Sequence[dict[str, Any] | UndecodableImage | PendingSample]) -> dict[str, Any]:
        samples = loaded(samples)
        skipped = [str(sample) for sample in samples if isinstance(sample, UndecodableImage)]
        read = [sample for sample in samples if not isinstance(sample, UndecodableImage)]
        if not read:
            blank = np.zeros((samples[0].shape[0], 16, 16, 3), np.uint8)
            batch = self._batch([{"video": blank, "query": "", "target": "nothing", "sample_index": 0}])
            return {name: value[:0] for name, value in batch.items()} | {"skipped": skipped}
        return self._batch(read) | {"skipped": skipped}

    def _batch(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        videos = [sample["video"] for sample in samples if "video" in sample]
        if len(counts := {len(video) for video in videos}) > 1:
            raise ValueError(
                f"a batch has clips of {sorted(counts)} frames: take the samples in the order of vision_text_sampler, "
                "of a stream only those of one media=..."
            )
        queries, targets = ([sample[name] for sample in samples] for name in ("query", "target"))
        batch = self.processor(
            videos=videos or None,
            queries=queries if any(query.strip() for query in queries) else None,
            targets=targets,
            decoder_targets=targets if self.decoder_labels else None,
        )
        return dict(batch) | {
            "target_group": torch.tensor([text_group(target) for target in targets]),
            "sample_index": torch.tensor([sample["sample_index"] for sample in samples]),
        }


__all__ = [
    "IterableVisionTextDataset",
    "VLJepaDataCollator",
    "VisionTextDataset",
    "VisionTextReader",
    "text_group",
]
