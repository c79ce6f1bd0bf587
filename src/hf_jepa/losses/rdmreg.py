"""RDMReg (Rectified LpJEPA, 2602.01456): embeddings are pushed towards a rectified generalised Gaussian.

Random directions of embeddings and of samples of that distribution are sorted along the batch and compared: the sliced
2-Wasserstein distance. Directions are worked on a few at a time, and every process takes its share of them.
"""

from typing import Any

import torch
import torch.distributed as dist

from hf_jepa.losses.distributed import full_precision, gather_rows, process_count, reduce_sum
from hf_jepa.losses.draws import require_step, step_generator, unit_directions
from hf_jepa.losses.operators import operator_name
from hf_jepa.losses.rectified_gaussian import RectifiedGeneralizedGaussian, rectified_samples


PROJECTIONS = ("random", "torch_svd_and_random", "torch_svd_bottom_half_eigen_and_random")
LAPLACE = RectifiedGeneralizedGaussian()  # p 1, mu 0
_TARGET_STREAM = 2  # of the first view; the next view has the next stream
_CHUNK_ELEMENTS = 2**20  # samples times directions worked on at a time
_CHUNK_SLICES = 64


def rdmreg(
    first: torch.Tensor,
    second: torch.Tensor,
    step: int | None,
    distribution: RectifiedGeneralizedGaussian = LAPLACE,
    num_projections: int = 8192,
    projections: str = "random",
    seed: int = 0,
) -> torch.Tensor:
    """Mean over two views of the sliced 2-Wasserstein distance to a rectified generalised Gaussian.

    Rectified LpJEPA minimises `25 * invariance + 125 * rdmreg` (250 on CIFAR), the invariance being the mean squared
    difference of the views; the projector ends in a ReLU. Targets are drawn anew every step and for each view.

    All processes draw the same directions and targets (in the official code each draws its own), and each sorts along
    its share of the directions: the value and the gradient are those of one process with the whole batch.

    Args:
        first, second: (N, D), features of this process after the ReLU.
        step: of the optimizer; directions and targets are drawn from it and `seed` on the CPU.
        distribution: of the targets; a rectified Laplace distribution when unset.
        num_projections: directions, K.
        projections: "random" directions, the same for both views; or, for each view its own,
            "torch_svd_and_random": the right singular vectors of the centred global batch (min(N, D) of them), random
            ones up to K; "torch_svd_bottom_half_eigen_and_random": only those of the lower half of singular values.
            (Official: of the batch of the process.)
        seed: of the run.

    Returns:
        scalar in float32, the same in every process.

    Raises:
        ValueError: no step, unknown projections, shapes that differ or are not (N, D), an empty batch, or fewer
            projections than singular vectors.

    Example:
        >>> target = RectifiedGeneralizedGaussian(p=1.0)
        >>> good, other = target.sample((2, 256, 8), torch.Generator().manual_seed(0))
        >>> [round(rdmreg(x, y, step=0, num_projections=64).item(), 2) for x, y in ((good, other), (0 * good, good))]
        [0.01, 0.24]
    """
    require_step(step)
    if projections not in PROJECTIONS:
        raise ValueError(f"projections {projections!r} is not one of {', '.join(PROJECTIONS)}")
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"features of shapes {tuple(first.shape)} and {tuple(second.shape)} must both be (N, D)")
    views = gather_rows(torch.stack([full_precision(first), full_precision(second)], dim=1)).unbind(1)  # (N, D) each
    rows, features = views[0].shape
    shape = (distribution.p, distribution.mu, distribution.sigma)
    distances = []
    for view, z in enumerate(views):
        targets = rectified_targets(seed, step, _TARGET_STREAM + view, rows, features, *shape, z.device)
        chosen = _singular_vectors(z.detach(), projections)  # (at most K, D)
        if len(chosen) > num_projections:
            raise ValueError(f"num_projections {num_projections} is less than the {len(chosen)} singular vectors")
        random = unit_directions(seed, step, features, num_projections - len(chosen), z.device).mT
        distances.append(_distance(z, targets.to(z.dtype), torch.cat([chosen, random.to(z.dtype)])))
    return (distances[0] + distances[1]) / 2


def sliced_wasserstein(z: torch.Tensor, targets: torch.Tensor, projections: torch.Tensor) -> torch.Tensor:
    """Squared 2-Wasserstein distance of two samples of equal size, mean over directions, in float32.

    Along a direction it is the mean squared difference of the sorted samples.

    Args:
        z: (N, D) of this process; the sample is that of all processes, in the order of their ranks.
        targets: (sum of N, D), the same in every process; they get no gradient.
        projections: (K, D), rows of length 1, the same in every process; they get no gradient.

    Returns:
        scalar, the same in every process.

    Raises:
        ValueError: shapes that do not fit each other, or are empty.

    Example:
        >>> z, targets = torch.tensor([[0.0], [5.0]]), torch.tensor([[6.0], [2.0]])
        >>> sliced_wasserstein(z, targets, torch.ones(1, 1))  # (2 - 0)^2 and (6 - 5)^2
        tensor(2.5000)
    """
    z = gather_rows(full_precision(z))
    return _distance(z, targets.to(z.dtype), projections.to(z.dtype))


