"""Costs of plans by the latents that a world model predicts."""

import pytest
import torch
from torch import nn
from toy_worlds import PointWorld

from hf_jepa.core.world_model import WorldModel, WorldState
from hf_jepa.planning import ActionSpace, CEMPlanner, LatentCost, WeightedCost, encode_goal


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TokenWorld(nn.Module):
    """Latents (N, D) = (3, 4), moved by a linear map of the actions."""

    def __init__(self):
        super().__init__()
        self.move = nn.Linear(2, 12)
        self.chunks = []

    def encode(self, pixel_values_videos):
        return WorldState(pixel_values_videos.flatten(2).unflatten(2, (3, 4)))

    def unroll(self, state, actions):
        self.chunks.append(actions.shape[1])
        return state.last[:, None, None] + self.move(actions).cumsum(dim=2).unflatten(-1, (3, 4))


@pytest.fixture
def world():
    torch.manual_seed(0)
    return TokenWorld().eval()


STATE = WorldState(drawn(2, 1, 3, 4))
GOAL, ACTIONS = drawn(2, 3, 4, seed=1), drawn(2, 7, 5, 2, seed=2)
DEFINITIONS = {
    "l1": lambda a, b: (a - b).abs().mean(),
    "mse": lambda a, b: (a - b).pow(2).mean(),
    "cosine": lambda a, b: torch.stack(
        [1 - (x @ y) / (x.norm() * y.norm()) for x, y in zip(a, b, strict=True)]
    ).mean(),
}


@pytest.mark.parametrize("distance", DEFINITIONS)
@pytest.mark.parametrize("over", ["last", "sum"])
def test_distances_are_what_they_are_called(world, distance, over):
    with torch.no_grad():
        found = LatentCost(world, STATE, GOAL, distance=distance, over=over)(ACTIONS)
        latents = world.unroll(STATE, ACTIONS)
    measure = DEFINITIONS[distance]
    for b in range(2):
        for s in range(7):
            steps = [measure(latents[b, s, h], GOAL[b]) for h in range(5)]
            torch.testing.assert_close(found[b, s], steps[-1] if over == "last" else sum(steps))


def test_vectors_have_a_cosine_too():
    start, goal = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.0, 2.0]])
    cost = LatentCost(PointWorld(), WorldState(start), goal, distance="cosine")
    torch.testing.assert_close(cost(torch.tensor([[[[0.0, 0.0]], [[-1.0, 1.0]]]])), torch.tensor([[1.0, 0.0]]))


@torch.no_grad()
def test_the_start_counts_where_it_is_asked_for(world):
    without, within = (LatentCost(world, STATE, GOAL, over="sum", include_start=start) for start in (False, True))
    start = (STATE.last - GOAL).abs().mean(dim=(1, 2))
    torch.testing.assert_close(within(ACTIONS), without(ACTIONS) + start[:, None])


@torch.no_grad()
def test_a_path_has_a_goal_for_every_step(world):
    path = drawn(2, 5, 3, 4, seed=3)
    latents = world.unroll(STATE, ACTIONS)
    found = LatentCost(world, STATE, path, over="sum")(ACTIONS)
    torch.testing.assert_close(found, (latents - path[:, None]).abs().mean(dim=(3, 4)).sum(dim=2))
    last = LatentCost(world, STATE, path, over="last")(ACTIONS)
    torch.testing.assert_close(last, LatentCost(world, STATE, path[:, -1])(ACTIONS))
    with pytest.raises(ValueError, match="path of 5 steps, and the plan has 3"):
        LatentCost(world, STATE, path)(ACTIONS[:, :, :3])


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "calls"), [(None, [7]), (7, [7]), (3, [3, 3, 1]), (1, [1] * 7), (100, [7])])
def test_chunks_do_not_change_costs(world, chunk, calls):
    whole = LatentCost(world, STATE, GOAL)(ACTIONS)
    world.chunks.clear()
    torch.testing.assert_close(LatentCost(world, STATE, GOAL, sample_chunk=chunk)(ACTIONS), whole)
    assert world.chunks == calls


