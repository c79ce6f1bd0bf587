"""Hierarchical planning: the top level plans in long steps, and what it predicts first is the goal of the level below.

After "Hierarchical Planning with Latent World Models" (2604.03208), for any number of levels. A search over H_0 steps
of the world model is replaced by one over H_1 steps of stride k and one over k steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch

from hf_jepa.core.world_model import WorldModel, WorldState
from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.action_space import ActionSpace
from hf_jepa.planning.costs import DISTANCES, Distance, LatentCost, WeightedCost
from hf_jepa.planning.planner import Cost, Plan, Planner


class UpperLevel(Protocol):
    """A level above a world model, as those of an `HJepaModel` are.

    Attributes:
        stride: steps of the level below that one step is.
        shares_state: whether its states are those of the level below, so that they are goals there as they are.
    """

    stride: int
    shares_state: bool

    def lift(self, latents: torch.Tensor) -> torch.Tensor:
        """States of the level below as states of this one, (..., *L) -> (..., *L')."""
        ...

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        """States (B, S, H, *L') after each of H macro-actions (B, S, H, d)."""
        ...


@dataclass(frozen=True, kw_only=True)
class LevelPlan:
    """How one level is planned.

    Args:
        planner: any planner; `macro_settings` gives the action space of an upper level. A horizon of the level's
            stride is enough below the top: there the goal lies.
        distance: from predicted states to the goal, see `LatentCost`.
        over: "sum" (of the distances of all steps, which asks to get there soon) or "last", see `LatentCost`.
        action_weight: of the mean square of the actions, which is added to the cost; published: 0.1 at the top.
        sample_chunk: see `LatentCost`.
    """

    planner: Planner
    distance: str | Distance = "l1"
    over: str = "sum"
    action_weight: float = 0.0
    sample_chunk: int | None = None

    def __post_init__(self):
        if not self.action_weight >= 0:
            raise ValueError(f"action_weight must be 0 or more, got {self.action_weight}")


@dataclass(frozen=True)
class HierarchicalPlan:
    """What was found in B environments.

    Args:
        plans: of each level that was searched, from below; those of few remaining steps lack upper ones.
        subgoals: the states that the levels below were sent to, from below: (B, *L) each, in the space of the level
            above. One less than plans.
        near: bool (B,), where level 0 planned to the goal itself.
    """

    plans: list[Plan]
    subgoals: list[torch.Tensor]
    near: torch.Tensor

    @property
    def actions(self) -> torch.Tensor:
        """(B, H, A), the primitive actions."""
        return self.plans[0].actions


def macro_settings(level: Any) -> dict[str, Any]:
    """Action space, mean and deviation of the macro-actions that a level has seen, as settings of a planner.

    Args:
        level: of an `HJepaModel` whose macro-actions were measured.

    Returns:
        `space`, bounded by percentiles, `initial_mean` and `initial_std`: `CEMPlanner(**macro_settings(level), ...)`.

    Raises:
        ValueError: nothing was measured.
    """
    if not level.macro_count:
        raise ValueError("the macro-actions of this level were never measured: call model.fit_macro_actions(actions)")
    mean, std, low, high = (
        getattr(level, f"macro_{name}").double().tolist() for name in ("mean", "std", "low", "high")
    )
    return {"space": ActionSpace(len(mean), low=low, high=high), "initial_mean": mean, "initial_std": std}


class HierarchicalPlanner:
    """Plans from the top down.

    The top level looks for macro-actions that lead to the goal. The first state that it predicts is the goal of the
    level below, and so on; level 0 finds primitive actions. With a learned state the level below is compared with its
    goal in the space of the level above.

    Args:
        model: a world model with `levels`, from below, such as an `HJepaModel`; in `eval()`.
        settings: of level 0 and of each of the levels, from below.
        near: distance from the state to the goal, as level 0 measures it, under which level 0 plans to the goal
            itself; None: only where few steps remain.

    Raises:
        ValueError: another number of settings than of levels, upper actions that are repeated.
    """

    def __init__(self, model: WorldModel, settings: Sequence[LevelPlan], *, near: float | None = None):
        self.levels: list[UpperLevel] = list(model.levels)
        self.model, self.settings = model, list(settings)
        if len(self.settings) != len(self.levels) + 1:
            raise ValueError(
                f"{len(self.settings)} settings for {len(self.levels) + 1} levels: give those of level 0 and of each "
                "level above it"
            )
        if repeated := [each.planner.space.repeat for each in self.settings[1:] if each.planner.space.repeat != 1]:
            raise ValueError(f"macro-actions repeated {repeated[0]} times: leave that to the stride of the level")
        if near is not None and not near >= 0:
            raise ValueError(f"near must be 0 or more, got {near}")
        self.near = near

    @property
    def strides(self) -> tuple[int, ...]:
        """Primitive steps of one step of each level; 1 at level 0."""
        return tuple(prod(level.stride for level in self.levels[:number]) for number in range(len(self.levels) + 1))

    def plan(
        self,
        state: WorldState,
        goal: torch.Tensor,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        initial: Sequence[torch.Tensor | None] | None = None,
        steps_left: int | None = None,
    ) -> HierarchicalPlan:
        """Look for primitive actions.

        Args:
            state: of level 0, of B environments.
            goal: (B, *L), latents of level 0.
            generator: one, or a list of one for each environment.
            initial: of each level where its search starts, or None.
            steps_left: primitive steps of the episode. Levels of longer steps are left out, and no plan is longer.

        Returns:
            `HierarchicalPlan`

        Raises:
            ValueError: as the planners and their costs do.
        """
        with torch.no_grad():
            return self._plan(state, goal, generator, initial, steps_left)

    def planner(self, number: int, steps_left: int | None) -> Planner:
        """The planner of a level, no longer than what remains."""
        steps = None if steps_left is None else -(-steps_left // self.strides[number])
        return self.settings[number].planner.up_to(steps)

    def _plan(self, state, goal, generator, initial, steps_left) -> HierarchicalPlan:
        top = self._top(steps_left)
        states, goals = [state], [goal.to(state.latents)]
        for level in self.levels[:top]:
            states.append(WorldState(level.lift(states[-1].last)[:, None]))
            goals.append(level.lift(goals[-1]))
        near = self._is_near(state, goals[0])
        plans, subgoals, aim, lift = [], [], goals[top], None
        for number in range(top, -1, -1):
            if number == 0 and lift is None:  # where the goal is near level 0 goes there
                kept = near.view(-1, *(1 for _ in aim.shape[1:]))
                aim = torch.where(kept, goals[0], aim)
            cost = self._cost(number, states[number], aim, lift)
            start = None if initial is None else initial[number]
            plan = self.planner(number, steps_left).plan(cost, len(state), generator=generator, initial=start)
            plans.insert(0, plan)
            if number:
                level = self.levels[number - 1]
                first = plan.actions[:, None, :1].to(states[number].latents)
                aim = level.unroll(states[number], first)[:, 0, 0]
                subgoals.insert(0, aim)
                lift = None if level.shares_state else level.lift
        return HierarchicalPlan(plans, subgoals, near)

    def _top(self, steps_left: int | None) -> int:
        """The highest level one step of which is shorter than what remains."""
        if steps_left is None:
            return len(self.levels)
        check_count(steps_left, "steps_left")
        return max(number for number, stride in enumerate(self.strides) if number == 0 or stride < steps_left)

    def _is_near(self, state: WorldState, goal: torch.Tensor) -> torch.Tensor:
        if self.near is None or not self.levels:
            return torch.zeros(len(state), dtype=torch.bool, device=goal.device)
        distance = self.settings[0].distance
        measure = DISTANCES[distance] if isinstance(distance, str) else distance
        return measure(state.last[:, None, None], goal[:, None, None])[:, 0, 0] < self.near

    def _cost(self, number: int, state: WorldState, goal: torch.Tensor, lift: Callable | None) -> Cost:
        settings = self.settings[number]
        model: Any = self.levels[number - 1] if number else self.model
        if lift is not None:
            model, state = _Lifted(model, state, lift), WorldState(lift(state.last)[:, None])
        options = {"distance": settings.distance, "over": settings.over, "sample_chunk": settings.sample_chunk}
        cost = LatentCost(model, state, goal, **options)
        if not settings.action_weight:
            return cost
        return WeightedCost([(1.0, cost), (settings.action_weight, _mean_square)])


class _Lifted:
    """A level whose predictions are seen as states of the level above."""

    def __init__(self, model: Any, state: WorldState, lift: Callable[[torch.Tensor], torch.Tensor]):
        self.model, self.state, self.lift = model, state, lift
        self.training = getattr(model, "training", False)

    def unroll(self, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
        return self.lift(self.model.unroll(self.state, actions))


def _mean_square(actions: torch.Tensor) -> torch.Tensor:
    return actions.square().mean(dim=(2, 3))


__all__ = ["HierarchicalPlan", "HierarchicalPlanner", "LevelPlan", "UpperLevel", "macro_settings"]
