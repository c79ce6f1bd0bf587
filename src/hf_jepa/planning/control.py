"""An agent in environments, step by step, and what was recorded of it."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.planning.agent import MpcAgent


class VectorEnvironment(Protocol):
    """B environments at once, as gymnasium's vector environments are."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict]:
        """What they show at the start of an episode, and further information."""
        ...

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        """What they show after actions (B, A), rewards, terminated, truncated (B,), further information."""
        ...


@dataclass
class ControlRecord:
    """What happened in B environments; T steps, fewer than asked for where all had ended before.

    Args:
        actions: float32 (B, T, A), what was done.
        rewards: (B, T), zeros after the end of an episode.
        lengths: int64 (B,), steps until the episode ended, T where it did not.
        ended: bool (B,), whether the environment ended it.
        costs: (B, T), what the plan that was followed at that step was expected to cost.
        seconds: of every decision, wall clock.
        observations: T + 1 of them as the environments gave them; empty unless asked for.
        infos: T + 1 of them.

    Example:
        >>> record = ControlRecord(
        ...     actions=np.zeros((1, 3, 2)),
        ...     rewards=np.array([[0.0, -1.0, 5.0]]),
        ...     lengths=np.array([3]),
        ...     ended=np.array([True]),
        ...     costs=np.zeros((1, 3)),
        ...     seconds=[0.1, 0.1, 0.1],
        ... )
        >>> record.returns
        array([4.])
    """

    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray
    costs: np.ndarray
    seconds: list[float]
    observations: list[Any] = field(default_factory=list, repr=False)
    infos: list[dict] = field(default_factory=list, repr=False)

    @property
    def returns(self) -> np.ndarray:
        """(B,), sums of rewards."""
        return self.rewards.sum(axis=1)


def control_loop(
    environments: VectorEnvironment,
    agent: MpcAgent,
    num_steps: int,
    *,
    seed: int | None = None,
    keep_observations: bool = False,
    progress: bool = True,
) -> ControlRecord:
    """One episode in every environment.

    Args:
        environments: with `reset` and `step` as gymnasium's vector environments have them. Those whose episode has
            ended are stepped on, and what they do then does not count.
        agent: forgets what it knew before.
        num_steps: budget; the agent is told how many are left, and plans no further.
        seed: of `environments.reset`.
        keep_observations: keep all observations in the record; they may be large.
        progress: show a bar.

    Returns:
        `ControlRecord`.

    Raises:
        TypeError, ValueError: no budget.

    Example:
        >>> from hf_jepa.planning import ActionSpace, LatentCost, RandomShootingPlanner
        >>> from hf_jepa.core.world_model import WorldState
        >>> class Line:  # two points on lines, which are to reach 3
        ...     def reset(self, seed=None):
        ...         self.at = np.zeros((2, 1), np.float32)
        ...         return self.at[:, :, None, None], {}
        ...     def step(self, actions):
        ...         self.at = self.at + actions
        ...         there = np.abs(self.at[:, 0] - 3) < 0.1
        ...         return self.at[:, :, None, None], there * 1.0, there, there & False, {}
        >>> class Model:
        ...     def encode(self, pixel_values_videos):
        ...         return WorldState(pixel_values_videos.flatten(2))
        ...     def unroll(self, state, actions):
        ...         return state.last[:, None, None] + actions.cumsum(dim=2)
        >>> planner = RandomShootingPlanner(ActionSpace(1, low=-1, high=1), horizon=2, num_samples=500)
        >>> agent = MpcAgent(
        ...     planner,
        ...     Model(),
        ...     lambda state: LatentCost(Model(), state, torch.full((2, 1), 3.0)),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> record = control_loop(Line(), agent, num_steps=8, progress=False)
        >>> record.ended, record.rewards.sum(axis=1)
        (array([ True,  True]), array([1., 1.]))
    """
    check_count(num_steps, "num_steps")
    agent.reset()
    observation, info = environments.reset(seed=seed)
    observations, infos = [observation], [info]
    steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # actions, rewards, costs
    ended = lengths = None
    seconds: list[float] = []
    for step in tqdm(range(num_steps), desc="control", unit="step", disable=not progress):
        decisions, start = agent.decisions, time.perf_counter()
        actions = _array(agent.act(observation, steps_left=num_steps - step))
        if agent.decisions > decisions:
            seconds.append(time.perf_counter() - start)
        observation, reward, terminated, truncated, info = environments.step(actions)
        if ended is None:
            ended, lengths = np.zeros(len(actions), bool), np.full(len(actions), num_steps)
        steps.append((actions, np.where(ended, 0.0, reward), _array(agent.plan.cost)))
        over = np.asarray(terminated, bool) | np.asarray(truncated, bool)
        lengths[over & ~ended] = step + 1
        ended |= over
        infos.append(info)
        observations = [*observations, observation] if keep_observations else []
        if ended.all():
            break
    stacked = [np.stack(rows, axis=1) for rows in zip(*steps, strict=True)]
    actions, rewards, costs = stacked
    return ControlRecord(
        actions=actions,
        rewards=rewards,
        lengths=np.minimum(lengths, len(steps)),
        ended=ended,
        costs=costs,
        seconds=seconds,
        observations=observations,
        infos=infos,
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


__all__ = ["ControlRecord", "VectorEnvironment", "control_loop"]
