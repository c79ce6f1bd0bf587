"""What every planner promises, on worlds whose best plans are known."""

from dataclasses import replace

import pytest
import torch
from toy_worlds import MOVES, PointWorld, Recorded, around_a_pole, squared_distance, steps_of

from hf_jepa.core.world_model import WorldState
from hf_jepa.planning import PLANNERS, ActionSpace, DiscreteActionSpace, GradientPlanner, LatentCost


BOX = ActionSpace(2, low=[-1.0, -0.5], high=0.8, max_norm=0.9)
SETTINGS = {
    "cem": {"num_samples": 100, "num_elites": 10, "num_iterations": 12},
    "icem": {"num_samples": 60, "num_iterations": 12},
    "mppi": {"num_samples": 200, "num_elites": 40, "num_iterations": 12, "temperature": 0.1, "update_std": True},
    "gradient": {"num_samples": 4, "num_iterations": 60},
    "random_shooting": {"num_samples": 2000, "num_iterations": 4},
    "categorical_cem": {"num_samples": 100, "num_elites": 10, "num_iterations": 12},
}
names = pytest.mark.parametrize("name", PLANNERS)
continuous = pytest.mark.parametrize("name", [name for name in PLANNERS if name != "categorical_cem"])
iterative = pytest.mark.parametrize("name", [name for name in PLANNERS if name != "random_shooting"])


def planner(name, space=None, horizon=5, **changes):
    if name == "categorical_cem":
        space = DiscreteActionSpace(len(MOVES), repeat=getattr(space, "repeat", 1))
    return PLANNERS[name](space or BOX, horizon=horizon, **(SETTINGS[name] | changes))


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def test_every_planner_is_tried():
    assert set(SETTINGS) == set(PLANNERS)


@names
def test_no_candidate_leaves_the_limits(name):
    held = {1: [None, None, 0.25, None, None]}
    space = ActionSpace(2, low=[-1.0, -0.5], high=0.8, max_norm=0.9, held=held)
    cost = Recorded(squared_distance(torch.tensor([[40.0, 40.0]])))  # out of reach: plans strive for the border
    plan = planner(name, space, initial_std=3.0).plan(cost, 1, generator=seeded(0))
    asked = torch.cat([candidates.flatten(0, 1) for candidates in [*cost.candidates, plan.actions[None]]])
    if name == "categorical_cem":
        assert asked.sum(dim=-1).eq(1).all() and asked.amax(dim=-1).eq(1).all()
        return
    assert (asked >= torch.tensor([-1.0, -0.5])).all() and (asked <= 0.8).all()
    assert (asked.double().norm(dim=-1) <= 0.9).all()  # exactly, without a tolerance
    assert (asked[:, 2, 1] == 0.25).all() and asked[:, 1, 1].unique().numel() > 1
    assert asked.double().norm(dim=-1).max() > 0.8999  # and they reach it


@continuous
def test_axes_that_are_not_planned_stay(name):
    space = ActionSpace(4, planned=(0, 3), held={2: 0.3}, repeat=2)
    cost = Recorded(lambda actions: actions[..., [0, 3]].sum(dim=2).square().sum(dim=-1))
    plan = planner(name, space, horizon=3).plan(cost, 1, generator=seeded(0))
    assert plan.actions.shape == (1, 6, 4)
    for asked in [*cost.candidates, plan.actions[None]]:
        assert (asked[..., 1] == 0).all() and (asked[..., 2] == torch.tensor(0.3)).all()
        assert torch.equal(asked[..., ::2, :], asked[..., 1::2, :])


@names
def test_discrete_and_continuous_actions_repeat(name):
    cost = Recorded(squared_distance(torch.tensor([[4.0, -2.0]])))
    plan = planner(name, ActionSpace(2, low=-1, high=1, repeat=2), horizon=3).plan(cost, 1, generator=seeded(0))
    assert plan.actions.shape[1] == 6 and plan.cost < 0.6  # of 20 at rest
    assert all(torch.equal(asked[:, :, ::2], asked[:, :, 1::2]) for asked in cost.candidates)


@names
def test_a_generator_decides(name):
    cost = squared_distance(torch.tensor([[1.5, 1.0], [-1.0, 0.0]]))
    asked = []
    for seed in (0, 0, 1):
        recorded = Recorded(cost)
        plan = planner(name, num_iterations=3).plan(recorded, 2, generator=seeded(seed))
        asked.append(torch.cat([*recorded.candidates, plan.actions[:, None]], dim=1))
    torch.random.manual_seed(0)  # nothing else does
    assert torch.equal(asked[0], asked[1]) and not torch.equal(asked[0], asked[2])


