"""Planning from the top down: sub-goals, levels that are left out, warm starts, and what it costs."""

from dataclasses import replace

import pytest
import torch
from toy_worlds import PointWorld

from hf_jepa.core.world_model import WorldState
from hf_jepa.models.h_jepa.configuration_h_jepa import HJepaLevel
from hf_jepa.models.h_jepa.levels_h_jepa import HJepaUpperLevel
from hf_jepa.planning import (
    ActionSpace,
    CEMPlanner,
    HierarchicalAgent,
    HierarchicalPlanner,
    LatentCost,
    LevelPlan,
    MpcAgent,
    MPPIPlanner,
    RandomShootingPlanner,
    macro_settings,
)


STRIDE = 4


class Walk:
    """A level whose macro-action is where a point is led in `stride` steps; its states may be those below doubled."""

    def __init__(self, stride: int = STRIDE, shares_state: bool = True, move=None):
        self.stride, self.shares_state, self.factor = stride, shares_state, 1.0 if shares_state else 2.0
        self.move = move or (lambda position, action: position + action)
        self.unrolled = []

    def lift(self, latents):
        return self.factor * latents

    def unroll(self, state, actions):
        self.unrolled.append(tuple(actions.shape))
        position, found = state.last[:, None].expand(-1, actions.shape[1], -1), []
        for action in actions.unbind(2):
            position = self.factor * self.move(position / self.factor, action)
            found.append(position)
        return torch.stack(found, dim=2)


def world(*levels) -> PointWorld:
    model = PointWorld()
    model.levels = list(levels)
    return model


def cem(limit: float, horizon: int, **settings) -> CEMPlanner:
    defaults = {"num_samples": 64, "num_elites": 8, "num_iterations": 6}
    return CEMPlanner(ActionSpace(2, max_norm=limit), horizon=horizon, initial_std=limit, **(defaults | settings))


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def at(*positions) -> WorldState:
    return WorldState(torch.tensor(positions)[:, None])


TWO = [LevelPlan(planner=cem(1.0, STRIDE)), LevelPlan(planner=cem(4.0, 3))]


def test_the_first_predicted_state_is_the_goal_below():
    model = world(Walk())
    goal = torch.tensor([[10.0, 0.0], [0.0, -10.0]])
    plan = HierarchicalPlanner(model, TWO).plan(at((0.0, 0.0), (1.0, 0.0)), goal, generator=seed())
    top = plan.plans[1]
    reached = torch.tensor([[0.0, 0.0], [1.0, 0.0]]) + top.actions[:, 0]
    assert torch.equal(plan.subgoals[0], reached) and not plan.near.any()
    state = at((0.0, 0.0), (1.0, 0.0))
    again = LatentCost(model, state, reached, over="sum")(plan.actions[:, None])[:, 0]
    assert torch.equal(again, plan.plans[0].cost)
    assert (reached - goal).norm(dim=1).max() < 8  # the top has gone towards the goal, as far as it may in one step


