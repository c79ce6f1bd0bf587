"""Planners by the settings of official code."""

import pytest
import torch

from hf_jepa.planning import CEMPlanner, GradientPlanner, eb_jepa_planner, jepa_wms_planner, vjepa2_ac_planner


# rollout, samples, elites, iterations, momentum of mean and deviation of positions, largest step
DROID = {
    "function": (1, 100, 10, 100, 0.25, 0.95, 0.05),
    "wrapper": (2, 400, 10, 10, 0.15, 0.15, 0.05),
    "notebook": (2, 25, 10, 2, 0.15, 0.75, 0.075),
    "paper": (1, 800, 10, 10, 0.15, 0.15, 0.075),
}


@pytest.mark.parametrize("settings", DROID)
def test_settings_of_vjepa2_ac(settings):
    found = vjepa2_ac_planner(settings)
    assert DROID[settings] == (
        found.horizon,
        found.num_samples,
        found.num_elites,
        found.num_iterations,
        found.momentum[0],
        found.std_momentum[0],
        found.space.high[0],
    )
    assert found.momentum[6] == found.std_momentum[6] == 0.15 and found.initial_std[6] == 1.0
    assert found.initial_std[0] == found.space.high[0] and found.space.high[6] == 0.75


def test_a_hand_that_does_not_turn():
    asked = []

    def cost(actions):
        asked.append(actions)
        return (actions[:, :, :, 6] - 0.1).abs().sum(dim=2) + (actions[..., :3] - 0.03).abs().sum(dim=(2, 3))

    planner = vjepa2_ac_planner("wrapper", horizon=3, held={1: -0.01}, close_gripper=2, num_iterations=4)
    plan = planner.plan(cost, 1, generator=torch.Generator().manual_seed(0))
    candidates = torch.cat(asked[:-1], dim=1)
    assert candidates.shape[2:] == (3, 7) and not candidates[..., 3:6].any()
    assert (candidates[..., 1] == -0.01).all() and (candidates[:, :, 2, 6] == 1.0).all()
    assert candidates[:, :, :2, 6].abs().max() == 0.75 and candidates[..., 0].abs().max() <= 0.05
    assert not plan.actions[0, :2, 6].any()  # about 0.1: less than the gripper answers to
    assert 0.99 < plan.actions[0, 2, 6] < 1.0  # as officially, the mean only comes near
    torch.testing.assert_close(plan.cost, cost(plan.actions[:, None])[:, 0])


def test_settings_of_eb_jepa():
    cem, mppi = eb_jepa_planner("cem"), eb_jepa_planner("mppi")
    for found in (cem, mppi):
        assert (found.horizon, found.num_samples, found.num_elites, found.num_iterations) == (90, 200, 20, 20)
    assert cem.initial_std == 1.5 and cem.space.max_norm == (((0, 1), 2.45),)
    assert mppi.initial_std == 2.0 and not mppi.space.max_norm and mppi.temperature == 0.005


def test_settings_of_jepa_wms():
    found = jepa_wms_planner("cem", action_dim=10)
    assert isinstance(found, CEMPlanner) and found.include_mean and found.space.action_dim == 10
    assert (found.num_samples, found.num_elites, found.num_iterations, found.horizon) == (300, 10, 30, 6)
    assert jepa_wms_planner("cem", world="metaworld", action_dim=4).num_iterations == 15
    robocasa = jepa_wms_planner("cem", world="robocasa")
    assert robocasa.space.high == (0.05,) * 3 + (0.01,) * 3 + (1.0,) and robocasa.horizon == 3
    assert jepa_wms_planner("mppi", world="droid").space.high == (0.1,) * 6 + (0.75,)
    gradient = jepa_wms_planner("gradient", action_dim=2, optimizer="adam", betas=(0.9, 0.995))
    assert isinstance(gradient, GradientPlanner) and (gradient.learning_rate, gradient.noise_std) == (1.0, 0.003)


def test_settings_can_be_changed_and_misspelt():
    assert eb_jepa_planner("cem", horizon=5, tolerance=0.1).tolerance == 0.1
    assert vjepa2_ac_planner(max_norm=0.02).space.low[:3] == (-0.02,) * 3
    with pytest.raises(TypeError, match="num_sample"):
        jepa_wms_planner("cem", action_dim=2, num_sample=3)
    with pytest.raises(ValueError, match="settings 'nb' are not one of function, wrapper, notebook, paper"):
        vjepa2_ac_planner("nb")
    with pytest.raises(ValueError, match=r"held axes \[6\]"):
        vjepa2_ac_planner(held={6: 1.0})
    with pytest.raises(ValueError, match="cem or mppi, not with 'icem'"):
        eb_jepa_planner("icem")
    with pytest.raises(ValueError, match="'pusht' are not one of simulation"):
        jepa_wms_planner("cem", world="pusht", action_dim=2)
    with pytest.raises(ValueError, match="give action_dim"):
        jepa_wms_planner("cem")
    with pytest.raises(ValueError, match="cem, mppi or gradient, not with 'adam'"):
        jepa_wms_planner("adam", action_dim=2)
