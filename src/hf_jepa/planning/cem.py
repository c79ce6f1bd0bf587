"""The cross-entropy method: plain, with coloured noise and kept elites (iCEM), and over discrete actions."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from hf_jepa.planning.action_space import DiscreteActionSpace
from hf_jepa.planning.noise import color_noise
from hf_jepa.planning.planner import Search
from hf_jepa.planning.sampling import Elites, SamplingPlanner, Update


@dataclass(frozen=True)
class CEMPlanner(SamplingPlanner):
    """Cross-entropy method: a normal distribution over plans moves to its cheapest samples.

    Numbers "for every axis" are one for all or A of them, so groups of axes can differ.

    Args:
        space: which actions are allowed.
        horizon, num_samples, num_iterations, initial_std, initial_mean, tolerance, finish: see `Planner`.
        num_elites, include_mean, keep_elites, limit_mean, result: see `SamplingPlanner`.
        momentum: for every axis, the share of the old mean that stays.
        std_momentum: the same of the deviation.
        min_std: for every axis, what the deviation never falls below.
        noise_exponent: candidates are drawn with `color_noise` of this exponent, 0 for independent steps.
        sample_decay: iteration i has num_samples / sample_decay^i candidates, but twice as many as elites.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> from hf_jepa.planning import ActionSpace
        >>> planner = CEMPlanner(ActionSpace(2, max_norm=1.0), horizon=4, num_samples=100, num_elites=10)
        >>> target = torch.tensor([2.0, 1.0])  # where the sum of the actions shall end
        >>> plan = planner.plan(
        ...     lambda actions: (actions.sum(dim=2) - target).norm(dim=-1),
        ...     num_environments=1,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(plan.cost < 0.1), bool(plan.actions.norm(dim=-1).max() <= 1)
        (True, True)
    """

    _: KW_ONLY
    momentum: float | Sequence[float] = 0.0
    std_momentum: float | Sequence[float] = 0.0
    min_std: float | Sequence[float] = 0.0
    noise_exponent: float = 0.0
    sample_decay: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.num_elites < 2:
            raise ValueError(f"num_elites is {self.num_elites}: a deviation takes two")
        for name in ("momentum", "std_momentum"):
            if not all(0 <= value < 1 for value in self.space.per_axis(getattr(self, name), name)):
                raise ValueError(f"{name} is {getattr(self, name)}: want 0 or more, and less than 1")
        if self.sample_decay < 1 or self.noise_exponent < 0:
            raise ValueError(f"sample_decay is {self.sample_decay}, noise_exponent {self.noise_exponent}: too small")

    def _count(self, iteration: int) -> int:
        return min(self.num_samples, max(int(self.num_samples * self.sample_decay**-iteration), 2 * self.num_elites))

    def _shape_noise(self, white: torch.Tensor) -> torch.Tensor:
        return color_noise(white, self.noise_exponent)

    def _update(self, elites: Elites, mean: torch.Tensor, std: torch.Tensor) -> Update:
        old = self.space.per_planned(self.momentum, "momentum", mean)
        old_std = self.space.per_planned(self.std_momentum, "std_momentum", mean)
        floor = self.space.per_planned(self.min_std, "min_std", mean)
        new_mean = (1 - old) * elites.actions.mean(dim=1) + old * mean
        new_std = (1 - old_std) * elites.actions.std(dim=1) + old_std * std
        return Update(new_mean, new_std.maximum(floor), torch.full_like(elites.costs, 1 / self.num_elites))


@dataclass(frozen=True)
class ICEMPlanner(CEMPlanner):
    """The cross-entropy method of Pinneri et al. (2008.06389): fewer samples for the same plan.

    It is `CEMPlanner` with other defaults: coloured noise, elites that stay (at the cost they had, they are not asked
    again), fewer samples in later iterations, the mean among the candidates in all iterations (theirs: in the last
    one), and the cheapest candidate as the plan. Elites of the previous decision are not kept, its plan is
    (`initial`).

    Args:
        space: which actions are allowed.
        horizon, num_samples, num_iterations, initial_std, initial_mean, tolerance, finish: see `Planner`.
        num_elites, include_mean, keep_elites, limit_mean, result: see `SamplingPlanner`.
        momentum, std_momentum, min_std, noise_exponent, sample_decay: see `CEMPlanner`.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> from hf_jepa.planning import ActionSpace
        >>> planner = ICEMPlanner(ActionSpace(2, max_norm=1.0), horizon=8)
        >>> target = torch.tensor([4.0, 2.0])
        >>> plan = planner.plan(
        ...     lambda actions: (actions.sum(dim=2) - target).norm(dim=-1),
        ...     num_environments=1,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool(plan.cost < 0.2)
        True
    """

    _: KW_ONLY
    num_samples: int = 100
    num_elites: int = 10
    keep_elites: int = 3
    include_mean: bool = True
    momentum: float | Sequence[float] = 0.1
    std_momentum: float | Sequence[float] = 0.1
    noise_exponent: float = 2.0
    sample_decay: float = 1.25
    result: str = "best"


@dataclass(frozen=True)
class CategoricalCEMPlanner(SamplingPlanner):
    """The cross-entropy method over discrete actions: probabilities of every step move to the cheapest samples.

    In the history, `mean` holds the probabilities and `std` their deviations.

    Args:
        space: a `DiscreteActionSpace`.
        horizon, num_samples, num_iterations, tolerance, finish: see `Planner`.
        num_elites, keep_elites: see `SamplingPlanner`.
        momentum: the share of the old probabilities that stays.
        min_probability: what no action falls below before all are divided by their sum.
        initial_weight: with an initial plan, the probability of its actions in the first iteration; the rest is spread
            over all actions. Steps without a 1, as at the end of a shifted plan, start from equal probabilities.
        result: "best" the cheapest candidate of all iterations, "mean" the likeliest action of every step.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> from hf_jepa.planning import DiscreteActionSpace
        >>> planner = CategoricalCEMPlanner(DiscreteActionSpace(4), horizon=5, num_samples=64, num_elites=8)
        >>> reward = torch.tensor([0.0, 1.0, 3.0, 2.0])
        >>> plan = planner.plan(
        ...     lambda actions: -(actions @ reward).sum(dim=-1),
        ...     num_environments=1,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> plan.actions.argmax(dim=-1)
        tensor([[2, 2, 2, 2, 2]])
    """

    _: KW_ONLY
    momentum: float = 0.1
    min_probability: float = 0.0
    initial_weight: float = 0.5
    result: str = "best"

    def __post_init__(self):
        super().__post_init__()
        if self.include_mean:
            raise ValueError("probabilities are no candidate: include_mean stays False")
        if not (0 <= self.momentum < 1 and 0 <= self.initial_weight < 1 and 0 <= self.min_probability < 1):
            raise ValueError(
                f"momentum {self.momentum}, initial_weight {self.initial_weight} and min_probability "
                f"{self.min_probability}: want 0 or more, and less than 1"
            )

    @classmethod
    def _space_class(cls) -> type:
        return DiscreteActionSpace

    def _resting_mean(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self.space.num_actions)

    def _search(self, search: Search, mean: torch.Tensor) -> torch.Tensor:
        weight = self.initial_weight * mean.sum(dim=-1, keepdim=True)
        return super()._search(search, weight * mean + (1 - weight) / self.space.num_actions)

    def _limit(self, mean: torch.Tensor) -> torch.Tensor:
        return mean

    def _initial_std(self, mean: torch.Tensor) -> torch.Tensor:
        return _deviation(mean)

    def _candidates(self, search: Search, mean: torch.Tensor, std: torch.Tensor, count: int) -> torch.Tensor:
        edges = mean.cumsum(dim=-1)[:, None]  # (B, 1, H, K)
        drawn = search.uniform(count, self.horizon)[..., None] * edges[..., -1:]
        chosen = (drawn >= edges[..., :-1]).sum(dim=-1)
        return torch.nn.functional.one_hot(chosen, self.space.num_actions).to(mean.dtype)

    def _update(self, elites: Elites, mean: torch.Tensor, std: torch.Tensor) -> Update:
        mean = (1 - self.momentum) * elites.actions.mean(dim=1) + self.momentum * mean
        mean = mean.clamp(min=self.min_probability)
        mean = mean / mean.sum(dim=-1, keepdim=True)
        return Update(mean, _deviation(mean), torch.full_like(elites.costs, 1 / self.num_elites))

    def _choose(
        self, search: Search, mean: torch.Tensor, best: Elites, elites: Elites, weights: torch.Tensor
    ) -> torch.Tensor:
        return best.actions[:, 0] if self.result == "best" else self.space.project(mean)


def _deviation(probability: torch.Tensor) -> torch.Tensor:
    return (probability * (1 - probability)).clamp(min=0).sqrt()


__all__ = ["CEMPlanner", "CategoricalCEMPlanner", "ICEMPlanner"]
