"""SIGReg (LeJEPA, 2511.08544): embeddings are pushed towards an isotropic Gaussian, tested along random directions.

The test along a direction is that of Epps and Pulley: the empirical characteristic function beside the Gaussian one,
at a few knots, by quadrature. The sums over samples are all it needs, of the batch and of other processes. The knots
are equally spaced, so that `e^{i t x}` at all of them are powers of one of them; they are made for a few directions
at a time, and again in backward, so memory does not grow with knots times directions.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from hf_jepa.losses.distributed import full_precision, own_rows, process_count, reduce_sum
from hf_jepa.losses.draws import choose_indices, require_step, unit_directions
from hf_jepa.losses.operators import operator_name


INTERVALS = ("half", "full")
_CHUNK_ELEMENTS = {"cpu": 2**18}  # samples times directions worked on at a time: what stays in the cache
_CHUNK_ELEMENTS_ELSEWHERE = 2**22  # enough to keep a GPU busy: 32 MiB a tensor
_CHUNK_SLICES = 64  # at least so many directions, or matrix products become products with vectors


def sigreg(
    z: torch.Tensor,
    step: int | None,
    num_slices: int = 1024,
    t_max: float = 3.0,
    n_points: int = 17,
    interval: str = "half",
    scale_by_n: bool = True,
    flattened: bool = False,
    clip_value: float | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Mean of the Epps-Pulley statistic over random directions: 0 for perfect Gaussian samples of unit covariance.

    The samples are those of all processes, and gradients averaged over processes are those of the global batch.

    Weighting. LeJEPA minimises `(1 - lambda) * invariance + lambda * sigreg` with lambda 0.05 (0.02 in its minimal
    example). Divided by `1 - lambda` this is `invariance + lambda / (1 - lambda) * sigreg`; some implementations
    write `invariance + lambda * sigreg`. With `scale_by_n` the statistic has a factor N, the number of samples in all
    processes: the penalty of a given deviation grows with the global batch, so a lambda is tuned for one batch size.
    Without it, the statistic is a distance that does not depend on the batch but for sampling noise of about 1 / N.

    Args:
        z: (..., N, D). One test of N samples for every leading index (a view, as in LeJEPA), and the mean of them.
        step: of the optimizer; directions are drawn from it and `seed` on the CPU.
        num_slices: number of directions.
        t_max, n_points, interval: the quadrature, see `sigreg_statistics`.
        scale_by_n: multiply by N; eb_jepa does not.
        flattened: all leading indices are one sample of `... * N` rows, as in stable-pretraining.
        clip_value: statistics below it count as 0.
        seed: of the run; 0 draws the directions that the official code draws on a CPU.

    Returns:
        scalar, in float32 (float64 for float64 input), the same in every process.

    Raises:
        ValueError: no step, no sample, or a quadrature that does not exist.

    Example:
        >>> z = torch.randn(2, 256, 8, generator=torch.Generator().manual_seed(0))
        >>> [round(sigreg(x, step=0).item(), 1) for x in (z, 2 * z, torch.ones_like(z))]
        [1.3, 60.0, 276.0]
        >>> round(sigreg(z, step=0, t_max=3.0, n_points=10, interval="full", scale_by_n=False).item(), 3)  # eb_jepa
        0.005
    """
    require_step(step)
    if flattened:
        z = z.flatten(0, -2)
    directions = unit_directions(seed, step, z.shape[-1], num_slices, z.device)
    statistics = sigreg_statistics(z, directions, t_max, n_points, interval, scale_by_n)
    if clip_value is not None:
        statistics = torch.where(statistics < clip_value, 0.0, statistics)
    return statistics.mean()


def dense_sigreg(
    features: torch.Tensor, step: int | None, num_positions: int | None = None, seed: int = 0, **options: Any
) -> torch.Tensor:
    """SIGReg of feature maps: one test per position over the batch, on some positions drawn anew every step.

    Positions are tested one by one, because tokens of one image are no independent samples.

    Args:
        features: (B, N, D), N positions.
        step: of the optimizer.
        num_positions: how many positions are tested; all when unset or where there are fewer.
        seed: of the run.
        options: of `sigreg`.

    Returns:
        scalar

    Raises:
        ValueError: another number of axes, no position, or what `sigreg` refuses.

    Example:
        >>> features = torch.randn(64, 16, 8, generator=torch.Generator().manual_seed(0))
        >>> round(dense_sigreg(features, step=0, num_positions=4, num_slices=32).item(), 1)
        0.9
    """
    require_step(step)
    if features.ndim != 3:
        raise ValueError(f"features of shape {tuple(features.shape)} are not (batch, positions, features)")
    if num_positions is not None and num_positions < 1:
        raise ValueError(f"num_positions {num_positions} must be 1 or more")
    if num_positions is not None and num_positions < features.shape[1]:
        chosen = choose_indices(seed, step, features.shape[1], num_positions, features.device)
        features = features[:, chosen]
    return sigreg(features.transpose(0, 1), step, seed=seed, **options)


