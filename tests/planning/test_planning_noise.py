"""Random numbers of plans: records, one generator for all, one for each."""

import pytest
import torch

from hf_jepa.planning import (
    ActionSpace,
    CategoricalCEMPlanner,
    CEMPlanner,
    DiscreteActionSpace,
    RecordedNoise,
    color_noise,
)


@pytest.mark.parametrize("steps", [2, 7, 30])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_the_spectrum_it_is_named_by(steps, exponent):
    white = torch.randn(20_000, steps, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = color_noise(white, exponent)
    torch.testing.assert_close(found.var(dim=0), torch.ones(steps, 2, dtype=torch.float64), rtol=0.06, atol=0)
    power = torch.fft.rfft(found, dim=1).abs().square().mean(dim=(0, 2))
    frequency = torch.arange(1, len(power))
    expected = power[1] * frequency.double() ** -exponent
    torch.testing.assert_close(power[1:], expected, rtol=0.05, atol=0)
    assert abs(power[0] / power[1] - 1) < 0.05  # the constant part counts as the lowest frequency
    assert torch.equal(found, white) == (exponent == 0)


def test_a_record_repeats_a_plan():
    planner = CEMPlanner(ActionSpace(2), horizon=3, num_samples=20, num_elites=4, num_iterations=3)
    normals = torch.randn(3, 2, 20, 3, 2, generator=torch.Generator().manual_seed(0))
    asked = []

    def cost(actions):
        asked.append(actions)
        return (actions - 1).square().sum(dim=(2, 3))

    plan = planner.plan(cost, 2, noise=normals)
    assert torch.equal(asked[0], normals[0])
    mean, std = plan.history[0].mean, plan.history[0].std
    torch.testing.assert_close(asked[1], mean[:, None] + std[:, None] * normals[1])
    assert torch.equal(plan.actions, planner.plan(cost, 2, noise=RecordedNoise(normals)).actions)
    with pytest.raises(ValueError, match=r"recorded normals of shape \(2, .*iteration 2 needs \(2, 20, 3, 2\)"):
        planner.plan(cost, 2, noise=normals[:2])
    with pytest.raises(ValueError, match="needs \\(1, 20, 3, 2\\)"):
        planner.plan(cost, 1, noise=normals)
    with pytest.raises(ValueError, match="uniforms="):
        CategoricalCEMPlanner(DiscreteActionSpace(2), horizon=3).plan(cost, 1, noise=normals)


def test_categories_are_drawn_by_their_probabilities():
    settings = {"num_samples": 30_000, "num_elites": 3000, "num_iterations": 2, "min_probability": 0.02}
    planner = CategoricalCEMPlanner(DiscreteActionSpace(4), horizon=2, momentum=0.0, **settings)
    asked = []

    def cost(actions):  # likes action 1 first, and one of 2 and 3 then
        asked.append(actions)
        return -actions[:, :, 0, 1] - actions[:, :, 1, 2:].sum(dim=-1)

    plan = planner.plan(cost, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(asked[0].mean(dim=1), torch.full((1, 2, 4), 0.25), atol=0.01, rtol=0)
    torch.testing.assert_close(asked[1].mean(dim=1), plan.history[0].mean, atol=0.01, rtol=0)
    assert plan.history[0].mean[0, 0, 1] > 0.9 and plan.history[0].mean[0, 1, 2:].sum() > 0.9
    assert plan.history[0].mean.min() > 0.015
