"""Checks shared by every probe and metric: a wrong tensor is refused here, with its numbers."""

from numbers import Integral

import torch


def check_count(value: int, name: str, smallest: int = 1) -> int:
    """Return `value`, after making sure that it is a whole number of at least `smallest`.

    Raises:
        TypeError: not a whole number.
        ValueError: too small.
    """
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < smallest:
        raise ValueError(f"{name} is {value}: it must be at least {smallest}")
    return int(value)


def check_features(
    features: torch.Tensor, name: str = "embeddings", min_rows: int = 1, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Return `features` (N, D) detached and as `dtype`, after making sure that they can be measured.

    Args:
        features: (N, D), floating point of any precision.
        name: how the error messages call it.
        min_rows: fewest rows that make sense.
        dtype: precision of the result. float64 is also what autocast leaves alone.

    Returns:
        (N, D) on the device of `features` (on the CPU for float64 on a device that has none).

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not two-dimensional, no column, fewer than `min_rows` rows, or NaN/inf in it.
    """
    if not isinstance(features, torch.Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, torch.Tensor) else type(features).__name__
        raise TypeError(f"{name} must be a floating-point tensor (rows, dimensions), got {kind}")
    if features.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}: expected two dimensions (rows, dimensions); pool tokens first"
        )
    if features.shape[0] < min_rows or features.shape[1] == 0:
        raise ValueError(
            f"{name} has {features.shape[0]} rows and {features.shape[1]} dimensions: "
            f"at least {min_rows} rows and 1 dimension are needed"
        )
    finite = features.isfinite()
    if not finite.all():
        row = (~finite).any(dim=1).nonzero()[0].item()
        raise ValueError(
            f"{name} has {(~finite).sum().item()} values that are NaN or infinite, the first in row {row}: "
            "look for an overflow in half precision or a diverged model"
        )
    device = "cpu" if features.device.type == "mps" and dtype == torch.float64 else features.device
    return features.detach().to(device, dtype)


def check_labels(labels: torch.Tensor, rows: int, name: str = "labels") -> torch.Tensor:
    """Return `labels` (N,) as a LongTensor, after making sure that there is one class index for each of `rows` rows.

    Raises:
        TypeError: not whole numbers.
        ValueError: not one-dimensional, or not `rows` long.
    """
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must hold whole class indices, got {labels.dtype}")
    if labels.ndim != 1 or len(labels) != rows:
        raise ValueError(f"{name} has shape {tuple(labels.shape)}: expected one class index for each of {rows} rows")
    return labels.long()


def check_same_width(train_x: torch.Tensor, test_x: torch.Tensor) -> None:
    """Raise ValueError unless train and test features have the same number of dimensions."""
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"train features have {train_x.shape[1]} dimensions and test features {test_x.shape[1]}: "
            "extract both with the same model and readout"
        )


__all__ = ["check_count", "check_features", "check_labels", "check_same_width"]
