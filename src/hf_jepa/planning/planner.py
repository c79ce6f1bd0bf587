"""What every planner is: settings, a cost over candidates that it asks, and the plan it gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

import torch

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.action_space import ActionSpace, DiscreteActionSpace
from hf_jepa.planning.noise import GeneratedNoise, RecordedNoise


# Candidates (B, S, H, A) -> costs (B, S), the lower the better. +inf forbids a candidate.
Cost = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PlanIteration:
    """What one iteration found. Where an environment has stopped its last numbers stay.

    Args:
        best_cost: (B,), lowest so far.
        elite_cost_mean, elite_cost_std: (B,) over the elites of this iteration; the deviation is unbiased.
        elite_spread: (B,), the largest standard deviation of any number of the elites' actions.
        mean, std: (B, H, P), from which the next iteration draws.

    Example:
        >>> from hf_jepa.planning import ActionSpace, CEMPlanner
        >>> plan = CEMPlanner(ActionSpace(2), horizon=3).plan(
        ...     lambda actions: actions.square().sum(dim=(2, 3)), 1, generator=torch.Generator().manual_seed(0)
        ... )
        >>> plan.history[-1].mean.shape, bool(plan.history[-1].elite_spread < plan.history[0].elite_spread)
        (torch.Size([1, 3, 2]), True)
    """

    best_cost: torch.Tensor
    elite_cost_mean: torch.Tensor
    elite_cost_std: torch.Tensor
    elite_spread: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True)
class Plan:
    """What to do in B environments.

    Args:
        actions: (B, H * repeat, A), full actions as the model takes them.
        cost: (B,), what the cost says of exactly these actions.
        iterations: int64 (B,) on the CPU, how many were run until the environment stopped.
        history: one entry for every iteration.

    Example:
        >>> from hf_jepa.planning import ActionSpace, CEMPlanner
        >>> planner = CEMPlanner(ActionSpace(2), horizon=3, num_samples=64, num_elites=8, num_iterations=10)
        >>> target = torch.tensor([0.5, -0.5])
        >>> plan = planner.plan(
        ...     lambda actions: (actions.sum(dim=2) - target).square().sum(dim=-1),
        ...     num_environments=1,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> plan.actions.shape, bool(plan.cost < 0.01), len(plan.history)
        (torch.Size([1, 3, 2]), True, 10)
    """

    actions: torch.Tensor
    cost: torch.Tensor
    iterations: torch.Tensor
    history: list[PlanIteration] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Planner(ABC):
    """Settings that all planners have, and what they do with costs, limits and noise.

    A planner of one's own defines `_search`: it may `evaluate` candidates (B, S, H, P) that lie within `self.space`,
    draw `search.normal(...)`, and `record` its iterations.

    Args:
        space: which actions are allowed.
        horizon: H, planned steps.
        num_samples: S, candidates of an iteration.
        num_iterations: at most.
        initial_std: standard deviation of the first candidates, a number or one for every axis.
        initial_mean: where they lie without an initial plan, a number or one for every axis.
        tolerance: an environment stops when the elites differ by less, in units of actions; None to run to the end.
        finish: changes the plan at the end, (B, H * repeat, A) -> the same shape; not bound to the limits.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> @dataclass(frozen=True)
        ... class Still(Planner):  # stays where it starts
        ...     def _search(self, search, mean):
        ...         return self.space.project(mean)
        >>> still = Still(ActionSpace(2, max_norm=1.0), horizon=3, initial_mean=[3.0, 4.0])
        >>> plan = still.plan(lambda actions: actions.sum(dim=(2, 3)), 1, generator=torch.Generator())
        >>> plan.actions[0, 0], plan.cost
        (tensor([0.6000, 0.8000]), tensor([4.2000]))
    """

    space: ActionSpace | DiscreteActionSpace
    _: KW_ONLY
    horizon: int
    num_samples: int = 300
    num_iterations: int = 10
    initial_std: float | Sequence[float] = 1.0
    initial_mean: float | Sequence[float] = 0.0
    tolerance: float | None = None
    finish: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __post_init__(self):
        if not isinstance(self.space, self._space_class()):
            raise TypeError(f"{type(self).__name__} plans in a {self._space_class().__name__}, got {self.space!r}")
        for name in ("horizon", "num_samples", "num_iterations"):
            check_count(getattr(self, name), name)
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}: want a number above 0, or None to run all iterations")

    @classmethod
    def _space_class(cls) -> type:
        return ActionSpace

    def plan(
        self,
        cost: Cost,
        num_environments: int | None = None,
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        noise: RecordedNoise | torch.Tensor | None = None,
        initial: torch.Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Plan:
        """Look for the actions of lowest cost.

        Args:
            cost: candidates (B, S, H * repeat, A) -> (B, S). All environments are asked together.
            num_environments: B; by default what the cost says (`cost.num_environments`).
            generator: one for all environments, or a list of one for each: then every environment gets the plan that
                it would get alone. On any device.
            noise: recorded numbers in place of a generator, normals alone or a `RecordedNoise`.
            initial: (B, H * repeat, A) where to start, such as the rest of the previous plan.
            device: where candidates are made; by default that of the cost (`cost.device`), or the CPU.
            dtype: of candidates, float32 or float64.

        Returns:
            `Plan`, without gradients.

        Raises:
            TypeError, ValueError: no source of random numbers or two, an initial plan that does not fit, costs of a
                wrong shape, or costs of NaN (environment and iteration are named).
        """
        if num_environments is None:
            num_environments = getattr(cost, "num_environments", None)
        if num_environments is None:
            raise TypeError("the cost does not say for how many environments it is: give num_environments")
        check_count(num_environments, "num_environments")
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"plans are made in float32 or float64, not in {dtype}; the cost may compute in any")
        device = torch.device(device or getattr(cost, "device", None) or "cpu")
        if (generator is None) == (noise is None):
            raise ValueError("random numbers come from generator= or from recorded noise=: give one of the two")
        if generator is not None:
            draws = GeneratedNoise(generator, num_environments, device, dtype)
        else:
            draws = (noise if isinstance(noise, RecordedNoise) else RecordedNoise(noise)).to(device, dtype)
        with torch.no_grad():
            search = Search(self, cost, draws, num_environments, device, dtype)
            planned = self._search(search, self._start(search, initial))
            actions = self.space.expand(planned)
            if self.finish is not None:
                actions = self.finish(actions)
            final = search.ask(actions[:, None])[:, 0]
        return Plan(actions, final, search.iterations, search.history)

    def up_to(self, steps: int | None) -> "Planner":
        """This planner with plans of at most so many steps of the environments; None for no limit.

        Example:
            >>> from hf_jepa.planning import ActionSpace, CEMPlanner
            >>> CEMPlanner(ActionSpace(1, repeat=2), horizon=5).up_to(3).horizon
            2
        """
        if steps is None:
            return self
        return replace(self, horizon=min(self.horizon, -(-steps // self.space.repeat)))

    def shift(self, actions: torch.Tensor, steps: int) -> torch.Tensor:
        """The rest of a plan after some steps, filled up: what to start the next plan from.

        Args:
            actions: (B, H * repeat, A).
            steps: done of them, a multiple of `space.repeat`.

        Returns:
            (B, horizon * repeat, A): as many as this planner plans.

        Example:
            >>> from hf_jepa.planning import ActionSpace, CEMPlanner
            >>> CEMPlanner(ActionSpace(1), horizon=3).shift(torch.tensor([[[1.0], [2.0], [3.0]]]), 1)[0, :, 0]
            tensor([2., 3., 0.])
        """
        check_count(steps, "steps", smallest=0)
        if steps % self.space.repeat:
            raise ValueError(
                f"{steps} steps of a plan whose actions are repeated {self.space.repeat} times: want whole"
            )
        length = self.horizon * self.space.repeat
        rest = actions[:, steps : steps + length]
        if rest.shape[1] == length:
            return rest
        filling = self._resting_mean(rest).expand(len(rest), self.horizon, -1)
        return torch.cat([rest, self.space.expand(filling)[:, rest.shape[1] :]], dim=1)

    def _start(self, search: "Search", initial: torch.Tensor | None) -> torch.Tensor:
        """(B, H, P), the first mean."""
        like = torch.zeros((), device=search.device, dtype=search.dtype)
        if initial is None:
            return self._resting_mean(like).expand(search.num_environments, self.horizon, -1)
        want = (search.num_environments, self.horizon * self.space.repeat, self.space.action_dim)
        if tuple(initial.shape) != want:
            raise ValueError(f"initial plan of shape {tuple(initial.shape)}: want {want}")
        if not initial.isfinite().all():
            raise ValueError("the initial plan holds numbers that are not finite")
        return self.space.contract(initial.to(like))

    def _resting_mean(self, like: torch.Tensor) -> torch.Tensor:
        return self.space.per_planned(self.initial_mean, "initial_mean", like)

    @abstractmethod
    def _search(self, search: "Search", mean: torch.Tensor) -> torch.Tensor:
        """The best planned actions (B, H, P), from a first mean of this shape."""


class Search:
    """One call of `Planner.plan`: asks the cost, keeps the history, and knows which environments still search.

    Args:
        planner: whose settings apply.
        cost: what is asked.
        draws: where random numbers come from.
        num_environments: B.
        device, dtype: of candidates.
    """

    def __init__(
        self,
        planner: Planner,
        cost: Cost,
        draws: GeneratedNoise | RecordedNoise,
        num_environments: int,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.planner, self.cost, self.draws = planner, cost, draws
        self.num_environments, self.device, self.dtype = num_environments, device, dtype
        self.history: list[PlanIteration] = []
        self.iterations = torch.zeros(num_environments, dtype=torch.int64)
        self.active: list[bool] | None = None  # None as long as none has stopped
        self._active: torch.Tensor | None = None

    @property
    def done(self) -> bool:
        """Whether all environments have stopped."""
        return self.active is not None and not any(self.active)

    def normal(self, *shape: int) -> torch.Tensor:
        """(B, *shape) of this iteration."""
        return self.draws.normal(len(self.history), self.num_environments, *shape, active=self.active)

    def uniform(self, *shape: int) -> torch.Tensor:
        """(B, *shape) of this iteration."""
        return self.draws.uniform(len(self.history), self.num_environments, *shape, active=self.active)

    def evaluate(self, candidates: torch.Tensor) -> torch.Tensor:
        """Costs (B, S) of planned candidates (B, S, H, P)."""
        return self.ask(self.planner.space.expand(candidates))

    def ask(self, actions: torch.Tensor) -> torch.Tensor:
        """Costs (B, S) of full actions (B, S, H * repeat, A), checked."""
        costs = self.cost(actions)
        if not isinstance(costs, torch.Tensor) or costs.shape != actions.shape[:2]:
            got = tuple(costs.shape) if isinstance(costs, torch.Tensor) else type(costs).__name__
            raise ValueError(f"the cost of actions {tuple(actions.shape)} is {got}: want {tuple(actions.shape[:2])}")
        costs = costs.to(self.device, self.dtype)
        if not (costs > -torch.inf).all():  # false for NaN, too
            wrong = ~(costs > -torch.inf)
            rows = wrong.any(dim=1).nonzero().flatten().tolist()
            raise ValueError(
                f"iteration {len(self.history)}: {int(wrong.sum())} of {wrong.numel()} costs are NaN or -inf, in the "
                f"environments {rows}; give +inf to candidates that are forbidden"
            )
        return costs

    def keep_stopped(self, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        """(B, ...): the new values, but in environments that have stopped the old ones."""
        if self._active is None:
            return new
        return torch.where(self._active.view(-1, *[1] * (new.ndim - 1)), new, old)

    def record(self, entry: PlanIteration, moved: torch.Tensor | None = None) -> None:
        """End an iteration: its entry, and who stops.

        Args:
            entry: its numbers.
            moved: (B,), what is compared with `tolerance`; by default the spread of the elites.
        """
        if self.history and self._active is not None:
            last = self.history[-1]
            names = entry.__dataclass_fields__
            entry = PlanIteration(**{n: self.keep_stopped(getattr(entry, n), getattr(last, n)) for n in names})
        self.history.append(entry)
        self.iterations += 1 if self.active is None else torch.tensor(self.active).long()
        if self.planner.tolerance is not None:
            going = (entry.elite_spread if moved is None else moved) > self.planner.tolerance
            self._active = going if self._active is None else self._active & going
            self.active = self._active.tolist()


__all__ = ["Cost", "Plan", "PlanIteration", "Planner", "Search"]
