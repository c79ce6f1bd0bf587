"""Planners that draw candidates, keep the best, and draw again near them."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.planner import PlanIteration, Planner, Search


class Elites(NamedTuple):
    """The best candidates of an iteration, the cheapest first.

    Args:
        actions: (B, K, H, P).
        costs: (B, K).
    """

    actions: torch.Tensor
    costs: torch.Tensor

    @classmethod
    def of(cls, actions: torch.Tensor, costs: torch.Tensor, count: int) -> "Elites":
        """The cheapest `count` of (B, S, H, P)."""
        costs, order = costs.topk(count, dim=1, largest=False, sorted=True)
        return cls(actions.gather(1, order[:, :, None, None].expand(-1, -1, *actions.shape[2:])), costs)

    def best(self, count: int) -> "Elites":
        return Elites(self.actions[:, :count], self.costs[:, :count])


class Update(NamedTuple):
    """What an iteration makes of its elites.

    Args:
        mean, std: (B, H, P), from which the next one draws.
        weights: (B, K) of the elites, sum 1.
    """

    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class SamplingPlanner(Planner):
    """Draws candidates around a mean, asks what they cost, and moves mean and deviation to the cheapest.

    Args:
        num_elites: K, how many of the cheapest candidates count.
        include_mean: the first candidate of every iteration is the mean itself.
        keep_elites: how many elites stay among the candidates of the next iteration, at the cost they had.
        limit_mean: whether the mean, too, is kept within the limits of the space. False leaves it where the update put
            it, and the plan with it.
        result: what the plan is: "mean" the last mean, "best" the cheapest candidate of all iterations.
    """

    _: KW_ONLY
    num_elites: int = 30
    include_mean: bool = False
    keep_elites: int = 0
    limit_mean: bool = True
    result: str = "mean"

    def __post_init__(self):
        super().__post_init__()
        check_count(self.num_elites, "num_elites")
        check_count(self.keep_elites, "keep_elites", smallest=0)
        if self.num_elites > self.num_samples or self.keep_elites > self.num_elites:
            raise ValueError(
                f"{self.num_samples} samples, {self.num_elites} elites and {self.keep_elites} kept ones: want at most "
                "as many elites as samples, and at most as many kept ones as elites"
            )
        if self.result not in self._results():
            raise ValueError(f"result {self.result!r} is not one of {', '.join(self._results())}")

    @classmethod
    def _results(cls) -> tuple[str, ...]:
        return ("mean", "best")

    def _search(self, search: Search, mean: torch.Tensor) -> torch.Tensor:
        mean = self._limit(mean)
        std = self._initial_std(mean)
        kept = best = elites = weights = None
        for iteration in range(self.num_iterations):
            candidates = self._candidates(search, mean, std, self._count(iteration))
            costs = search.evaluate(candidates)
            if kept is not None:
                candidates = torch.cat([candidates, kept.actions], dim=1)
                costs = torch.cat([costs, kept.costs], dim=1)
            found = Elites.of(candidates, costs, self.num_elites)
            self._check(found, iteration)
            update = self._update(found, mean, std)
            mean = search.keep_stopped(self._limit(update.mean), mean)
            std = search.keep_stopped(update.std, std)
            elites = found if elites is None else Elites(*map(search.keep_stopped, found, elites))
            weights = update.weights if weights is None else search.keep_stopped(update.weights, weights)
            best = elites.best(1) if best is None else cheaper(best, elites.best(1))  # those of stopped ones stay
            kept = elites.best(self.keep_elites) if self.keep_elites else None
            search.record(_entry(best, found, mean, std))
            if search.done:
                break
        return self._choose(search, mean, best, elites, weights)

    def _limit(self, mean: torch.Tensor) -> torch.Tensor:
        return self.space.project(mean) if self.limit_mean else mean

    def _initial_std(self, mean: torch.Tensor) -> torch.Tensor:
        return self.space.per_planned(self.initial_std, "initial_std", mean).expand_as(mean)

    def _count(self, iteration: int) -> int:
        """S of an iteration."""
        return self.num_samples

    def _candidates(self, search: Search, mean: torch.Tensor, std: torch.Tensor, count: int) -> torch.Tensor:
        """(B, S, H, P) within the limits."""
        noise = self._shape_noise(search.normal(count, *mean.shape[1:])) * std[:, None]
        if self.include_mean:
            noise[:, 0] = 0
        return self.space.project(mean[:, None] + noise)

    def _shape_noise(self, white: torch.Tensor) -> torch.Tensor:
        return white

    @abstractmethod
    def _update(self, elites: Elites, mean: torch.Tensor, std: torch.Tensor) -> Update:
        """Mean and deviation of the next iteration."""

    def _choose(
        self, search: Search, mean: torch.Tensor, best: Elites, elites: Elites, weights: torch.Tensor
    ) -> torch.Tensor:
        """The plan (B, H, P)."""
        return mean if self.result == "mean" else best.actions[:, 0]

    def _check(self, elites: Elites, iteration: int) -> None:
        if not elites.costs.isfinite().all():
            worst = elites.costs.isfinite().sum(dim=1).min()
            raise ValueError(
                f"iteration {iteration}: of {self.num_elites} elites only {worst} are allowed in some environment, "
                "the others cost +inf: take more samples, fewer elites or a smaller initial_std"
            )


def cheaper(first: Elites, second: Elites) -> Elites:
    """Of two single candidates per environment the one that costs less, the first where they are equal."""
    better = second.costs < first.costs
    return Elites(
        torch.where(better[:, :, None, None], second.actions, first.actions), torch.minimum(first.costs, second.costs)
    )


def _entry(best: Elites, elites: Elites, mean: torch.Tensor, std: torch.Tensor) -> PlanIteration:
    several = int(elites.costs.shape[1] > 1)  # the deviation of one number is 0, not NaN
    return PlanIteration(
        best_cost=best.costs[:, 0],
        elite_cost_mean=elites.costs.mean(dim=1),
        elite_cost_std=elites.costs.std(dim=1, correction=several),
        elite_spread=elites.actions.std(dim=1, correction=0).amax(dim=(1, 2)),
        mean=mean,
        std=std,
    )


@dataclass(frozen=True)
class RandomShootingPlanner(SamplingPlanner):
    """The cheapest of many candidates around one mean, which never moves.

    With an initial plan this is predictive sampling (Howell et al., 2212.00541): the candidates lie around the rest of
    the previous plan, which is one of them.

    Args:
        space: which actions are allowed.
        num_samples, num_iterations: candidates are num_samples times num_iterations.
        initial_std: their standard deviation.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> from hf_jepa.planning import ActionSpace
        >>> planner = RandomShootingPlanner(ActionSpace(1, low=-1, high=1), horizon=2, num_samples=100)
        >>> generator = torch.Generator().manual_seed(0)
        >>> plan = planner.plan(lambda actions: (actions - 0.5).abs().sum(dim=(2, 3)), 1, generator=generator)
        >>> bool((plan.actions - 0.5).abs().max() < 0.3)
        True
    """

    _: KW_ONLY
    num_iterations: int = 1
    num_elites: int = 1
    include_mean: bool = True
    result: str = "best"

    def _update(self, elites: Elites, mean: torch.Tensor, std: torch.Tensor) -> Update:
        return Update(mean, std, torch.full_like(elites.costs, 1 / self.num_elites))


__all__ = ["Elites", "RandomShootingPlanner", "SamplingPlanner", "Update", "cheaper"]
