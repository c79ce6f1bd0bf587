"""InfoNCE: every row must find its partner among the rows of the batch, of this process or of all."""

import torch
import torch.distributed as dist
from torch import nn

from hf_jepa.losses.distributed import full_precision, gather_rows, own_rows, process_count, rows_by_process


def infonce(
    queries: torch.Tensor,
    keys: torch.Tensor,
    temperature: float = 0.07,
    symmetric: bool = False,
    gather: bool = False,
    logit_scale: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of each query's similarities to all keys, where the key of the same row is the right one.

    The mean over rows is the loss of 1807.03748 (section 2.3) with the cosine similarity over a temperature as score.
    With `gather` each process asks for its own rows among the keys of all, and gradients flow back to the process that
    a key came from: averaged over processes, the gradient of the mean over the rows of all of them is that of one
    process with the whole batch.

    Args:
        queries, keys: (B, D), rows in pairs. With `gather` B may differ between processes, and all must call.
        temperature: of the similarities, above 0.
        symmetric: also ask for the query of each key, and take the mean of both directions (2103.00020).
        gather: negatives from all processes instead of this one.
        logit_scale: one number, the logarithm of what similarities are multiplied by, learnt as in CLIP (2103.00020,
            section 2.5); `temperature` is not read then.
        groups: (B,) int64. Rows of the same number, in whatever process, are no negatives of one another: their keys
            mean the same.

    Returns:
        (B,), float32 at least; with `gather` 0 for rows within `without_rows`, which others do not see.

    Raises:
        ValueError: other shapes, a temperature of 0 or less.

    Example:
        >>> rows = torch.eye(3)
        >>> right, wrong = infonce(rows, rows, temperature=0.1), infonce(rows, rows.roll(1, 0), temperature=0.1)
        >>> right.max().item() < 1e-3, wrong.min().item() > 9
        (True, True)
        >>> same = torch.ones(2, 4)  # two rows that nothing tells apart
        >>> infonce(same, same).tolist(), infonce(same, same, groups=torch.tensor([7, 7])).abs().tolist()
        ([0.6931471824645996, 0.6931471824645996], [0.0, 0.0])
    """
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} must both be (B, D)")
    if logit_scale is None and temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if logit_scale is not None and logit_scale.numel() != 1:
        raise ValueError(f"logit_scale has shape {tuple(logit_scale.shape)}, expected one number")
    if groups is not None and groups.shape != queries.shape[:1]:
        raise ValueError(
            f"groups has shape {tuple(groups.shape)}, expected one number for each of {len(queries)} rows"
        )
    if logit_scale is not None:
        temperature = (-full_precision(logit_scale)).exp()
    queries, keys = (nn.functional.normalize(full_precision(x), dim=-1) for x in (queries, keys))
    losses = _to_partners(queries, keys, temperature, gather, groups)
    return (losses + _to_partners(keys, queries, temperature, gather, groups)) / 2 if symmetric else losses


def _to_partners(
    queries: torch.Tensor,
    keys: torch.Tensor,
    temperature: float | torch.Tensor,
    gather: bool,
    groups: torch.Tensor | None,
) -> torch.Tensor:
    first, key_groups = 0, groups  # row of the first key of this process among all
    if gather and process_count() > 1:
        counts = rows_by_process(len(own_rows(keys)), keys.device)
        first = sum(counts[: dist.get_rank()])
        keys = gather_rows(keys)
        key_groups = None if groups is None else gather_rows(groups)
        if len(queries) and not counts[dist.get_rank()]:  # they only stand in for data, and have no partners
            return 0.0 * (queries.sum(dim=1) + keys.sum())
    partners = torch.arange(first, first + len(queries), device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):  # a small temperature multiplies what 16 bits lose
        logits = queries @ keys.T / temperature
    if groups is not None:
        alike = groups.unsqueeze(1) == key_groups.unsqueeze(0)
        logits = logits.masked_fill(alike.scatter(1, partners.unsqueeze(1), False), -torch.inf)
    return nn.functional.cross_entropy(logits, partners, reduction="none")


__all__ = ["infonce"]