def sigreg_statistics(
    z: torch.Tensor,
    directions: torch.Tensor,
    t_max: float = 3.0,
    n_points: int = 17,
    interval: str = "half",
    scale_by_n: bool = True,
) -> torch.Tensor:
    """Epps-Pulley statistic of samples along given directions.

    `N * sum_k w_k ((mean cos t_k x - phi_k)^2 + (mean sin t_k x)^2)` with `phi_k = exp(-t_k^2 / 2)`, and as weights
    those of the trapezoid rule over [-t_max, t_max], times `phi_k`.

    Args:
        z: (..., N, D) samples of this process; N may differ between processes.
        directions: (D, S), columns of length 1.
        t_max: where the integral ends.
        n_points: knots of the quadrature.
        interval: "half": that many on [0, t_max], each standing for its mirror image, too (as in LeJEPA).
            "full": that many on [-t_max, t_max] (as in eb_jepa); odd n equals (n + 1) / 2 on "half".
        scale_by_n: multiply by N.

    Returns:
        (..., S)

    Raises:
        ValueError: shapes that do not fit, no sample, or a quadrature that does not exist.

    Example:
        >>> z = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> sigreg_statistics(z, torch.eye(8)).shape
        torch.Size([8])
    """
    if z.ndim < 2 or directions.ndim != 2 or z.shape[-1] != directions.shape[0]:
        raise ValueError(
            f"samples {tuple(z.shape)} and directions {tuple(directions.shape)} must be (..., N, D) and (D, S)"
        )
    if 0 in directions.shape or not math.prod(z.shape[:-2]):
        raise ValueError(
            f"samples {tuple(z.shape)} and directions {tuple(directions.shape)} give no statistic: an axis has size 0"
        )
    knots = _knots(t_max, n_points, interval)
    z = own_rows(full_precision(z), dim=-2)
    if process_count() == 1 and not z.shape[-2]:
        raise ValueError(f"samples of shape {tuple(z.shape)} are none: the batch is empty")
    samples = z.reshape(math.prod(z.shape[:-2]), *z.shape[-2:])  # (V, N, D)
    sums = characteristic_sums(samples, directions.to(z.dtype), *knots)  # (V, K, S, 2)
    count = sums.new_full((1,), float(z.shape[-2]))
    total = reduce_sum(torch.cat([sums.flatten(), count]))
    cosine, sine = (total[:-1] / total[-1]).view_as(sums).unbind(-1)  # (V, K, S)
    t = knots.first + knots.spacing * torch.arange(knots.count, dtype=z.dtype, device=z.device)
    weights = torch.full_like(t, 2 * knots.spacing)
    weights[-1] = knots.spacing
    if knots.first == 0:
        weights[0] = knots.spacing  # its own mirror image
    window = torch.exp(-t.square() / 2)  # characteristic function of the Gaussian, and what its deviation counts
    squared = (cosine - window[:, None]).square() + sine.square()
    statistics = (squared * (weights * window)[:, None]).sum(dim=1)
    return (statistics * total[-1] if scale_by_n else statistics).view(*z.shape[:-2], -1)


class _Knots(NamedTuple):
    """Knots of 0 or more, equally spaced; those below 0 are their mirror images."""

    first: float
    spacing: float
    count: int


