"""Data sets that give pixels, and the collator that makes batches of them.

A corrupt image does not raise: its place is taken by an `UndecodableImage`, which the collator drops and names.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from hf_jepa.data.collating import no_rows, split_readable, stack_samples
from hf_jepa.data.columns import column_names, standard_columns
from hf_jepa.data.decoding import DECODE_ERRORS, UndecodableImage, decode_image, describe_source
from hf_jepa.data.labelled_rows import LabelledRows, row_label
from hf_jepa.data.row_stream import PendingSample, RowStream, loaded
from hf_jepa.data.sources import load_images


def image_sample(
    row: dict[str, Any], index: int, rng: np.random.Generator, transform: Callable
) -> dict[str, Any] | UndecodableImage:
    """The sample of a row {"image", optionally "label"}, see `ImageDataset.sample`."""
    value = row["image"]
    try:
        image = decode_image(value)
    except DECODE_ERRORS as error:
        shape = transform(Image.new("RGB", (16, 16)), rng).shape
        return UndecodableImage.of(error, index, describe_source(value, index), shape)
    return {"pixel_values": transform(image, rng), "sample_index": index} | row_label(row, value, index)


class ImageDataset(LabelledRows):
    """Map-style data set of transformed images.

    The random numbers of a sample follow from (seed, epoch, index) alone: workers, ranks, order and resuming do not
    change a crop. Whoever iterates tells it the epoch by `set_epoch`.

    Args:
        dataset: a `datasets.Dataset` with an image column (from `load_images`, or any other), or a sequence of rows
            {"image", optionally "label"} whose images are PIL images, uint8 arrays (H, W, C), bytes or paths (among
            them `ShardedRows`).
        transform: called as `transform(image, rng)` with an RGB PIL image, see `hf_jepa.data.transforms`.
        seed: of all random transforms.

    Raises:
        ValueError: no image column, or a negative seed.
        TypeError: a streamed data set.

    Example:
        >>> import numpy as np
        >>> from hf_jepa.data.transforms import pretraining_transform
        >>> rows = [{"image": np.zeros((40, 50, 3), np.uint8), "label": 1}]
        >>> sample = ImageDataset(rows, pretraining_transform(32))[0]
        >>> sample["pixel_values"].shape, sample["sample_index"], sample["labels"]
        (torch.Size([3, 32, 32]), 0, 1)
    """

    items = "images"

    def __init__(self, dataset: Any, transform: Callable, seed: int = 0):
        if not hasattr(dataset, "__len__"):
            raise TypeError(f"{type(dataset).__name__} has no length: use IterableImageDataset for streams")
        if hasattr(dataset, "features"):
            dataset = standard_columns(dataset)
        elif len(dataset) and "image" not in (columns := column_names(dataset)):
            raise ValueError(f"rows need an 'image', got the columns {columns}")
        super().__init__(seed)
        self.dataset, self.transform = dataset, transform

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any] | UndecodableImage:
        """ "pixel_values" (C, H, W), "sample_index", "labels" if there are any; or why there is no image."""
        return image_sample(self.dataset[index], index, rng, self.transform)


class IterableImageDataset(RowStream):
    """Streamed data set of images, which its collator decodes (`ImageCollator`); see `RowStream` for its limits.

    Args:
        dataset: a `datasets.IterableDataset` with an image column.
        transform: called as `transform(image, rng)` with an RGB PIL image, see `hf_jepa.data.transforms`.
        seed, shuffle_buffer, endless: as of `RowStream`.

    Raises:
        TypeError: not a `datasets.IterableDataset`.
        ValueError: no image column, a negative seed, or, once it is read, an endless stream without rows.

    Example:
        >>> import datasets, numpy as np
        >>> from hf_jepa.data.transforms import evaluation_transform
        >>> image = datasets.Features({"image": datasets.Image()})
        >>> rows = datasets.Dataset.from_dict({"image": [np.zeros((9, 9, 3), np.uint8)] * 3}, features=image)
        >>> stream = IterableImageDataset(rows.to_iterable_dataset(), evaluation_transform(8))
        >>> ImageCollator()(list(stream))["sample_index"].tolist()
        [0, 1, 2]
    """

    map_style = "ImageDataset"

    def __init__(
        self, dataset: Any, transform: Callable, seed: int = 0, shuffle_buffer: int = 0, endless: bool = False
    ):
        super().__init__(dataset, partial(image_sample, transform=transform), seed, shuffle_buffer, endless)
        self.dataset = standard_columns(dataset)


class ImageCollator:
    """Stack samples to a batch, leaving out the images that could not be decoded.

    The batch has `pixel_values` (B, C, H, W), `sample_index` (B,), `labels` (B,) if the samples have labels, and
    `skipped`, one "path: reason" per image left out. A batch of which nothing could be decoded has no row.

    Args:
        keep_unreadable: keep the row of an image that could not be decoded, with zeros as pixels and the label -100,
            which losses ignore: batches of all processes then keep one size, as gathering predictions needs.

    Raises:
        ValueError: some samples with labels and some without, or images of several shapes.

    Example:
        >>> import torch
        >>> good = {"pixel_values": torch.zeros(3, 8, 8), "sample_index": 5}
        >>> batch = ImageCollator()([good, UndecodableImage(6, "b.jpg", "the file is empty", (3, 8, 8))])
        >>> batch["sample_index"], batch["skipped"]
        (tensor([5]), ['b.jpg: the file is empty'])
    """

    def __init__(self, keep_unreadable: bool = False):
        self.keep_unreadable = keep_unreadable

    def __call__(self, samples: Sequence[dict[str, Any] | UndecodableImage | PendingSample]) -> dict[str, Any]:
        samples = loaded(samples)
        found, skipped = split_readable(samples, "pixel_values", self.keep_unreadable)
        batch = stack_samples(found, "pixel_values") if found else no_rows(samples[0], "pixel_values")
        return batch | {"skipped": skipped}


__all__ = ["ImageCollator", "ImageDataset", "IterableImageDataset", "image_sample", "load_images"]
