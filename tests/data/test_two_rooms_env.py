"""The environments of two rooms: those of gymnasium, a batch that equals single rooms, episodes that can fail."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from hf_jepa.data.two_rooms_env import REACHED, TwoRoomsEnv, TwoRoomsVectorEnv


def test_the_single_environment_passes_the_checks_of_gymnasium():
    with warnings.catch_warnings(record=True) as said:
        check_env(gymnasium.make("hf_jepa/TwoRooms-v0", render_mode="rgb_array", max_steps=5).unwrapped)
    others = [str(each.message) for each in said if "symmetric and normalized space" not in str(each.message)]
    assert not others  # actions are in pixels, not in [-1, 1]


def test_the_batch_is_what_gymnasium_makes_of_single_rooms():
    """Observations, rewards, ends of episodes and their new starts, over more than two episodes."""
    ours = gymnasium.make_vec("hf_jepa/TwoRooms-v0", num_envs=3, max_steps=4)
    assert isinstance(ours.unwrapped, TwoRoomsVectorEnv)
    theirs = gymnasium.vector.SyncVectorEnv([lambda: TwoRoomsEnv(max_steps=4)] * 3)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    rng = np.random.default_rng(0)
    found, info = ours.reset(seed=5)
    wanted, known = theirs.reset(seed=5)
    assert np.array_equal(found, wanted) and ours.observation_space.contains(found)
    ends = 0
    for _ in range(12):
        actions = rng.uniform(-2.4, 2.4, (3, 2)).astype(np.float32)
        (found, *rest, info), (wanted, *others, known) = ours.step(actions), theirs.step(actions)
        assert np.array_equal(found, wanted)
        for mine, other in zip(rest, others, strict=True):
            assert np.array_equal(mine, other) and mine.shape == (3,)
        for name in ("position", "target", "distance", "success", "wall_x"):
            np.testing.assert_allclose(info[name].astype(float), known[name].astype(float), rtol=0, atol=1e-12)
        ends += rest[2].sum()
    assert ends == 6  # two episodes in each room were over


def test_start_and_target_are_in_opposite_rooms_away_from_walls():
    rooms = TwoRoomsVectorEnv(500)
    _, info = rooms.reset(seed=0)
    side = {name: np.sign(info[name][:, 0] - info["wall_x"]) for name in ("position", "target")}
    assert (side["position"] == -side["target"]).all() and 0.4 < (side["position"] > 0).mean() < 0.6
    for name in ("position", "target"):
        assert (np.abs(info[name][:, 0] - info["wall_x"]) >= 3.6 - 1e-9).all()
        assert info[name].min() >= 6.6 and info[name].max() <= 57.4
        assert info[name].min() < 7.5 and info[name].max() > 56.5
    assert len(set(info["wall_x"])) > 20 and not info["success"].any()
    np.testing.assert_allclose(info["distance"], np.linalg.norm(info["position"] - info["target"], axis=1))


def test_who_knows_the_door_arrives_and_who_does_not_fails():
    def run(steer):
        rooms = TwoRoomsVectorEnv(40, max_steps=140)
        _, info = rooms.reset(seed=1)
        for _ in range(140):
            aim = steer(info) - info["position"]
            length = np.linalg.norm(aim, axis=1, keepdims=True)
            _, reward, _, truncated, info = rooms.step(aim / np.maximum(length, 1e-9) * np.minimum(length, 1.8))
        assert truncated.all() and np.array_equal(reward, info["success"])
        assert np.array_equal(info["success"], info["distance"] < REACHED)
        return info["success"].mean()

    def by_the_door(info):
        before = np.stack([info["wall_x"] - 4 * np.sign(info["target"][:, 0] - info["wall_x"]), info["door_y"]], 1)
        crossed = (info["position"] - before)[:, 0] * np.sign(info["target"][:, 0] - info["wall_x"]) >= -0.5
        at_door = crossed & (np.abs(info["position"][:, 1] - info["door_y"]) < 3)
        there = np.sign(info["position"][:, 0] - info["wall_x"]) == np.sign(info["target"][:, 0] - info["wall_x"])
        beyond = np.stack([info["wall_x"] + 4 * np.sign(info["target"][:, 0] - info["wall_x"]), info["door_y"]], 1)
        far = np.abs(info["position"][:, 0] - info["wall_x"]) > 3
        return np.where((there & far)[:, None], info["target"], np.where((at_door | there)[:, None], beyond, before))

    assert run(by_the_door) > 0.95
    assert 0.1 < run(lambda info: info["target"]) < 0.7  # some slide along the wall until they come to the door


def test_seeds_name_rooms():
    rooms, other = TwoRoomsVectorEnv(3), TwoRoomsVectorEnv(2)
    first = rooms.reset(seed=10)[1]["position"].copy()
    assert np.array_equal(rooms.reset(seed=10)[1]["position"], first)
    assert not np.array_equal(rooms.reset()[1]["position"], first)  # goes on
    assert np.array_equal(other.reset(seed=[12, 11])[1]["position"], first[[2, 1]])
    with pytest.raises(ValueError, match="3 seeds for 2 rooms"):
        other.reset(seed=[1, 2, 3])


def test_pictures_show_walls_dot_and_target():
    rooms = TwoRoomsVectorEnv(2, wall_x=32, door_y=18, render_mode="rgb_array")
    _, info = rooms.reset(seed=0)
    pictures = rooms.render()
    assert len(pictures) == 2 and pictures[0].shape == (65, 65, 3)
    assert (pictures[0][40, 32] == 60).all() and (pictures[0][18, 32] == 255).all()
    for name, channel in (("position", 2), ("target", 1)):
        x, y = info[name][0].round().astype(int)
        colour = pictures[0][y, x].astype(int)
        assert colour.argmax() == channel and colour.max() - colour.min() > 60
    assert TwoRoomsVectorEnv(1).render() is None
    goals = rooms.target_observation()
    assert (rooms.position == info["position"]).all() and goals.dtype == np.uint8
    x, y = info["target"][1].round().astype(int)
    assert goals[1, 0, y, x] > 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_envs": 0}, "num_envs=0"), ({"max_steps": 0}, "max_steps=0"), ({"render_mode": "human"}, "'human'")],
)
def test_wrong_settings_of_rooms_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TwoRoomsVectorEnv(**settings)


def test_wrong_actions_are_named():
    rooms = TwoRoomsVectorEnv(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        rooms.step(np.zeros((2, 2)))
    rooms.reset(seed=0)
    with pytest.raises(ValueError, match=r"finite and \(2, 2\)"):
        rooms.step(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="nan"):
        rooms.step(np.array([[0.0, np.nan], [0.0, 0.0]]))