@names
@pytest.mark.parametrize("tolerance", [None, 0.1])
def test_a_batch_is_a_loop_of_singles(name, tolerance):
    target = torch.tensor([[1.5, 1.0], [-2.0, 0.5], [0.0, 0.0]])
    chosen = planner(name, tolerance=tolerance)
    start = torch.zeros(3, 5, chosen.space.action_dim)
    start[:, :, 0] = 0.5
    generators = seeded(5, 6, 7)
    batch = chosen.plan(squared_distance(target), 3, generator=generators, initial=start)
    for row, seed in enumerate((5, 6, 7)):
        alone, cost = seeded(seed), squared_distance(target[row : row + 1])
        single = chosen.plan(cost, 1, generator=alone, initial=start[row : row + 1])
        assert torch.equal(single.actions[0], batch.actions[row]) and torch.equal(single.cost[0], batch.cost[row])
        assert single.iterations[0] == batch.iterations[row]
        assert torch.equal(alone.get_state(), generators[row].get_state())  # the next decision, too
        for field in ("best_cost", "elite_cost_mean", "mean", "std"):
            ours, theirs = (getattr(found.history[-1], field) for found in (batch, single))
            torch.testing.assert_close(ours[row], theirs[0])


@names
def test_the_best_plan_is_found(name):
    target = torch.tensor([[2.0, 1.0], [-1.0, -1.0]])
    plan = planner(name).plan(squared_distance(target), 2, generator=seeded(0))
    torch.testing.assert_close(plan.cost, squared_distance(target)(plan.actions[:, None])[:, 0])
    assert (plan.cost < (0.1 if name == "random_shooting" else 0.02)).all()
    assert plan.actions.shape[:2] == (2, 5) and plan.cost.shape == (2,)
    best = torch.stack([entry.best_cost for entry in plan.history])
    assert (best.diff(dim=0) <= 0).all() and best.shape == (len(plan.history), 2)


@names
def test_a_pole_in_the_way_is_passed(name):
    target, pole = torch.tensor([[4.0, 0.0]]), torch.tensor([[2.0, 0.1]])
    space, cost = ActionSpace(2, low=-1, high=1), around_a_pole(target, pole, radius=0.9)
    straight = torch.tensor([[0.8, 0.0]]).expand(1, 1, 5, 2)
    assert cost(straight) > 5
    plan = planner(name, space, horizon=8, num_iterations=40).plan(cost, 1, generator=seeded(1))
    path = steps_of(plan.actions).cumsum(dim=1)[0]
    assert (path - pole).norm(dim=-1).min() > (0.4 if name == "random_shooting" else 0.7)
    assert (path[-1] - target).norm() < (1.2 if name == "random_shooting" else 0.3)


@names
def test_a_warm_start_helps(name):
    target = torch.tensor([[6.0, -3.0]])
    space = ActionSpace(2, low=-1, high=1)
    chosen = planner(name, space, horizon=10, initial_std=0.3)
    good = chosen.plan(squared_distance(target), 1, generator=seeded(0))
    done = steps_of(good.actions[:, :1]).sum(dim=1)
    rest = squared_distance(target - done)
    hasty = replace(chosen, num_iterations=2)
    cold = [hasty.plan(rest, 1, generator=seeded(seed)).cost for seed in range(5)]
    start = hasty.shift(good.actions, 1)
    warm = [hasty.plan(rest, 1, generator=seeded(seed), initial=start).cost for seed in range(5)]
    assert start.shape == good.actions.shape and torch.equal(start[:, :-1], good.actions[:, 1:])
    assert sum(warm) < 0.5 * sum(cold)


@iterative
def test_agreement_of_elites_stops(name):
    cost = Recorded(squared_distance(torch.tensor([[1.0, 1.0], [2.0, -1.0]])))
    full = planner(name, num_iterations=200, tolerance=None)
    plan = replace(full, tolerance=0.02).plan(cost, 2, generator=seeded(0))
    assert plan.iterations.max() == len(plan.history) < 200
    assert len(cost.candidates) <= len(plan.history) + 2  # nothing is asked after the stop but the plan itself
    assert (plan.cost < 0.05).all()
    if name != "gradient":  # whose plans may go on differing; it stops when they rest
        assert (plan.history[-1].elite_spread <= 0.02).all() and (plan.history[0].elite_spread > 0.1).all()
    assert (full.plan(cost, 2, generator=seeded(0)).iterations == 200).all()


@names
def test_costs_of_nan_are_refused(name):
    calls, iteration = [], 0 if name == "random_shooting" else 2

    def cost(actions):
        calls.append(0)
        costs = squared_distance(torch.zeros(3, 2))(actions)
        return costs * torch.tensor([[1.0], [float("nan") if len(calls) == iteration + 1 else 1.0], [1.0]])

    with pytest.raises(ValueError, match=rf"iteration {iteration}: .* NaN or -inf, in the environments \[1\]"):
        planner(name).plan(cost, 3, generator=seeded(0))