def _knots(t_max: float, n_points: int, interval: str) -> _Knots:
    if interval not in INTERVALS:
        raise ValueError(f"interval {interval!r} is not one of {', '.join(INTERVALS)}")
    if not 0 < t_max < math.inf or n_points < 2:
        raise ValueError(f"a quadrature has a finite t_max above 0 and 2 or more n_points, not {t_max} and {n_points}")
    if interval == "half":
        return _Knots(0.0, t_max / (n_points - 1), n_points)
    spacing = 2 * t_max / (n_points - 1)
    return _Knots(0.0 if n_points % 2 else spacing / 2, spacing, (n_points + 1) // 2)


@torch.library.custom_op(operator_name(__name__, "characteristic_sums"), mutates_args=())
def characteristic_sums(
    z: torch.Tensor, directions: torch.Tensor, first: float, spacing: float, count: int
) -> torch.Tensor:
    """Sums over samples of `cos t x` and `sin t x`, x being samples along directions, at equally spaced t.

    A custom operator, so that `torch.compile` does not unroll its loops. Its gradient is that of `z` only.

    Args:
        z: (V, N, D)
        directions: (D, S)
        first, spacing, count: the knots t, `first + k * spacing` for k < `count`.

    Returns:
        (V, count, S, 2)

    Example:
        >>> sums = characteristic_sums(torch.tensor([[[0.0], [torch.pi]]]), torch.ones(1, 1), 0.0, 0.5, 3)
        >>> sums[0, :, 0].round(decimals=4).tolist()  # of the numbers 0 and pi at t = 0, 0.5 and 1
        [[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    """
    sums = z.new_empty(len(z), count, directions.shape[1], 2)
    for slices in _chunks(z, directions):
        value, turn = _phases(z, directions[:, slices], first, spacing)
        for k in range(count):
            if k:
                value *= turn
            sums[:, k, slices] = torch.view_as_real(value.sum(dim=1))
    return sums


@characteristic_sums.register_fake
def _(z: torch.Tensor, directions: torch.Tensor, first: float, spacing: float, count: int) -> torch.Tensor:
    return z.new_empty(z.shape[0], count, directions.shape[1], 2)


@torch.library.custom_op(operator_name(__name__, "characteristic_sums_backward"), mutates_args=())
def _characteristic_sums_backward(
    gradient: torch.Tensor, z: torch.Tensor, directions: torch.Tensor, first: float, spacing: float
) -> torch.Tensor:
    """Gradient of `z`: along a direction it is `sum_k t_k (g_sin cos t_k x - g_cos sin t_k x)`, (V, N, D).

    That is the real part of a polynomial in `e^{i spacing x}`, which Horner's rule computes.
    """
    t = first + spacing * torch.arange(gradient.shape[1], dtype=z.dtype, device=z.device)
    coefficients = torch.complex(gradient[..., 1], gradient[..., 0]) * t[:, None]  # (V, K, S)
    found = torch.zeros_like(z)
    for slices in _chunks(z, directions):
        start, turn = _phases(z, directions[:, slices], first, spacing)
        value = torch.zeros_like(turn)
        for coefficient in coefficients[:, :, slices].unbind(1)[::-1]:
            value.mul_(turn).add_(coefficient[:, None])
        along = (value if first == 0 else value.mul_(start)).real  # (V, N, s)
        with torch.autocast(z.device.type, enabled=False):
            found += along @ directions[:, slices].mT
    return found


@_characteristic_sums_backward.register_fake
def _(gradient: torch.Tensor, z: torch.Tensor, directions: torch.Tensor, first: float, spacing: float) -> torch.Tensor:
    return torch.empty_like(z)


def _keep(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    z, directions, ctx.first, ctx.spacing, _ = inputs
    ctx.save_for_backward(z, directions)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple:
    found = _characteristic_sums_backward(gradient, *ctx.saved_tensors, ctx.first, ctx.spacing)
    return found, None, None, None, None


characteristic_sums.register_autograd(_backward, setup_context=_keep)


def _chunks(z: torch.Tensor, directions: torch.Tensor) -> Iterator[slice]:
    limit = _CHUNK_ELEMENTS.get(z.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    size = max(_CHUNK_SLICES, limit // max(1, z.shape[0] * z.shape[1]))
    return (slice(start, start + size) for start in range(0, directions.shape[1], size))


def _phases(
    z: torch.Tensor, directions: torch.Tensor, first: float, spacing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`e^{i first x}` and `e^{i spacing x}` of the samples x along directions, both complex (V, N, s)."""
    with torch.autocast(z.device.type, enabled=False):
        x = z @ directions
    one = torch.ones_like(x)
    turn = torch.polar(one, spacing * x)
    return (torch.complex(one, torch.zeros_like(x)) if first == 0 else torch.polar(one, first * x)), turn


__all__ = ["INTERVALS", "characteristic_sums", "dense_sigreg", "sigreg", "sigreg_statistics"]
