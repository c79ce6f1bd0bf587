"""Planning by gradients: the steps are those of the optimizer that is named."""

import pytest
import torch
from toy_worlds import Recorded

from hf_jepa.planning import ActionSpace, GradientPlanner


SLOPES = torch.tensor([[3.0, -0.01], [200.0, -1.0]])  # (H, P)


def tilted(actions):
    return (actions * SLOPES).sum(dim=(2, 3))


def planner(**settings):
    return GradientPlanner(settings.pop("space", ActionSpace(2)), horizon=2, **({"num_iterations": 3} | settings))


def plan_of(cost, chosen, seed=0):
    return chosen.plan(cost, 1, generator=torch.Generator().manual_seed(seed))


def test_adam_steps_by_its_learning_rate_and_descent_by_the_slope():
    asked = Recorded(tilted)
    plan_of(asked, planner(optimizer="adam", learning_rate=0.1))
    for i, candidates in enumerate(asked.candidates[:4]):  # a constant slope: Adam's steps are all of one length
        torch.testing.assert_close(candidates[0, 0], -0.1 * i * SLOPES.sign(), rtol=1e-3, atol=1e-5)
    asked = Recorded(tilted)
    plan_of(asked, planner(optimizer="sgd", learning_rate=0.1))
    for i, candidates in enumerate(asked.candidates[:4]):
        torch.testing.assert_close(candidates[0, 0], -0.1 * i * SLOPES)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_plan_is_the_best_on_the_way_and_the_last_step_counts(optimizer):
    def bowl(actions):
        return actions.square().sum(dim=(2, 3))

    start = torch.full((1, 2, 2), 0.1)
    wild = planner(optimizer=optimizer, learning_rate=3.0, num_iterations=6)
    plan = wild.plan(bowl, 1, generator=torch.Generator().manual_seed(0), initial=start)
    assert torch.equal(plan.actions, start)  # every step led away
    best = torch.stack([entry.best_cost for entry in plan.history])
    torch.testing.assert_close(best, torch.full_like(best, 0.04))
    once = planner(optimizer="sgd", learning_rate=0.5, num_iterations=1)
    assert once.plan(bowl, 1, generator=torch.Generator().manual_seed(0), initial=start).cost == 0


def test_starts_lie_around_the_mean_and_do_not_mix():
    asked = Recorded(lambda actions: (actions * torch.tensor([1.0, 0.0])).square().sum(dim=(2, 3)))
    chosen = planner(num_samples=2000, optimizer="sgd", learning_rate=0.25, initial_mean=[2.0, -1.0], initial_std=0.5)
    plan_of(asked, chosen)
    first, second = asked.candidates[:2]
    assert torch.equal(first[0, 0], torch.tensor([[2.0, -1.0]] * 2)) and first.shape == (1, 2000, 2, 2)
    torch.testing.assert_close(first[0].std(dim=0), torch.full((2, 2), 0.5), rtol=0.05, atol=0)
    torch.testing.assert_close(second, first * torch.tensor([0.5, 1.0]))


def test_noise_is_added_after_every_step():
    asked = Recorded(lambda actions: 0 * actions.sum(dim=(2, 3)))
    plan_of(asked, planner(num_samples=3000, noise_std=[0.1, 0.0], optimizer="sgd", num_iterations=2))
    steps = [(after - before)[0] for before, after in zip(asked.candidates[:2], asked.candidates[1:3], strict=True)]
    for step in steps:
        torch.testing.assert_close(step[..., 0].std(dim=0), torch.full((2,), 0.1), rtol=0.05, atol=0)
        assert not step[..., 1].any()
    assert not torch.equal(*steps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer 'lbfgs' is not one of adam, sgd"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        planner(**settings)
