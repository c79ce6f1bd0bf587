"""Agents in two rooms: how they look for a way to a target in the other room, and how often they arrive."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from room_model import ANY, Layout

from hf_jepa import EbJepaModel, HJepaModel
from hf_jepa.data.two_rooms_env import TwoRoomsVectorEnv
from hf_jepa.data.two_rooms_pixels import normalise
from hf_jepa.evaluation.text_scoring import wilson_interval
from hf_jepa.planning import (
    ActionSpace,
    CEMPlanner,
    HierarchicalAgent,
    HierarchicalPlanner,
    LatentCost,
    LevelPlan,
    MpcAgent,
    MPPIPlanner,
    Planner,
    RandomShootingPlanner,
    control_loop,
    encode_goal,
    macro_settings,
)


LONGEST = 1.8  # pixels of a step: the longest that the model has seen
REPEAT = 4  # steps that go the same way, in plans and between decisions
HORIZON = 15  # of such, in plans across the rooms
SPACE = ActionSpace(2, max_norm=LONGEST, repeat=REPEAT)
SEARCH = {"num_samples": 64, "num_iterations": 4, "num_elites": 8}
TEMPERATURE = 2.0  # of MPPI: differences of the cost that count

# From goals (N, D) and random numbers.
MakeAgent = Callable[[torch.Tensor, torch.Generator], MpcAgent]


@dataclass
class Episodes:
    """What happened in N rooms.

    Args:
        positions: (N, T + 1, 2) of the dot.
        targets: (N, 2).
        distances: (N,) to the target at the end.
        reached: bool (N,), whether it was there at the end; passed: at any time.
        decisions: plans that were made.
        cpu_seconds: of all decisions in all rooms.
    """

    positions: np.ndarray
    targets: np.ndarray
    distances: np.ndarray
    reached: np.ndarray
    passed: np.ndarray
    decisions: int
    cpu_seconds: float

    def summary(self) -> dict[str, float]:
        count, arrived = len(self.reached), int(self.reached.sum())
        low, high = wilson_interval(arrived, count)
        return {
            "success": arrived / count,
            "low": low,
            "high": high,
            "passed": float(self.passed.mean()),
            "distance": float(self.distances.mean()),
            "cpu_seconds_per_decision": self.cpu_seconds / (self.decisions * count),
        }


class Clocked:
    """Beside an agent, how many CPU seconds it has thought."""

    cpu_seconds = 0.0

    def act(self, observation, steps_left=None):
        start = time.process_time()
        action = super().act(observation, steps_left)
        self.cpu_seconds += time.process_time() - start
        return action


class FlatAgent(Clocked, MpcAgent):
    """Plans with the steps of the world model."""


class TwoLevelAgent(Clocked, HierarchicalAgent):
    """Plans in long steps, and to the first of them in short ones."""


def prepare(observation: np.ndarray) -> dict[str, torch.Tensor]:
    return {"pixel_values": normalise(torch.from_numpy(observation))}


def new_rooms(model: EbJepaModel, episodes: int, steps: int, layout: Layout = ANY) -> TwoRoomsVectorEnv:
    return TwoRoomsVectorEnv(episodes, steps, *layout, image_size=model.config.image_size)


def act(
    model: EbJepaModel, make_agent: MakeAgent, episodes: int, steps: int, seed: int, layout: Layout = ANY
) -> Episodes:
    """One episode in each of many rooms, which are planned for together.

    Args:
        model: of the world.
        make_agent: who acts.
        episodes, steps: of the rooms.
        seed: of the rooms.
        layout: of all rooms, or any.
    """
    rooms = new_rooms(model, episodes, steps, layout)
    rooms.reset(seed=seed)
    goal = encode_goal(model, prepare(rooms.target_observation())["pixel_values"][:, None])
    agent = make_agent(goal, torch.Generator().manual_seed(seed))
    record = control_loop(rooms, agent, steps, seed=seed, keep_observations=False, progress=False)
    last = record.infos[-1]
    return Episodes(
        positions=np.stack([info["position"] for info in record.infos], axis=1),
        targets=last["target"],
        distances=last["distance"],
        reached=last["success"],
        passed=np.any([info["success"] for info in record.infos], axis=0),
        decisions=agent.decisions,
        cpu_seconds=agent.cpu_seconds,
    )


def flat(model: EbJepaModel, planner: Planner, over: str) -> MakeAgent:
    """Agents that plan with the model as it is."""

    def make(goal: torch.Tensor, generator: torch.Generator) -> MpcAgent:
        def cost(state):
            return LatentCost(model, state, goal, distance="mse", over=over)

        return FlatAgent(planner, model, cost, generator=generator, replan_every=REPEAT, prepare=prepare)

    return make


def hierarchical(model: HJepaModel) -> MakeAgent:
    """Agents that plan with both levels of a model."""
    (level,) = model.levels
    top = CEMPlanner(**macro_settings(level), horizon=HORIZON * REPEAT // level.stride, include_mean=True, **SEARCH)
    bottom = CEMPlanner(SPACE, horizon=level.stride // REPEAT, initial_std=1.5, include_mean=True, **SEARCH)
    levels = [LevelPlan(planner=bottom, distance="mse"), LevelPlan(planner=top, distance="mse", over="sum")]
    planner = HierarchicalPlanner(model, levels)

    def make(goal: torch.Tensor, generator: torch.Generator) -> MpcAgent:
        return TwoLevelAgent(planner, goal, generator=generator, replan_every=REPEAT, prepare=prepare)

    return make


def agents(model: EbJepaModel, hierarchy: HJepaModel) -> dict[str, MakeAgent]:
    """All that are compared, by name."""
    wander = RandomShootingPlanner(SPACE, horizon=1, num_samples=1, include_mean=False, initial_std=1.5)
    settings = {"initial_std": 1.5, "include_mean": True} | SEARCH
    return {
        "random": flat(model, wander, "last"),
        "greedy": flat(model, CEMPlanner(SPACE, horizon=1, **settings), "last"),
        "CEM": flat(model, CEMPlanner(SPACE, horizon=HORIZON, **settings), "sum"),
        "MPPI": flat(model, MPPIPlanner(SPACE, horizon=HORIZON, temperature=TEMPERATURE, **settings), "sum"),
        "hierarchical": hierarchical(hierarchy),
    }
