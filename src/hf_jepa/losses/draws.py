"""What losses draw: on the CPU, from the optimizer step, so that device, process and resume do not matter."""

import torch

from hf_jepa.losses.operators import operator_name


_SEED_FACTOR, _STREAM_FACTOR = 0x9E3779B1, 0x85EBCA6B  # odd: other seeds and streams start far from all steps


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """CPU generator of one step. With seed 0 and stream 0 it is seeded by the step itself, as in official SIGReg.

    Args:
        seed: of the run.
        step: of the optimizer.
        stream: tells what is drawn in the same step apart.

    Example:
        >>> torch.equal(torch.randn(3, generator=step_generator(0, 7)), torch.randn(3, generator=step_generator(0, 7)))
        True
    """
    # PyTorch's Mersenne twister reads the lower 32 bits only.
    return torch.Generator().manual_seed((step + seed * _SEED_FACTOR + stream * _STREAM_FACTOR) % 2**32)


@torch.library.custom_op(operator_name(__name__, "unit_directions"), mutates_args=())
def unit_directions(seed: int, step: int, features: int, count: int, device: torch.device) -> torch.Tensor:
    """Random directions of one step, uniform on the sphere; the same on every device.

    A custom operator, because `torch.compile` cannot follow a generator; the step does not make it compile again.

    Args:
        seed, step: see `step_generator`.
        features: D
        count: S
        device: where they are needed.

    Returns:
        float32 (D, S); columns have length 1.

    Example:
        >>> unit_directions(0, 7, 4, 3, torch.device("cpu")).norm(dim=0)
        tensor([1., 1., 1.])
    """
    directions = torch.randn(features, count, generator=step_generator(seed, step))
    return (directions / directions.norm(dim=0)).to(device)


@unit_directions.register_fake
def _(seed: int, step: int, features: int, count: int, device: torch.device) -> torch.Tensor:
    return torch.empty(features, count, device=device)


@torch.library.custom_op(operator_name(__name__, "choose_indices"), mutates_args=())
def choose_indices(seed: int, step: int, total: int, count: int, device: torch.device) -> torch.Tensor:
    """Some of `total` indices, in ascending order, drawn anew every step.

    Args:
        seed, step: see `step_generator`.
        total: indices to choose from.
        count: how many, at most `total`.
        device: where they are needed.

    Returns:
        int64 (count,)

    Example:
        >>> choose_indices(0, 7, 100, 3, torch.device("cpu")).shape
        torch.Size([3])
    """
    chosen = torch.randperm(total, generator=step_generator(seed, step, stream=1))[:count]
    return chosen.sort().values.to(device)


@choose_indices.register_fake
def _(seed: int, step: int, total: int, count: int, device: torch.device) -> torch.Tensor:
    return torch.empty(count, dtype=torch.int64, device=device)


def require_step(step: int | None) -> None:
    """Refuse to draw without knowing the step.

    Raises:
        ValueError: `step` is None.

    Example:
        >>> require_step(0)
    """
    if step is None:
        raise ValueError("this loss draws anew every step: pass step=, the number of the optimizer step")


__all__ = ["choose_indices", "require_step", "step_generator", "unit_directions"]
