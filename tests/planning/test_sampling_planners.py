"""Each setting of the planners that sample does what it says."""

import math

import pytest
import torch
from toy_worlds import Recorded, squared_distance

from hf_jepa.planning import ActionSpace, CEMPlanner, ICEMPlanner, MPPIPlanner, RandomShootingPlanner


NORMALS = torch.randn(4, 2, 30, 3, 2, generator=torch.Generator().manual_seed(0))
COST = squared_distance(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
SIZES = {"horizon": 3, "num_samples": 30, "num_iterations": 4}


def cem(**settings):
    return CEMPlanner(settings.pop("space", ActionSpace(2)), **(SIZES | {"num_elites": 5} | settings))


def rugged(actions):
    return COST(actions) + torch.sin(40 * actions).sum(dim=(2, 3))


@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_weights_of_mppi(temperature):
    costs = COST(NORMALS[0])
    weights = torch.exp(-costs / temperature)
    weights = (weights / weights.sum(dim=1, keepdim=True))[:, :, None, None]
    mean = (weights * NORMALS[0]).sum(dim=1)
    planner = MPPIPlanner(ActionSpace(2), **(SIZES | {"num_iterations": 1, "temperature": temperature}))
    plan = planner.plan(COST, 2, noise=NORMALS)
    torch.testing.assert_close(plan.actions, mean)
    assert (plan.history[0].std == 1).all()
    settings = SIZES | {"num_iterations": 1, "temperature": temperature, "update_std": True}
    updated = MPPIPlanner(ActionSpace(2), **settings).plan(COST, 2, noise=NORMALS).history[0].std
    torch.testing.assert_close(updated, (weights * (NORMALS[0] - mean[:, None]).square()).sum(dim=1).sqrt())
    floor = MPPIPlanner(ActionSpace(2), **settings, min_std=[9.0, 0.0]).plan(COST, 2, noise=NORMALS).history[0].std
    assert (floor[..., 0] == 9).all() and torch.equal(floor[..., 1], updated[..., 1])
    few = MPPIPlanner(ActionSpace(2), num_elites=3, **settings).plan(COST, 2, noise=NORMALS).history[0]
    best = costs.topk(3, largest=False)
    share = torch.softmax(-best.values / temperature, dim=1)
    wanted = torch.stack([torch.einsum("k,khp->hp", share[b], NORMALS[0, b, best.indices[b]]) for b in range(2)])
    torch.testing.assert_close(few.mean, wanted)


def test_forbidden_candidates_weigh_nothing():
    def cost(actions):
        return torch.where(actions[:, :, 0, 0] < 0, torch.inf, COST(actions))

    plan = MPPIPlanner(ActionSpace(2), **SIZES).plan(cost, 2, noise=NORMALS)
    assert plan.actions.isfinite().all() and (plan.history[0].mean[:, 0, 0] > 0).all()
    with pytest.raises(ValueError, match="of 5 elites only 0 are allowed"):
        cem().plan(lambda actions: torch.full(actions.shape[:2], torch.inf), 2, noise=NORMALS)


def test_kept_elites_compete_and_are_not_asked_again():
    kept, forgotten = (Recorded(rugged) for _ in range(2))
    with_elites = cem(keep_elites=5).plan(kept, 2, noise=NORMALS)
    without = cem(keep_elites=0).plan(forgotten, 2, noise=NORMALS)
    assert [asked.shape[1] for asked in kept.candidates] == [30, 30, 30, 30, 1]
    costs = [torch.stack([entry.elite_cost_mean for entry in plan.history]) for plan in (with_elites, without)]
    assert (costs[0].diff(dim=0) <= 0).all() and not (costs[1].diff(dim=0) <= 0).all()
    union = torch.cat([rugged(kept.candidates[i]) for i in range(2)], dim=1)  # all so far, as nothing better was lost
    torch.testing.assert_close(costs[0][1], union.topk(5, largest=False).values.mean(dim=1))


def test_fewer_samples_later():
    asked = Recorded(COST)
    ICEMPlanner(ActionSpace(2), horizon=3, num_samples=100, num_elites=10, num_iterations=10).plan(
        asked, 2, generator=torch.Generator().manual_seed(0)
    )
    counts = [candidates.shape[1] for candidates in asked.candidates[:-1]]
    assert counts == [max(math.floor(100 * 1.25**-i), 20) for i in range(10)] and counts[-1] == 20


def test_the_mean_is_the_first_candidate():
    asked = Recorded(COST)
    plan = cem(include_mean=True).plan(asked, 2, noise=NORMALS)
    assert not asked.candidates[0][:, 0].any()
    for i in range(1, 4):
        torch.testing.assert_close(asked.candidates[i][:, 0], plan.history[i - 1].mean)
    assert not torch.equal(asked.candidates[0][:, 1], torch.zeros(2, 3, 2))


def test_every_axis_has_a_momentum_and_a_floor_of_its_own():
    plain = cem(num_iterations=1).plan(COST, 2, noise=NORMALS).history[0]
    settings = {"momentum": [0.0, 0.9], "std_momentum": [0.5, 0.0], "initial_mean": 0.5, "initial_std": [1.0, 2.0]}
    shifted = squared_distance(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
    unit = cem(num_iterations=1, initial_mean=0.5, initial_std=[1.0, 2.0]).plan(shifted, 2, noise=NORMALS).history[0]
    mixed = cem(num_iterations=1, **settings).plan(shifted, 2, noise=NORMALS).history[0]
    torch.testing.assert_close(mixed.mean[..., 0], unit.mean[..., 0])
    torch.testing.assert_close(mixed.mean[..., 1], 0.1 * unit.mean[..., 1] + 0.45)
    torch.testing.assert_close(mixed.std[..., 0], 0.5 * unit.std[..., 0] + 0.5)
    torch.testing.assert_close(mixed.std[..., 1], unit.std[..., 1])
    floor = cem(num_iterations=1, min_std=[0.0, 7.0]).plan(COST, 2, noise=NORMALS).history[0]
    assert (floor.std[..., 1] == 7).all() and torch.equal(floor.std[..., 0], plain.std[..., 0])


def test_the_result_is_the_mean_or_the_best():
    asked = Recorded(rugged)
    best = cem(result="best").plan(asked, 2, noise=NORMALS)
    everything = torch.cat([rugged(candidates) for candidates in asked.candidates[:-1]], dim=1)
    torch.testing.assert_close(best.cost, everything.min(dim=1).values)
    mean = cem(result="mean").plan(rugged, 2, noise=NORMALS)
    torch.testing.assert_close(mean.actions, mean.history[-1].mean)
    assert (mean.cost > best.cost).all()


def test_a_finish_changes_the_plan_and_its_cost():
    plan = cem(finish=lambda actions: actions.round()).plan(COST, 2, noise=NORMALS)
    assert torch.equal(plan.actions, plan.actions.round())
    torch.testing.assert_close(plan.cost, COST(plan.actions[:, None])[:, 0])


def test_the_mean_may_leave_the_limits_where_it_is_let():
    space = ActionSpace(2, held={0: [None, 1.0, 1.0]})
    free = cem(space=space, limit_mean=False, momentum=0.5).plan(COST, 2, noise=NORMALS)
    bound = cem(space=space, momentum=0.5).plan(COST, 2, noise=NORMALS)
    assert (bound.actions[:, 1:, 0] == 1).all()
    torch.testing.assert_close(free.actions[:, 1:, 0], torch.full((2, 2), 1 - 0.5**4))


def test_all_samples_of_random_shooting_count():
    asked = Recorded(rugged)
    planner = RandomShootingPlanner(ActionSpace(2), **SIZES)
    plan = planner.plan(asked, 2, noise=NORMALS)
    everything = torch.cat([rugged(candidates) for candidates in asked.candidates[:-1]], dim=1)
    assert everything.shape == (2, 120)
    torch.testing.assert_close(plan.cost, everything.min(dim=1).values)


@pytest.mark.parametrize(
    ("planner", "settings", "message"),
    [
        (CEMPlanner, {"num_elites": 40}, "30 samples, 40 elites"),
        (CEMPlanner, {"num_elites": 5, "keep_elites": 6}, "5 elites and 6 kept ones"),
        (CEMPlanner, {"num_elites": 1}, "a deviation takes two"),
        (CEMPlanner, {"num_elites": 5, "momentum": 1.0}, "momentum is 1.0"),
        (CEMPlanner, {"num_elites": 5, "std_momentum": [0.1, -0.1]}, "std_momentum is"),
        (CEMPlanner, {"num_elites": 5, "momentum": [0.1] * 3}, "momentum has 3 numbers"),
        (CEMPlanner, {"num_elites": 5, "sample_decay": 0.5}, "sample_decay is 0.5"),
        (CEMPlanner, {"num_elites": 5, "result": "sample"}, "result 'sample' is not one of mean, best"),
        (MPPIPlanner, {"temperature": 0.0}, "temperature is 0.0"),
        (MPPIPlanner, {"result": "median"}, "is not one of mean, best, sample"),
        (MPPIPlanner, {"horizon": 0}, "horizon is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(planner, settings, message):
    with pytest.raises(ValueError, match=message):
        planner(ActionSpace(2), **(SIZES | settings))
