"""Several clips and several spatial views of one video, brought together for a probe.

A long video is cut into clips (segments in time), each of which is cropped in several places (views). The official
code of V-JEPA and V-JEPA 2 lets the probe attend to all clips of one view together, and averages the probabilities of
the views.
"""

from collections.abc import Sequence

import torch
from torch import nn


def join_clips(features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Line up the tokens of all clips of a view, for one pass of the probe per view.

    Args:
        features: (B, S, V, N, D), the N tokens of each of S clips (in the order of time) and V views; or several
            such tensors, one for each level (chosen layer) of the encoder.

    Returns:
        (B, V, S * L * N, D) for L levels: the tokens of clip 0, level by level, then those of clip 1.

    Raises:
        ValueError: another number of dimensions, no level, or levels whose shapes differ.

    Example:
        >>> import torch
        >>> levels = [torch.randn(2, 8, 3, 20, 32) for _ in range(4)]
        >>> join_clips(levels).shape
        torch.Size([2, 3, 640, 32])
    """
    levels = [features] if isinstance(features, torch.Tensor) else list(features)
    shapes = [tuple(level.shape) for level in levels]
    if len(set(shapes)) != 1 or len(shapes[0]) != 5:
        raise ValueError(f"levels must all be (batch, clips, views, tokens, features), got shapes {shapes}")
    joined = levels[0] if len(levels) == 1 else torch.cat(levels, dim=3)
    return joined.transpose(1, 2).flatten(2, 3)


def view_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The probabilities from which the accuracy is counted: those of the views, averaged.

    Args:
        logits: (B, V, C)

    Returns:
        (B, C) float32, each row of sum 1.

    Raises:
        ValueError: another number of dimensions.

    Example:
        >>> import torch
        >>> view_probabilities(torch.tensor([[[0.0, 90.0], [0.0, 0.0]]])).tolist()
        [[0.25, 0.75]]
    """
    return _check_views(logits).float().softmax(dim=-1).mean(dim=1)


def view_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every view, averaged over views and videos: each view learns to be right on its own.

    Args:
        logits: (B, V, C)
        labels: (B,) class indices; videos with the label -100 are left out.

    Returns:
        scalar

    Raises:
        ValueError: another number of dimensions, or not one label per video.

    Example:
        >>> import torch
        >>> round(view_loss(torch.zeros(2, 3, 4), torch.tensor([1, 3])).item(), 4)  # log 4
        1.3863
    """
    if labels.shape != _check_views(logits).shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, but there are {len(logits)} videos: one for each")
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.repeat_interleave(logits.shape[1]))


def _check_views(logits: torch.Tensor) -> torch.Tensor:
    if logits.ndim != 3:
        raise ValueError(f"logits must be (batch, views, classes), got {tuple(logits.shape)}")
    return logits


__all__ = ["join_clips", "view_loss", "view_probabilities"]
