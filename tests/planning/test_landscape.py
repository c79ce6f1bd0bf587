"""What first actions cost over a grid, and the pictures of it."""

import numpy as np
import pytest
import torch
from PIL import Image

import hf_jepa.visualization.planning as pictures
from hf_jepa.planning import ActionSpace, CEMPlanner, MPPIPlanner, energy_landscape
from hf_jepa.visualization.planning import draw_energy_landscape, draw_searches


GOALS = torch.tensor([[0.5, -1.0, 0.25], [-0.25, 0.5, 0.0]])


def cost(actions):
    return (actions[:, :, 0] - GOALS.to(actions)[:, None]).square().sum(dim=-1) + actions[:, :, 1:].sum(dim=(2, 3))


def test_energies_are_the_costs_of_first_actions():
    around = torch.tensor([0.125, -0.25])[:, None, None].repeat(1, 3, 3)
    before = around.clone()
    found = energy_landscape(cost, around, axes=(2, 0), extent=1.0, points=9)
    assert found.energies.shape == (2, 9, 9) and found.axes == (2, 0)
    line = torch.linspace(-1, 1, 9) + torch.tensor([[0.125], [-0.25]])
    torch.testing.assert_close(found.values, torch.stack([line, line], dim=1))
    for row, column in ((0, 0), (3, 7), (8, 2)):
        actions = around.clone()
        actions[:, 0, 2], actions[:, 0, 0] = line[:, row], line[:, column]
        torch.testing.assert_close(found.energies[:, row, column], cost(actions[:, None])[:, 0])
    assert (found.lowest() - GOALS[:, [2, 0]]).abs().max() <= 0.125 + 1e-6
    assert torch.equal(around, before)


def test_further_axes_are_averaged_over():
    around = torch.zeros(2, 1, 3)
    whole = energy_landscape(cost, around, axes=(0, 2, 1), extent=1.0, points=5)
    parts = []
    for value in torch.linspace(-1, 1, 5):
        shifted = around.clone()
        shifted[:, 0, 1] = value
        parts.append(energy_landscape(cost, shifted, axes=(0, 2), extent=1.0, points=5).energies)
    torch.testing.assert_close(whole.energies, torch.stack(parts).mean(dim=0))


@pytest.mark.parametrize("axes", [(0,), (0, 0), (0, 3), (-1, 0)])
def test_axes_that_do_not_exist_are_refused(axes):
    with pytest.raises(ValueError, match="want two or more of 0 to 2, each once"):
        energy_landscape(cost, torch.zeros(2, 1, 3), axes=axes, extent=1.0)


def places(path, color):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - color).max(axis=-1) < 12)


def test_the_picture_shows_where_the_lowest_point_and_the_marks_are(tmp_path):
    goal = torch.tensor([0.75, 0.75])
    landscape = energy_landscape(
        lambda actions: (actions[:, :, 0] - goal).square().sum(dim=-1), torch.zeros(1, 1, 2), (0, 1), 1.0
    )
    red, yellow = (209, 73, 91), (253, 231, 37)  # of the mark; of the highest cost
    where = {}
    for name, point in {"upper right": (0.9, 0.9), "lower left": (-0.9, -0.9)}.items():
        path = draw_energy_landscape(landscape, tmp_path / "landscape.png", marks={"done": [point]}, title=name)
        height = Image.open(path).size[1]
        marks = places(path, red)
        where[name] = marks[marks[:, 0] < 0.85 * height].mean(axis=0)  # without the legend
    assert where["upper right"][0] < where["lower left"][0] and where["upper right"][1] > where["lower left"][1]
    high = places(path, yellow)
    panel = high[high[:, 1] < 0.75 * Image.open(path).size[0]].mean(axis=0)  # without the bar of colours
    assert np.linalg.norm(panel - where["lower left"]) < np.linalg.norm(panel - where["upper right"])
    with pytest.raises(ValueError, match=r"marks 'done' of shape \(2, 2\): want \(1, 2\)"):
        draw_energy_landscape(landscape, tmp_path / "x.png", marks={"done": [(0, 0), (1, 1)]})
    bad = energy_landscape(lambda actions: actions[:, :, 0, 0] / 0, torch.zeros(1, 1, 2), (0, 1), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        draw_energy_landscape(bad, tmp_path / "x.png")
    assert [file.name for file in tmp_path.iterdir()] == ["landscape.png"]


def test_searches_are_drawn_until_they_stop(tmp_path, monkeypatch):
    def bowl(actions):
        costs = actions.square().sum(dim=(2, 3))
        return torch.cat([costs[:2], actions[2:, :, 0, 0].square()])  # the last one does not care, and goes on

    planners = [CEMPlanner(ActionSpace(2), horizon=2, tolerance=0.05), MPPIPlanner(ActionSpace(2), horizon=2)]
    plans = [planner.plan(bowl, 3, generator=torch.Generator().manual_seed(0)) for planner in planners]
    one = draw_searches({"CEM": plans[0]}, tmp_path / "one.png", environment=2)
    both = draw_searches(dict(zip(("CEM", "MPPI"), plans, strict=True)), tmp_path / "both.png", title="two")
    red = (209, 73, 91)
    assert len(places(both, red)) > 200 and not len(places(one, red))
    early = plans[0].iterations.argmin()
    assert plans[0].iterations[early] < plans[0].iterations[2] == len(plans[0].history)
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    draw_searches({"CEM": plans[0]}, tmp_path / "kept.png", environment=int(early))
    lines = [line for panel in figures[0].axes for line in panel.get_lines()]
    assert {len(line.get_xdata()) for line in lines} == {int(plans[0].iterations[early])}
    spread = [float(entry.elite_spread[early]) for entry in plans[0].history[: plans[0].iterations[early]]]
    np.testing.assert_allclose(lines[-1].get_ydata(), spread)
    with pytest.raises(ValueError, match="no plan"):
        draw_searches({}, tmp_path / "none.png")
