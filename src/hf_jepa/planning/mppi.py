"""Model predictive path integral control: a mean of candidates, weighted by what they cost."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from hf_jepa.planning.planner import Search
from hf_jepa.planning.sampling import Elites, SamplingPlanner, Update


@dataclass(frozen=True)
class MPPIPlanner(SamplingPlanner):
    """Candidates weigh exp(-cost / temperature); the mean moves to their weighted mean (Williams et al., 1707.02342).

    Costs are compared with the lowest one first, so only differences matter: choose a temperature of the size of
    differences that shall count.

    Args:
        space: which actions are allowed.
        horizon, num_samples, num_iterations, initial_std, initial_mean, finish: see `Planner`.
        tolerance: see `Planner`; without `update_std` candidates differ as much at the end as at the start.
        num_elites: candidates with a weight; None for all.
        include_mean, keep_elites, limit_mean: see `SamplingPlanner`.
        temperature: lambda, in units of the cost.
        multiply_temperature: weigh exp(-cost * temperature) instead, as EB-JEPA and jepa-wms do.
        update_std: whether the deviation becomes the weighted one of the elites, as in TD-MPC (2203.04955); otherwise
            it stays `initial_std`, as in MPPI. With a low temperature a few candidates weigh everything, and the
            search ends where they are: then give `min_std`, too.
        min_std: for every axis, what an updated deviation never falls below.
        result: "mean", "best", or "sample": one elite of the last iteration, drawn with its weight.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> from hf_jepa.planning import ActionSpace
        >>> planner = MPPIPlanner(ActionSpace(2, low=-1, high=1), horizon=4, temperature=0.05)
        >>> target = torch.tensor([2.0, 1.0])
        >>> plan = planner.plan(
        ...     lambda actions: (actions.sum(dim=2) - target).norm(dim=-1),
        ...     num_environments=1,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(plan.cost < 0.1)
        True
    """

    _: KW_ONLY
    num_elites: int | None = None
    temperature: float = 0.5
    multiply_temperature: bool = False
    update_std: bool = False
    min_std: float | Sequence[float] = 0.0

    def __post_init__(self):
        if self.num_elites is None:
            object.__setattr__(self, "num_elites", self.num_samples)
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: want a number above 0")

    @classmethod
    def _results(cls) -> tuple[str, ...]:
        return ("mean", "best", "sample")

    def _update(self, elites: Elites, mean: torch.Tensor, std: torch.Tensor) -> Update:
        advantage = elites.costs[:, :1] - elites.costs  # 0 or less
        factor = self.temperature if self.multiply_temperature else 1 / self.temperature
        weights = torch.softmax(factor * advantage, dim=1)
        spread = weights[:, :, None, None]
        mean = (spread * elites.actions).sum(dim=1)
        if self.update_std:
            std = (spread * (elites.actions - mean[:, None]).square()).sum(dim=1).sqrt()
            std = std.maximum(self.space.per_planned(self.min_std, "min_std", mean))
        return Update(mean, std, weights)

    def _check(self, elites: Elites, iteration: int) -> None:
        super()._check(elites.best(1), iteration)  # the others may be forbidden: they weigh nothing

    def _choose(
        self, search: Search, mean: torch.Tensor, best: Elites, elites: Elites, weights: torch.Tensor
    ) -> torch.Tensor:
        if self.result != "sample":
            return super()._choose(search, mean, best, elites, weights)
        drawn = search.draws.uniform(0, search.num_environments)[:, None]  # also where the search stopped early
        chosen = (drawn >= weights.cumsum(dim=1)[:, :-1]).sum(dim=1)
        return elites.actions[torch.arange(len(chosen), device=chosen.device), chosen]


__all__ = ["MPPIPlanner"]
