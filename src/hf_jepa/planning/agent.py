"""Model predictive control: plan, do the first actions, look, plan again."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from hf_jepa.core.world_model import WorldModel, WorldState
from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.planner import Cost, Plan, Planner


def as_pixel_values(observation: Any) -> Mapping[str, torch.Tensor]:
    """An observation as `MpcAgent` wants it: arrays are frames (B, C, H, W), mappings stay as they are.

    Example:
        >>> as_pixel_values(torch.zeros(2, 3, 8, 8))["pixel_values"].shape
        torch.Size([2, 3, 8, 8])
    """
    if isinstance(observation, Mapping):
        return {name: torch.as_tensor(value) for name, value in observation.items()}
    return {"pixel_values": torch.as_tensor(observation)}


class MpcAgent:
    """Acts in B environments by planning with a world model, again after every few actions.

    An observation is encoded once for a decision, and only where one is taken. The agent remembers the frames, actions
    and states that the model wants to see, and the rest of the last plan, from which the next search starts.

    Args:
        planner: what searches.
        model: a world model in `eval()`. Its `encode` is called with `pixel_values_videos` (B, T, C, H, W), and where
            there are any with `actions` (B, T - 1, A) and `states` (B, T, P).
        make_cost: the state after the frames so far -> what to minimise from there, such as
            `lambda state: LatentCost(model, state, goal)`.
        generator: one, or a list of one for each environment.
        replan_every: actions that are done of a plan, a multiple of `planner.space.repeat`.
        warm_start: start the next search from the rest of the plan.
        context_frames: T, frames that the model sees; fewer at the start.
        prepare: what the environments show -> `pixel_values` (B, C, H, W) and maybe `states` (B, P), as tensors.
        device: of the model; by default what it says itself, or the CPU.

    Raises:
        TypeError, ValueError: numbers that make no sense.

    Example:
        >>> from hf_jepa.planning import ActionSpace, CEMPlanner, LatentCost
        >>> class Point:  # a world that shows where its point is, and moves it by the action
        ...     def encode(self, pixel_values_videos):
        ...         return WorldState(pixel_values_videos.flatten(2))
        ...     def unroll(self, state, actions):
        ...         return state.last[:, None, None] + actions.cumsum(dim=2)
        >>> model, goal = Point(), torch.tensor([[3.0, 1.0]])
        >>> agent = MpcAgent(
        ...     CEMPlanner(ActionSpace(2, max_norm=1.0), horizon=4),
        ...     model,
        ...     lambda state: LatentCost(model, state, goal, over="sum"),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> position = torch.zeros(1, 2)
        >>> for _ in range(5):
        ...     position = position + agent.act(position[:, :, None, None])
        >>> bool((position - goal).norm() < 0.3), agent.decisions
        (True, 5)
    """

    def __init__(
        self,
        planner: Planner,
        model: WorldModel,
        make_cost: Callable[[WorldState], Cost],
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        replan_every: int = 1,
        warm_start: bool = True,
        context_frames: int = 1,
        prepare: Callable[[Any], Mapping[str, torch.Tensor]] = as_pixel_values,
        device: torch.device | str | None = None,
    ):
        check_count(replan_every, "replan_every")
        check_count(context_frames, "context_frames")
        length, repeat = planner.horizon * planner.space.repeat, planner.space.repeat
        if replan_every > length or replan_every % repeat:
            raise ValueError(
                f"replan_every is {replan_every}: want a multiple of {repeat}, at most the plan's {length} actions"
            )
        self.planner, self.model, self.make_cost, self.generator = planner, model, make_cost, generator
        self.replan_every, self.warm_start, self.prepare = replan_every, warm_start, prepare
        self.device = torch.device(device or getattr(model, "device", None) or "cpu")
        self._frames: deque[Mapping[str, torch.Tensor]] = deque(maxlen=context_frames)
        self._actions: deque[torch.Tensor] = deque(maxlen=context_frames)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen and planned: episodes start anew."""
        self._frames.clear()
        self._actions.clear()
        self.plan: Plan | None = None  # the last one
        self.decisions = 0  # how many plans were made
        self._done = 0  # actions that were done of the plan

    def act(self, observation: Any, steps_left: int | None = None) -> torch.Tensor:
        """The next action in every environment.

        Args:
            observation: what the environments show now, as `prepare` takes it.
            steps_left: of the episode, this one included: plans get no longer. None where nobody knows.

        Returns:
            (B, A), on the device of the plan.
        """
        if steps_left is not None:
            check_count(steps_left, "steps_left")
        self._frames.append({name: value.to(self.device) for name, value in self.prepare(observation).items()})
        if self.plan is None or self._done in (self.replan_every, self.plan.actions.shape[1]):
            self._decide(steps_left)
        action = self.plan.actions[:, self._done]
        self._done += 1
        self._actions.append(action)
        return action

    def _decide(self, steps_left: int | None) -> None:
        planner = self.planner.up_to(steps_left)
        with torch.no_grad():
            cost = self.make_cost(self._encode())
        initial = planner.shift(self.plan.actions, self._done) if self.warm_start and self.plan else None
        batch = len(self._frames[-1]["pixel_values"])
        self.plan = planner.plan(cost, batch, generator=self.generator, initial=initial)
        self.decisions += 1
        self._done = 0

    def _encode(self) -> WorldState:
        names = self._frames[-1].keys()
        seen = {name: torch.stack([frame[name] for frame in self._frames], dim=1) for name in names}
        seen["pixel_values_videos"] = seen.pop("pixel_values")
        past = list(self._actions)[len(self._actions) + 1 - len(self._frames) :]
        if past:
            seen["actions"] = torch.stack(past, dim=1).to(self.device)
        return self.model.encode(**seen)


__all__ = ["MpcAgent", "as_pixel_values"]
