"""Planning by gradients: actions follow the slope of a cost that can be differentiated."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from hf_jepa.planning.planner import PlanIteration, Planner, Search
from hf_jepa.planning.sampling import Elites, cheaper


OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class GradientPlanner(Planner):
    """Several plans at once go down the gradient of their costs, and come back into the limits after every step.

    The plan is the cheapest that was met on the way. Gradients of weights are neither computed nor changed.

    Args:
        space: which actions are allowed.
        horizon, num_iterations, initial_std, initial_mean, finish: see `Planner`.
        num_samples: S, plans that start at the same time: the first at the initial mean, the others around it.
        learning_rate: of the optimizer, in units of actions with "adam".
        optimizer: "adam" or "sgd".
        betas: of Adam.
        noise_std: for every axis, the deviation of noise that is added after every step.
        tolerance: an environment stops when a step moves no action by more; None to run to the end.

    Raises:
        TypeError, ValueError: settings that make no sense; in `plan`, a cost without a gradient.

    Example:
        >>> from hf_jepa.planning import ActionSpace
        >>> planner = GradientPlanner(ActionSpace(2, max_norm=1.0), horizon=4, num_iterations=60)
        >>> target = torch.tensor([2.0, 1.0])
        >>> plan = planner.plan(
        ...     lambda actions: (actions.sum(dim=2) - target).square().sum(dim=-1),
        ...     num_environments=1,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(plan.cost < 1e-3)
        True
    """

    _: KW_ONLY
    num_samples: int = 1
    num_iterations: int = 100
    learning_rate: float = 0.1
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    noise_std: float | Sequence[float] = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: want a number above 0")

    def _search(self, search: Search, mean: torch.Tensor) -> torch.Tensor:
        plans = self._first(search, mean)
        optimizer = self._optimizer(plans)
        noise_std = self.space.per_planned(self.noise_std, "noise_std", mean)
        noisy = any(self.space.per_axis(self.noise_std, "noise_std"))
        best = None
        for iteration in range(self.num_iterations):
            costs, plans.grad = self._slope(search, plans, iteration)
            found = Elites.of(plans.detach(), costs, 1)
            best = found if best is None else Elites(*map(search.keep_stopped, cheaper(best, found), best))
            before = plans.detach().clone()
            optimizer.step()
            moved = plans.detach()
            if noisy:
                noise = search.draws.normal(iteration + 1, *moved.shape, active=search.active)
                moved = moved + noise_std * noise
            plans.data.copy_(search.keep_stopped(self.space.project(moved), before))
            entry = _entry(best, costs, plans.detach())
            search.record(entry, moved=(plans.detach() - before).abs().amax(dim=(1, 2, 3)))
            if search.done:
                break
        last = Elites.of(plans.detach(), search.evaluate(plans.detach()), 1)  # nobody has asked about these yet
        return cheaper(best, last).actions[:, 0]

    def _first(self, search: Search, mean: torch.Tensor) -> torch.Tensor:
        std = self.space.per_planned(self.initial_std, "initial_std", mean)
        shape = (search.num_environments, self.num_samples, *mean.shape[1:])
        around = torch.zeros(shape, device=mean.device, dtype=mean.dtype)
        if self.num_samples > 1:
            around = std * search.normal(*shape[1:])
            around[:, 0] = 0
        return self.space.project(mean[:, None] + around).requires_grad_()

    def _optimizer(self, plans: torch.Tensor) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            return torch.optim.SGD([plans], lr=self.learning_rate)
        return torch.optim.Adam([plans], lr=self.learning_rate, betas=self.betas)

    def _slope(self, search: Search, plans: torch.Tensor, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Costs (B, S) without a gradient, and the gradient (B, S, H, P) of each plan's own cost."""
        with torch.enable_grad():
            costs = search.evaluate(plans)
            if not costs.requires_grad:
                raise ValueError("the cost has no gradient: it must be differentiable and not run under torch.no_grad")
            (slope,) = torch.autograd.grad(costs.sum(), plans)
        if not slope.isfinite().all():
            rows = (~slope.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
            raise ValueError(f"iteration {iteration}: the gradient is not finite, in the environments {rows}")
        return costs.detach(), slope


def _entry(best: Elites, costs: torch.Tensor, plans: torch.Tensor) -> PlanIteration:
    several = int(costs.shape[1] > 1)
    std = plans.std(dim=1, correction=0)
    return PlanIteration(
        best_cost=best.costs[:, 0],
        elite_cost_mean=costs.mean(dim=1),
        elite_cost_std=costs.std(dim=1, correction=several),
        elite_spread=std.amax(dim=(1, 2)),
        mean=plans.mean(dim=1),
        std=std,
    )


__all__ = ["OPTIMIZERS", "GradientPlanner"]
