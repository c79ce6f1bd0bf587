"""Acting by hierarchical plans: every level goes on from the rest of its own last plan."""

from typing import Any

import torch

from hf_jepa.planning.agent import MpcAgent
from hf_jepa.planning.hierarchical import HierarchicalPlan, HierarchicalPlanner


class HierarchicalAgent(MpcAgent):
    """An `MpcAgent` that plans with all levels of a model, again after every few actions.

    Every level starts its search from the rest of its last plan. An upper plan moves on by one step when as many
    primitive actions were done as one of its steps has.

    Args:
        planner: what plans.
        goal: (B, *L), latents of level 0, such as those of `encode_goal`.
        options: `generator`, `replan_every`, `warm_start`, `context_frames`, `prepare`, `device`: see `MpcAgent`.

    Example:
        >>> from hf_jepa.core.world_model import WorldState
        >>> from hf_jepa.planning import ActionSpace, CEMPlanner, LevelPlan
        >>> class Line:  # a point on a line; one step of the upper level is a walk of 4
        ...     stride, shares_state = 4, True
        ...     def encode(self, pixel_values_videos):
        ...         return WorldState(pixel_values_videos.flatten(2))
        ...     def unroll(self, state, actions):
        ...         return state.last[:, None, None] + actions.cumsum(dim=2)
        ...     def lift(self, latents):
        ...         return latents
        >>> world = Line()
        >>> world.levels = [Line()]
        >>> search = {"num_samples": 64, "num_elites": 8, "num_iterations": 5}
        >>> settings = [
        ...     LevelPlan(planner=CEMPlanner(ActionSpace(1, max_norm=1.0), horizon=4, **search)),
        ...     LevelPlan(planner=CEMPlanner(ActionSpace(1, max_norm=4.0), horizon=3, **search)),
        ... ]
        >>> planner, goal = HierarchicalPlanner(world, settings, near=1.0), torch.tensor([[10.0]])
        >>> agent = HierarchicalAgent(planner, goal, generator=torch.Generator().manual_seed(0))
        >>> position = torch.zeros(1, 1)
        >>> for _ in range(12):
        ...     position = position + agent.act(position[:, :, None, None])
        >>> bool((position - goal).abs() < 0.2)
        True
    """

    def __init__(self, planner: HierarchicalPlanner, goal: torch.Tensor, **options: Any):
        self.hierarchy, self.goal = planner, goal
        # The hierarchy makes the costs.
        super().__init__(planner.settings[0].planner, planner.model, lambda state: None, **options)

    def reset(self) -> None:
        """Forget what was seen and planned: episodes start anew."""
        super().reset()
        self.hierarchical_plan: HierarchicalPlan | None = None  # the last one
        self._since = [0] * len(self.hierarchy.settings)  # primitive steps since the start of each level's plan

    def _decide(self, steps_left: int | None) -> None:
        initial = self._rest(steps_left) if self.warm_start and self.hierarchical_plan is not None else None
        with torch.no_grad():
            state = self._encode()
        self.hierarchical_plan = self.hierarchy.plan(
            state, self.goal, generator=self.generator, initial=initial, steps_left=steps_left
        )
        self.plan = self.hierarchical_plan.plans[0]
        self.decisions += 1
        self._done = 0

    def _rest(self, steps_left: int | None) -> list[torch.Tensor | None]:
        """What remains of the plan of each level."""
        rest: list[torch.Tensor | None] = []
        for number, stride in enumerate(self.hierarchy.strides):
            self._since[number] += self._done
            steps, self._since[number] = divmod(self._since[number], stride)
            if number >= len(self.hierarchical_plan.plans):
                rest.append(None)
                continue
            planner = self.hierarchy.planner(number, steps_left)
            rest.append(planner.shift(self.hierarchical_plan.plans[number].actions, steps))
        return rest


__all__ = ["HierarchicalAgent"]
