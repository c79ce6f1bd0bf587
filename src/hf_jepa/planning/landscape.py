"""What single actions cost, over a grid: whether the minimum lies where it should."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.planner import Cost


@dataclass(frozen=True)
class EnergyLandscape:
    """Costs of first actions in B environments.

    Args:
        energies: (B, N, N), rows along the first axis, columns along the second.
        axes: the two axes of the actions.
        values: (B, 2, N), what the actions are there.

    Example:
        >>> energies = torch.tensor([[[3.0, 2.0], [1.0, 4.0]]])
        >>> EnergyLandscape(energies, (0, 1), torch.tensor([[[-1.0, 1.0], [-2.0, 2.0]]])).lowest()
        tensor([[ 1., -2.]])
    """

    energies: torch.Tensor
    axes: tuple[int, int]
    values: torch.Tensor

    def lowest(self) -> torch.Tensor:
        """(B, 2), the two numbers of the action that costs least."""
        points = self.energies.shape[2]
        place = self.energies.flatten(1).argmin(dim=1)
        chosen = torch.stack([place // points, place % points], dim=1)  # (B, 2)
        return self.values.gather(2, chosen[:, :, None])[:, :, 0]


@torch.no_grad()
def energy_landscape(
    cost: Cost,
    around: torch.Tensor,
    axes: Sequence[int],
    extent: float,
    points: int = 21,
) -> EnergyLandscape:
    """Ask what plans cost whose first action varies along two axes.

    The picture of V-JEPA 2-AC (2506.09985, figure of the energy landscape) is this with the axes x, z and y, an extent
    of 0.075 m and 5 points: further axes than two are averaged over.

    Args:
        cost: candidates (B, S, H, A) -> (B, S), such as a `LatentCost`.
        around: (B, H, A) plans; the first action of each is varied, by differences from what it is there.
        axes: two of the action, and any whose mean shall be taken.
        extent: largest difference, to both sides.
        points: N, along every axis.

    Returns:
        `EnergyLandscape`

    Raises:
        TypeError, ValueError: axes that do not exist or are not two or more, fewer than two points.

    Example:
        >>> goal = torch.tensor([0.5, -0.5, 0.0])
        >>> landscape = energy_landscape(
        ...     lambda actions: (actions[:, :, 0] - goal).abs().sum(dim=-1),
        ...     around=torch.zeros(1, 1, 3),
        ...     axes=(0, 1),
        ...     extent=1.0,
        ...     points=5,
        ... )
        >>> landscape.energies.shape, landscape.lowest()
        (torch.Size([1, 5, 5]), tensor([[ 0.5000, -0.5000]]))
    """
    check_count(points, "points", smallest=2)
    axes = [int(axis) for axis in axes]
    if len(axes) < 2 or len(set(axes)) < len(axes) or not all(0 <= axis < around.shape[-1] for axis in axes):
        raise ValueError(f"axes {axes}: want two or more of 0 to {around.shape[-1] - 1}, each once")
    line = torch.linspace(-extent, extent, points, dtype=around.dtype, device=around.device)
    grid = torch.cartesian_prod(*[line] * len(axes))  # (N^n, n), the first axis slowest
    candidates = around[:, None].repeat(1, len(grid), 1, 1)
    candidates[:, :, 0, axes] += grid
    energies = cost(candidates).float().reshape(len(around), points, points, -1).mean(dim=-1)
    return EnergyLandscape(energies.cpu(), (axes[0], axes[1]), (around[:, 0, axes[:2], None] + line).cpu())


__all__ = ["EnergyLandscape", "energy_landscape"]
