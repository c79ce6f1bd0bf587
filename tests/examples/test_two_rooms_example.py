"""`examples/two_rooms.py`: probes and agents say what is so of worlds that are known, and a short run leaves all."""

import json
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.core.world_model import WorldState
from hf_jepa.data.two_rooms_dynamics import Layouts
from hf_jepa.data.two_rooms_env import TwoRoomsVectorEnv
from hf_jepa.planning import ActionSpace, CEMPlanner


@pytest.fixture(scope="module")
def examples():
    return SimpleNamespace(**{name: import_module(name) for name in ("two_rooms", "room_agents", "room_model")})


class OpenWorld:
    """Sees where the dot is, and believes that there are no walls."""

    config = SimpleNamespace(image_size=33)
    training = False

    def encode(self, pixel_values_videos):
        dots = pixel_values_videos[:, :, 0]
        weight = (dots - dots.amin(dim=(-2, -1), keepdim=True)).flatten(2)
        line = torch.arange(33.0) * 2
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x.flatten(), y.flatten()], dim=1)
        return WorldState(weight @ places / weight.sum(-1, keepdim=True))

    def unroll(self, state, actions):
        return state.last[:, None, None] + actions.cumsum(dim=2)


def test_probes_find_what_a_world_model_knows_and_what_not(examples):
    knows = examples.room_model.Knowledge(OpenWorld(), clips=200)
    assert knows.r2 > 0.99 and knows.error < 0.5
    ahead = knows.ahead(clips=100)
    assert ahead["model"][1] < ahead["no motion"][1]
    assert ahead["model"][48] > 0.8 * ahead["no walls"][48] > 2  # it does not know of walls
    layout = knows.layout(clips=200)
    assert layout["r2"] < 0.2 and layout["wall"] > 4 and layout["door"] > 8  # nor where they are
    walls = knows.walls(rooms=50)
    assert walls["wall"] == walls["door"] == walls["door, in truth"] == 1 and walls["wall, in truth"] == 0


def test_walking_distances_go_through_the_door(examples):
    points = np.array([[[22.0, 18.0], [42.0, 28.0], [32.0, 18.0]]])
    found = examples.two_rooms.walking_distance(
        points, np.array([[42.0, 18.0]]), Layouts(np.array([32]), np.array([18]))
    )
    np.testing.assert_allclose(found, [[20.0, 10.0, 10.0]])
    layouts = Layouts(np.array([32]), np.array([48]))
    detour = examples.two_rooms.walking_distance(points, np.array([[42.0, 18.0]]), layouts)
    np.testing.assert_allclose(detour[0, :2], [2 * np.hypot(10, 30), 10.0])


def test_an_agent_that_sees_goes_straight_and_is_timed(examples):
    agents, world = examples.room_agents, OpenWorld()
    planner = CEMPlanner(ActionSpace(2, max_norm=1.8, repeat=4), horizon=1, num_samples=32, num_elites=4)
    found = agents.act(world, agents.flat(world, planner, "last"), episodes=30, steps=60, seed=0)
    rooms = TwoRoomsVectorEnv(30)
    rooms.reset(seed=0)
    assert np.array_equal(found.targets, rooms.target) and np.array_equal(found.positions[:, 0], rooms.position)
    distances = np.linalg.norm(found.positions[:, -1] - found.targets, axis=1)
    np.testing.assert_allclose(found.distances, distances)
    assert np.array_equal(found.reached, distances < 4.5) and (found.passed >= found.reached).all()
    assert 0 < found.reached.sum() < 20 and found.distances.mean() < 20  # most are stuck behind the wall
    summary = found.summary()
    assert found.decisions == 15 and found.positions.shape == (30, 61, 2)
    assert summary["low"] < summary["success"] == found.reached.mean() < summary["high"]
    assert summary["cpu_seconds_per_decision"] == pytest.approx(found.cpu_seconds / 450) and found.cpu_seconds > 0


def test_rooms_have_the_layout_that_is_asked_for(examples):
    parse = examples.two_rooms.parse
    layouts = [parse(words).layout for words in ([], ["--any-layout"], ["--layout", "30", "20"])]
    assert [tuple(each) for each in layouts] == [(32, 18), (None, None), (30, 20)]


@pytest.mark.slow
def test_the_example_leaves_its_table_models_and_pictures(examples, tmp_path, capsys):
    options = {
        "--steps": 3,
        "--predictor-steps": 3,
        "--upper-steps": 3,
        "--episodes": 8,
        "--episode-steps": 12,
        "--clips": 100,
    }
    folder = tmp_path / "out"
    words = [str(word) for pair in (options | {"--output-dir": folder}).items() for word in pair]
    examples.two_rooms.main(words)
    printed = capsys.readouterr().out
    assert "hierarchical" in printed and "rank correlation" in printed
    results = json.loads((folder / "results.json").read_text())
    assert set(results["agents"]) == {"random", "greedy", "CEM", "MPPI", "hierarchical"}
    for found in results["agents"].values():
        assert 0 <= found["low"] <= found["success"] <= found["high"] <= 1 and found["distance"] > 0
    assert (folder / "table.md").read_text().startswith("| agent")
    for name in ("paths.png", "energy.png", "training.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200 and len(picture.convert("L").getcolors()) > 20
    for name in ("greedy", "CEM", "hierarchical"):
        with Image.open(folder / f"{name}.gif") as film:
            assert film.n_frames > 3
    assert (folder / "world_model/model.safetensors").is_file() and (folder / "hierarchy/config.json").is_file()
    again = [
        *words,
        "--world-model",
        str(folder / "world_model"),
        "--episodes",
        "2",
        "--output-dir",
        str(tmp_path / "b"),
    ]
    examples.two_rooms.main(again)
    known = json.loads((tmp_path / "b/results.json").read_text())["knowledge"]
    assert known["r2"] == results["knowledge"]["r2"]