def l0_metric(z: torch.Tensor) -> torch.Tensor:
    """Fraction of features that are not 0. A feature that is 0 in every row is dead: no gradient reaches it.

    Args:
        z: (..., D)

    Returns:
        scalar

    Example:
        >>> l0_metric(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        tensor(0.2500)
    """
    return (z != 0).float().mean()


def l1_metric(z: torch.Tensor) -> torch.Tensor:
    """Mean over rows of `(|z|_1 / |z|_2)^2 / D`: 1 where all features are equally large, 1 / D where one is not 0.

    Args:
        z: (..., D); rows of zeros count as 0.

    Returns:
        scalar

    Example:
        >>> l1_metric(torch.tensor([[3.0, 3.0], [0.0, 2.0]]))
        tensor(0.7500)
    """
    z = full_precision(z)
    squared = z.square().sum(dim=-1)
    ratio = z.abs().sum(dim=-1).square() / squared.masked_fill(squared == 0, 1.0)
    return ratio.mean() / z.shape[-1]


@torch.library.custom_op(operator_name(__name__, "rectified_targets"), mutates_args=())
def rectified_targets(
    seed: int,
    step: int,
    stream: int,
    rows: int,
    features: int,
    p: float,
    mu: float,
    sigma: float,
    device: torch.device,
) -> torch.Tensor:
    """Samples of `RectifiedGeneralizedGaussian` of one step, (rows, features); an operator as `unit_directions` is.

    Example:
        >>> rectified_targets(0, 7, 2, 5, 3, 1.0, 0.0, 1.0, torch.device("cpu")).shape
        torch.Size([5, 3])
    """
    samples = rectified_samples((rows, features), p, mu, sigma, step_generator(seed, step, stream))
    return samples.to(device)


@rectified_targets.register_fake
def _(seed, step, stream, rows, features, p, mu, sigma, device):
    return torch.empty(rows, features, device=device)


def _singular_vectors(z: torch.Tensor, projections: str) -> torch.Tensor:
    if projections == "random":
        return z.new_empty(0, z.shape[1])
    vectors = torch.linalg.svd(z - z.mean(dim=0), full_matrices=False).Vh
    return vectors[len(vectors) // 2 :] if "bottom_half" in projections else vectors


def _distance(z: torch.Tensor, targets: torch.Tensor, projections: torch.Tensor) -> torch.Tensor:
    """`sliced_wasserstein` of a batch gathered already: each process sorts along its share of the directions."""
    if z.shape != targets.shape or z.ndim != 2 or projections.ndim != 2 or z.shape[1] != projections.shape[1]:
        shapes = [tuple(x.shape) for x in (z, targets, projections)]
        raise ValueError(f"samples, targets and projections of shapes {shapes} are not (N, D), (N, D) and (K, D)")
    if not len(z) or not len(projections):
        raise ValueError(f"{len(z)} samples and {len(projections)} projections: both must be 1 or more")
    share = projections if process_count() == 1 else projections[dist.get_rank() :: process_count()]
    total, _ = _sorted_distance(z, targets, share, z.requires_grad and torch.is_grad_enabled())
    return reduce_sum(total) / (len(projections) * len(z))


@torch.library.custom_op(operator_name(__name__, "sorted_distance"), mutates_args=())
def _sorted_distance(
    z: torch.Tensor, targets: torch.Tensor, projections: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed squared differences of projections sorted along the batch, and their gradient in z (or no row).

    The gradient is made at once: it needs the order, which would be as large as all projections to keep.
    """
    total, gradient = z.new_zeros(()), torch.zeros_like(z) if with_gradient else z.new_empty(0, z.shape[1])
    with torch.autocast(z.device.type, enabled=False):
        for directions in projections.split(max(_CHUNK_SLICES, _CHUNK_ELEMENTS // len(z))):
            along, order = (directions @ z.mT).sort(dim=-1)  # (k, N)
            difference = along.sub_((directions @ targets.mT).sort(dim=-1).values)
            total += difference.square().sum()
            if with_gradient:
                gradient += torch.empty_like(difference).scatter_(-1, order, 2 * difference).mT @ directions
    return total, gradient


@_sorted_distance.register_fake
def _(z, targets, projections, with_gradient):
    return z.new_empty(()), torch.empty_like(z) if with_gradient else z.new_empty(0, z.shape[1])


def _keep(ctx: Any, inputs: tuple, output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, of_total: torch.Tensor, of_gradient: torch.Tensor | None) -> tuple:
    return of_total * ctx.saved_tensors[0], None, None, None


_sorted_distance.register_autograd(_backward, setup_context=_keep)


__all__ = [
    "PROJECTIONS",
    "RectifiedGeneralizedGaussian",
    "l0_metric",
    "l1_metric",
    "rdmreg",
    "sliced_wasserstein",
]
