"""Sums and rows over the processes of a run, with gradients: what a loss over the global batch needs.

Every process computes the same loss of the global batch. Backward sums gradients over the processes, so that their
average, which data-parallel training takes, is the gradient of that loss. Without a process group, or in one process,
nothing is communicated. Whether there is a group is looked up at every call: a loss may be built before the group is.

All processes must make the same calls, in forward and in backward: one that has no rows passes a tensor of 0 rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def process_count() -> int:
    """Number of processes that share the batch, 1 without a process group.

    Example:
        >>> process_count()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


_absent = False


@contextmanager
def without_rows() -> Iterator[None]:
    """In this process, while it computes a loss of rows that only stand in for data: others do not see them.

    Some other process must have rows.

    Example:
        >>> with without_rows():
        ...     own_rows(torch.ones(3, 2)).shape
        torch.Size([0, 2])
    """
    global _absent
    before, _absent = _absent, True
    try:
        yield
    finally:
        _absent = before


def own_rows(x: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """What this process adds to the batch of all: `x`, and none of its rows within `without_rows`.

    Args:
        x: any shape.
        dim: of the rows.

    Example:
        >>> own_rows(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """
    return x.narrow(dim, 0, 0) if _absent else x


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32 at least (float64 stays): statistics of a batch lose too much in 16 bits.

    Example:
        >>> full_precision(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reduce_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over processes, differentiable. A mean is a sum divided by a sum, so uneven batches are no special case.

    (`ReduceOp.AVG` would weigh every process alike, and gloo lacks it.)

    Args:
        x: of the same shape in every process.

    Returns:
        of the shape of `x`, the same in every process; `x` itself where there is one process.

    Example:
        >>> rows = torch.tensor([[1.0], [3.0]])
        >>> total, count = reduce_sum(torch.stack([rows.sum(), torch.tensor(2.0)]))
        >>> (total / count).item()  # the mean over all rows of all processes
        2.0
    """
    return x if process_count() == 1 else _ReduceSum.apply(x)


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows of all processes in the order of their ranks, differentiable. Processes may have different numbers of rows.

    Args:
        x: (N_r, ...), any N_r of 0 or more; the other sizes are the same in every process.

    Returns:
        (sum of N_r, ...), the same in every process; `x` itself where there is one process.

    Example:
        >>> gather_rows(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """
    if process_count() == 1:
        return x
    x = own_rows(x)
    return _GatherRows.apply(x, rows_by_process(len(x), x.device))


def rows_by_process(rows: int, device: torch.device | str = "cpu") -> list[int]:
    """Number of rows in every process, ordered by rank.

    Args:
        rows: in this process.
        device: where the process group communicates, that of the features.

    Example:
        >>> rows_by_process(3)
        [3]
    """
    if process_count() == 1:
        return [rows]
    found = torch.zeros(process_count(), dtype=torch.int64, device=device)
    found[dist.get_rank()] = rows
    dist.all_reduce(found)
    return found.tolist()


def global_rows(rows: int, device: torch.device | str = "cpu") -> int:
    """Number of rows in all processes together.

    Args:
        rows, device: see `rows_by_process`.

    Example:
        >>> global_rows(3)
        3
    """
    return sum(rows_by_process(rows, device))


def global_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean over all elements in all processes, differentiable and in float32: every element counts alike.

    The mean of the processes' means, which data-parallel training takes of local losses, is another number where
    batches are uneven.

    Args:
        x: any shape, which may differ between processes.

    Returns:
        scalar, the same in every process.

    Raises:
        ValueError: no element in the only process. (In several it is NaN.)

    Example:
        >>> global_mean(torch.tensor([1.0, 3.0])).item()
        2.0
    """
    x = full_precision(x)
    if process_count() == 1:
        if not x.numel():
            raise ValueError(f"a tensor of shape {tuple(x.shape)} has no mean: the batch is empty")
        return x.mean()
    x = own_rows(x.flatten())
    total, count = reduce_sum(torch.stack([x.sum(), x.new_tensor(x.numel())]))
    return total / count


class _ReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return _sum_of_copies(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _sum_of_copies(gradient)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: list[int]) -> torch.Tensor:
        ctx.rows = rows
        padded = x.new_zeros(max(rows), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _sum_of_copies(gradient).split(ctx.rows)[dist.get_rank()], None


def _sum_of_copies(x: torch.Tensor) -> torch.Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


__all__ = [
    "full_precision",
    "gather_rows",
    "global_mean",
    "global_rows",
    "own_rows",
    "process_count",
    "reduce_sum",
    "rows_by_process",
    "without_rows",
]
