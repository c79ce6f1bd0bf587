"""Rows that may have labels: what `ImageDataset` and `VideoDataset` have in common."""

from typing import Any

from hf_jepa.data.decoding import describe_source
from hf_jepa.data.shared_epoch import RowDataset


class LabelledRows(RowDataset):
    """A `RowDataset` of `self.dataset`, rows with a "label" or without."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their numbers; None where the data set does not know them."""
        if hasattr(self.dataset, "class_names"):
            return self.dataset.class_names
        return getattr(getattr(self.dataset, "features", {}).get("label"), "names", None)

    @property
    def labels(self) -> list[int | None] | None:
        """Label of every row (None where it has none), without reading an image or a video; None without labels."""
        if hasattr(self.dataset, "labels"):
            return self.dataset.labels
        if hasattr(self.dataset, "features"):
            labels = self.dataset["label"] if "label" in self.dataset.features else None
        else:
            rows = [self.dataset[index] for index in range(len(self))]
            labels = [row["label"] for row in rows] if rows and "label" in rows[0] else None
        return None if labels is None else [None if label is None else int(label) for label in labels]


def row_label(row: dict[str, Any], value: Any, index: int) -> dict[str, int]:
    """{"labels": the number of the class}, or nothing where rows have no "label".

    Args:
        row: that was read.
        value: its image or video, which an error names.
        index: of the row.

    Raises:
        ValueError: a row without label among others that have one.

    Example:
        >>> row_label({"image": b"", "label": 3}, b"", 0), row_label({"image": b""}, b"", 0)
        ({'labels': 3}, {})
    """
    if "label" not in row:
        return {}
    if row["label"] is None:
        raise ValueError(f"{describe_source(value, index)} has no label, other rows do")
    return {"labels": int(row["label"])}


__all__ = ["LabelledRows", "row_label"]
