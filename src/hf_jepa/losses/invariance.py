"""How far the embeddings of the views of one image lie apart."""

import torch

from hf_jepa.losses.distributed import full_precision, global_mean


def invariance_loss(views: torch.Tensor, num_global: int | None = None) -> torch.Tensor:
    """Mean squared distance of all views to the mean of the global ones (LeJEPA, 2511.08544), in float32.

    The gradient flows into both, the views and their mean: nothing is a fixed target.
    The mean is that over all processes, where every row counts alike (see `global_mean`).

    Args:
        views: (V, B, D), global views first.
        num_global: how many views make up the mean; all when unset, as in LeJEPA's minimal example, where the paper
            takes the global ones.

    Returns:
        scalar, the mean over V, B and D.

    Raises:
        ValueError: another number of axes, or `num_global` not in 1..V.

    Example:
        >>> views = torch.tensor([[[0.0]], [[2.0]], [[4.0]]])
        >>> [round(invariance_loss(views, num_global=number).item(), 3) for number in (None, 2)]
        [2.667, 3.667]
    """
    if views.ndim != 3:
        raise ValueError(f"views of shape {tuple(views.shape)} are not (views, batch, features)")
    if num_global is None:
        num_global = len(views)
    if not 1 <= num_global <= len(views):
        raise ValueError(f"num_global {num_global} must be from 1 to {len(views)}, the number of views")
    views = full_precision(views)
    return global_mean((views - views[:num_global].mean(dim=0)).square())


__all__ = ["invariance_loss"]