@names
def test_forbidden_candidates_are_not_the_plan(name):
    def cost(actions):  # nobody may end on the left
        end = steps_of(actions).sum(dim=2)
        costs = squared_distance(torch.tensor([[-1.0, 1.0]]))(actions)
        return torch.where(end[..., 0] < 0, torch.inf, costs)

    if name == "gradient":  # has no slope there
        plan = planner(name, num_iterations=2, learning_rate=0.01, num_samples=16).plan(cost, 1, generator=seeded(0))
    else:
        plan = planner(name, num_samples=400).plan(cost, 1, generator=seeded(0))
    assert plan.cost.isfinite() and steps_of(plan.actions).sum(dim=1)[0, 0] >= 0


@names
def test_float64(name):
    cost = Recorded(squared_distance(torch.tensor([[1.0, 0.0]])))
    space = ActionSpace(2)  # shortening would make digits
    plan = planner(name, space, num_iterations=3).plan(cost, 1, generator=seeded(0), dtype=torch.float64)
    assert {asked.dtype for asked in cost.candidates} == {torch.float64} == {plan.actions.dtype}
    assert plan.cost.dtype == torch.float64 and plan.history[-1].mean.dtype == torch.float64
    if name not in ("categorical_cem", "gradient"):  # what was drawn has more digits than float32 holds
        assert not torch.equal(cost.candidates[0], cost.candidates[0].float().double())


@names
def test_gradients_are_kept_only_where_they_are_needed(name):
    scale = torch.nn.Parameter(torch.ones(2))
    needed = []

    def cost(actions):
        needed.append((actions * scale[0]).requires_grad)
        return squared_distance(torch.ones(1, 2))(actions) * scale.sum()

    plan = planner(name, num_iterations=3).plan(cost, 1, generator=seeded(0))
    assert not plan.actions.requires_grad and not plan.cost.requires_grad
    assert not any(value.requires_grad for entry in plan.history for value in vars(entry).values())
    assert scale.grad is None and torch.is_grad_enabled()
    assert any(needed) == (name == "gradient") and not needed[-1]


@names
def test_a_cost_of_another_device_or_precision(name):
    cost = squared_distance(torch.tensor([[1.0, 0.5]]))
    plan = planner(name).plan(lambda actions: cost(actions).bfloat16(), 1, generator=seeded(0))
    assert plan.cost.dtype == torch.float32 and plan.cost < 0.3


@names
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_generators_of_the_host_and_worlds_on_the_device(name):
    world, start = PointWorld(), torch.zeros(2, 1, 2, device="cuda")
    cost = LatentCost(world, WorldState(start), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), distance="mse")
    on_cuda = torch.Generator("cuda").manual_seed(0)
    for generator in (seeded(0), seeded(0, 1), on_cuda):
        plan = planner(name).plan(cost, generator=generator)
        assert plan.actions.device.type == "cuda" and (plan.cost < 0.1).all()
    host = planner(name).plan(squared_distance(torch.ones(2, 2)), 2, generator=on_cuda)
    assert host.actions.device.type == "cpu"


@names
def test_what_cannot_be_is_refused(name):
    cost, chosen = squared_distance(torch.zeros(1, 2)), planner(name)
    width = chosen.space.action_dim
    with pytest.raises(ValueError, match="generator= or from recorded noise="):
        chosen.plan(cost, 1)
    with pytest.raises(TypeError, match="num_environments"):
        chosen.plan(cost, generator=seeded(0))
    with pytest.raises(ValueError, match=r"2 generators for 1 environments"):
        chosen.plan(cost, 1, generator=seeded(0, 1))
    with pytest.raises(ValueError, match=r"initial plan of shape \(1, 4, .*want \(1, 5, "):
        chosen.plan(cost, 1, generator=seeded(0), initial=torch.zeros(1, 4, width))
    with pytest.raises(ValueError, match="initial plan holds numbers"):
        chosen.plan(cost, 1, generator=seeded(0), initial=torch.full((1, 5, width), torch.nan))
    with pytest.raises(ValueError, match=r"want \(1, \d+\)"):
        chosen.plan(lambda actions: actions.sum(), 1, generator=seeded(0))
    with pytest.raises(TypeError, match="float16"):
        chosen.plan(cost, 1, generator=seeded(0), dtype=torch.float16)
    with pytest.raises(ValueError, match="tolerance"):
        planner(name, tolerance=0.0)
    with pytest.raises(TypeError, match="plans in a"):
        PLANNERS[name](BOX if name == "categorical_cem" else DiscreteActionSpace(3), horizon=2)


def test_a_cost_without_a_slope_is_refused():
    with pytest.raises(ValueError, match="has no gradient"):
        planner("gradient").plan(lambda actions: actions.detach().sum(dim=(2, 3)), 1, generator=seeded(0))
    with pytest.raises(ValueError, match=r"gradient is not finite, in the environments \[1\]"):
        GradientPlanner(ActionSpace(2), horizon=1).plan(
            lambda actions: (actions + torch.tensor([1.0, 0.0])[:, None, None, None]).norm(dim=-1).sqrt().sum(dim=-1),
            2,
            generator=seeded(0),
        )