@pytest.mark.parametrize(
    "planner",
    [
        cem(1.0, STRIDE),
        MPPIPlanner(ActionSpace(2, max_norm=1.0), horizon=STRIDE, num_samples=64, num_iterations=4),
        RandomShootingPlanner(ActionSpace(2, max_norm=1.0), horizon=STRIDE, num_samples=256),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_every_planner_will_do_and_a_batch_is_a_loop(planner):
    settings = [LevelPlan(planner=planner), LevelPlan(planner=replace(planner, horizon=2), over="last")]
    starts, goals = [(0.0, 0.0), (3.0, 1.0)], torch.tensor([[2.0, 5.0], [-4.0, 0.0]])
    hierarchy = HierarchicalPlanner(world(Walk()), settings)
    both = hierarchy.plan(at(*starts), goals, generator=[seed(1), seed(2)])
    for row in range(2):
        one = hierarchy.plan(at(starts[row]), goals[row : row + 1], generator=[seed(row + 1)])
        assert torch.equal(one.actions[0], both.actions[row])


def test_steps_of_predictors_are_those_of_the_formula():
    """Sum over levels of iterations x samples x horizon, beside one unroll of each finished plan and each sub-goal."""
    low, middle = Walk(), Walk(3)
    model = world(low, middle)
    settings = [
        LevelPlan(planner=cem(1.0, STRIDE, num_samples=30, num_iterations=5)),
        LevelPlan(planner=cem(4.0, 3, num_samples=20, num_iterations=4)),
        LevelPlan(planner=cem(12.0, 2, num_samples=16, num_iterations=3)),
    ]
    plan = HierarchicalPlanner(model, settings).plan(at((0.0, 0.0)), torch.tensor([[20.0, 0.0]]), generator=seed())
    for shapes, setting, number in zip(
        (model.unrolled, low.unrolled, middle.unrolled), settings, range(3), strict=True
    ):
        planner = setting.planner
        counted = sum(samples * horizon for _, samples, horizon, _ in shapes)
        subgoal = 1 if number else 0
        searched = planner.num_iterations * planner.num_samples * planner.horizon
        assert counted == searched + planner.horizon + subgoal
    assert len(plan.plans) == 3 and len(plan.subgoals) == 2 and model.encoded == 0


def test_a_learned_state_is_compared_in_the_space_above():
    level = Walk(shares_state=False)
    model = world(level)
    goal = torch.tensor([[3.0, 0.0]])
    settings = [LevelPlan(planner=cem(1.0, STRIDE), over="last"), LevelPlan(planner=cem(4.0, 1), over="last")]
    plan = HierarchicalPlanner(model, settings).plan(at((0.0, 0.0)), goal, generator=seed())
    subgoal = plan.subgoals[0]  # in doubled coordinates
    assert (subgoal - 2 * goal).abs().max() < 0.5
    end = plan.actions.sum(dim=1)
    assert torch.allclose(plan.plans[0].cost, (2 * end - subgoal).abs().mean(dim=1), atol=1e-6)
    assert (end - goal).abs().max() < 0.5


def test_near_the_goal_level_0_goes_there_itself():
    model = world(Walk())
    settings = [LevelPlan(planner=cem(1.0, STRIDE), over="last"), LevelPlan(planner=cem(4.0, 3))]
    starts, goal = at((0.0, 0.0), (0.0, 0.0)), torch.tensor([[1.0, 1.0], [9.0, 9.0]])
    plan = HierarchicalPlanner(model, settings, near=2.0).plan(starts, goal, generator=[seed(), seed()])
    assert plan.near.tolist() == [True, False]
    wanted = torch.stack([goal[0], plan.subgoals[0][1]])
    cost = LatentCost(model, starts, wanted, over="last")(plan.actions[:, None])[:, 0]
    assert torch.equal(cost, plan.plans[0].cost)
    far = HierarchicalPlanner(model, settings).plan(starts, goal, generator=[seed(), seed()])
    assert not torch.equal(far.plans[0].actions[0], plan.plans[0].actions[0])


@pytest.mark.parametrize(("steps_left", "horizons"), [(None, (4, 3)), (40, (4, 3)), (7, (4, 2)), (4, (4,)), (2, (2,))])
def test_few_remaining_steps_are_planned_flat(steps_left, horizons):
    goal = torch.tensor([[3.0, 0.0]])
    plan = HierarchicalPlanner(world(Walk()), TWO).plan(at((0.0, 0.0)), goal, generator=seed(), steps_left=steps_left)
    assert tuple(each.actions.shape[1] for each in plan.plans) == horizons
    if len(horizons) == 1:
        flat = replace(TWO[0].planner, horizon=horizons[0])
        cost = LatentCost(world(), at((0.0, 0.0)), goal, over="sum")
        assert torch.equal(plan.actions, flat.plan(cost, generator=seed()).actions)


def test_without_levels_it_is_the_flat_agent():
    goal = torch.tensor([[3.0, 1.0]])
    agents = [
        HierarchicalAgent(HierarchicalPlanner(world(), TWO[:1]), goal, generator=seed(), replan_every=2),
        MpcAgent(
            TWO[0].planner,
            flat := world(),
            lambda state: LatentCost(flat, state, goal, over="sum"),
            generator=seed(),
            replan_every=2,
        ),
    ]
    positions = [torch.zeros(1, 2), torch.zeros(1, 2)]
    for _ in range(5):
        positions = [p + agent.act(p[:, :, None, None]) for p, agent in zip(positions, agents, strict=True)]
    assert torch.equal(*positions)


def test_each_level_starts_from_the_rest_of_its_plan():
    model, given = world(Walk()), []
    hierarchy = HierarchicalPlanner(model, TWO)
    plan = hierarchy.plan
    hierarchy.plan = lambda *args, initial=None, **kwargs: (
        given.append(initial) or plan(*args, initial=initial, **kwargs)
    )
    agent = HierarchicalAgent(hierarchy, torch.tensor([[20.0, 0.0]]), generator=seed(), replan_every=2)
    position, plans = torch.zeros(1, 2), []
    for _ in range(9):
        position = position + agent.act(position[:, :, None, None])
        plans.append(agent.hierarchical_plan)
    assert given[0] is None and len(given) == 5
    after_2, after_4 = plans[0].plans, plans[2].plans
    assert torch.equal(given[1][0], hierarchy.planner(0, None).shift(after_2[0].actions, 2))
    assert torch.equal(given[1][1], after_2[1].actions)  # half a step of the top was done: its plan stands
    assert torch.equal(given[2][1], hierarchy.planner(1, None).shift(after_4[1].actions, 1))
    agent.reset()
    agent.act(position[:, :, None, None])
    assert given[-1] is None and agent.decisions == 1


# --- a maze ---------------------------------------------------------------------------------------------------------

WALL, DOOR = 0.0, (3.0, 4.5)  # a wall along x = 0 with a door far above the straight way


def blocked(position, step):
    """Where a step ends: at the wall, unless it goes through the door."""
    end = position + step
    crosses = (position[..., 0] < WALL) != (end[..., 0] < WALL)
    share = (WALL - position[..., 0]) / step[..., 0].where(step[..., 0] != 0, 1.0)
    height = position[..., 1] + share * step[..., 1]
    stopped = crosses & ~((height > DOOR[0]) & (height < DOOR[1]))
    return torch.where(stopped[..., None], position, end)


class Maze(PointWorld):
    """A world of walls, as level 0 knows it."""

    def unroll(self, state, actions):
        return Walk(1, move=blocked).unroll(state, actions)


def travel(agent, steps: int = 45) -> float:
    """Distance to the goal (4, 0) in the end, from (-4, 0)."""
    position = torch.tensor([[-4.0, 0.0]])
    for _ in range(steps):
        position = blocked(position, agent.act(position[:, :, None, None]))
    return (position - GOAL).norm().item()


GOAL = torch.tensor([[4.0, 0.0]])


def test_a_short_horizon_is_stuck_at_the_wall_and_two_levels_are_not():
    maze = Maze()
    low = cem(0.4, 10, num_samples=96, num_iterations=5)
    flat = MpcAgent(
        low, maze, lambda state: LatentCost(maze, state, GOAL, over="sum"), generator=seed(), replan_every=5
    )
    assert travel(flat) > 3.5  # behind the wall
    maze.levels = [Walk(10, move=blocked)]
    top = cem(4.0, 4, num_samples=256, num_iterations=8, num_elites=16)
    settings = [LevelPlan(planner=low), LevelPlan(planner=top, distance="mse", over="sum")]
    agent = HierarchicalAgent(HierarchicalPlanner(maze, settings, near=0.5), GOAL, generator=seed(), replan_every=5)
    assert travel(agent) < 0.5


# --- levels of an H-JEPA --------------------------------------------------------------------------------------------


def test_macro_actions_are_bounded_by_what_was_seen():
    level = HJepaUpperLevel(HJepaLevel(stride=3, macro_action_dim=2), (5,), 2)
    with pytest.raises(ValueError, match="fit_macro_actions"):
        macro_settings(level)
    seen = torch.randn(500, 2, generator=seed()) * torch.tensor([1.0, 3.0]) + torch.tensor([0.0, 5.0])
    level.fit([seen[:200], seen[200:]])
    settings = macro_settings(level)
    quantiles = torch.quantile(seen.double(), torch.tensor([0.02, 0.98]).double(), dim=0)
    assert torch.allclose(torch.tensor([settings["space"].low, settings["space"].high]).double(), quantiles, atol=1e-5)
    assert torch.allclose(torch.tensor(settings["initial_mean"]), seen.mean(dim=0), atol=1e-5)
    assert torch.allclose(torch.tensor(settings["initial_std"]), seen.std(dim=0), atol=1e-5)
    assert CEMPlanner(**settings, horizon=2).space.num_planned == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HierarchicalPlanner(world(Walk()), TWO[:1]), "1 settings for 2 levels"),
        (lambda: HierarchicalPlanner(world(), TWO[:1], near=-1.0), "near must be 0 or more, got -1.0"),
        (lambda: LevelPlan(planner=cem(1.0, 2), action_weight=-0.5), "action_weight must be 0 or more, got -0.5"),
        (
            lambda: HierarchicalPlanner(
                world(Walk()), [TWO[0], LevelPlan(planner=CEMPlanner(ActionSpace(2, repeat=3), horizon=2))]
            ),
            "repeated 3 times",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_large_actions_cost():
    settings = [TWO[0], LevelPlan(planner=cem(4.0, 3), action_weight=100.0)]
    plan = HierarchicalPlanner(world(Walk()), settings).plan(
        at((0.0, 0.0)), torch.tensor([[10.0, 0.0]]), generator=seed()
    )
    free = HierarchicalPlanner(world(Walk()), TWO).plan(at((0.0, 0.0)), torch.tensor([[10.0, 0.0]]), generator=seed())
    assert plan.plans[1].actions.norm() < 0.3 * free.plans[1].actions.norm()