@torch.no_grad()
def test_a_distance_of_ones_own(world):
    def largest(predicted, goal):
        assert predicted.shape == (2, 7, 1, 3, 4)
        return (predicted - goal).abs().amax(dim=(3, 4))

    found = LatentCost(world, STATE, GOAL, distance=largest)(ACTIONS)
    torch.testing.assert_close(found, (world.unroll(STATE, ACTIONS)[:, :, -1] - GOAL[:, None]).abs().amax(dim=(2, 3)))


def test_costs_can_be_differentiated_and_goals_are_not(world):
    actions = ACTIONS.clone().requires_grad_()
    LatentCost(world, STATE, GOAL)(actions).sum().backward()
    assert actions.grad.abs().sum() > 0
    assert not encode_goal(world, torch.ones(2, 1, 12, requires_grad=True)).requires_grad
    assert isinstance(PointWorld(), WorldModel)


@torch.no_grad()
def test_weights_add_costs_up(world):
    near, effort = LatentCost(world, STATE, GOAL), lambda actions: actions.abs().mean(dim=(2, 3))
    total = WeightedCost([(2.0, near), (0.5, effort)])
    torch.testing.assert_close(total(ACTIONS), 2 * near(ACTIONS) + 0.5 * effort(ACTIONS))
    plan = CEMPlanner(ActionSpace(2), horizon=2).plan(total, generator=torch.Generator().manual_seed(0))
    assert plan.cost.shape == (2,)  # the terms know how many environments there are
    lazy = WeightedCost([(2.0, near), (50.0, effort)])
    calm = CEMPlanner(ActionSpace(2), horizon=2).plan(lazy, generator=torch.Generator().manual_seed(0))
    assert calm.actions.abs().mean() < 0.2 * plan.actions.abs().mean()
    with pytest.raises(ValueError, match=r"different numbers of environments: \[1, 2\]"):
        WeightedCost([(1.0, near), (1.0, LatentCost(world, STATE[:1], GOAL[:1]))])
    with pytest.raises(ValueError, match="at least one term"):
        WeightedCost([])


@torch.no_grad()
def test_the_first_step_that_is_not_finite_is_named(world):
    class Bursting(PointWorld):
        def unroll(self, state, actions):
            latents = super().unroll(state, actions)
            latents[1, 2, 3:] = torch.inf
            return latents

    cost = LatentCost(Bursting(), WorldState(torch.zeros(2, 1, 2)), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"predictions of step 3 and on are not finite, in the environments \[1\]"):
        cost(ACTIONS)
    with pytest.raises(ValueError, match="check the goal"):
        LatentCost(world, STATE, torch.full_like(GOAL, torch.nan))(ACTIONS)


@torch.no_grad()
def test_latents_decide_the_precision(world):
    half = world.bfloat16()
    cost = LatentCost(half, STATE.to(torch.bfloat16), GOAL)
    assert cost(ACTIONS).dtype == torch.bfloat16
    planner = CEMPlanner(ActionSpace(2), horizon=2, num_samples=40, num_elites=5)
    plan = planner.plan(cost, generator=torch.Generator().manual_seed(0))
    assert plan.actions.dtype == torch.float32


def test_what_does_not_fit_is_refused(world):
    with pytest.raises(ValueError, match="call eval()"):
        LatentCost(world.train(), STATE, GOAL)
    world.eval()
    with pytest.raises(ValueError, match="distance 'l2' is not one of l1, mse, cosine"):
        LatentCost(world, STATE, GOAL, distance="l2")
    with pytest.raises(ValueError, match="over 'mean' is not one of last, sum"):
        LatentCost(world, STATE, GOAL, over="mean")
    for goal in (GOAL[:1], GOAL[0], GOAL[..., :2], GOAL[:, None, None]):
        with pytest.raises(ValueError, match="goal of shape"):
            LatentCost(world, STATE, goal)
    with pytest.raises(ValueError, match="include_start"):
        LatentCost(world, STATE, GOAL, include_start=True)
    with pytest.raises(ValueError, match="sample_chunk is 0"):
        LatentCost(world, STATE, GOAL, sample_chunk=0)
