"""Agents that plan again while they act, and the loop around them."""

import numpy as np
import pytest
import torch
from toy_worlds import MOVES, PointWorld

from hf_jepa.planning import (
    ActionSpace,
    CategoricalCEMPlanner,
    CEMPlanner,
    DiscreteActionSpace,
    ICEMPlanner,
    LatentCost,
    MpcAgent,
    control_loop,
)


GOAL = torch.tensor([[4.0, 1.0], [-3.0, 2.0]])


class Points:
    """Two points in a plane, with the interface of gymnasium's vector environments; an episode ends at the goal."""

    def __init__(self, wind=0.0, limit=100):
        self.wind, self.limit = np.array([wind, 0.0], np.float32), limit

    def reset(self, *, seed=None):
        self.at = np.random.default_rng(seed).normal(0, 0.1, (2, 2)).astype(np.float32)
        self.steps = 0
        return self.at[:, :, None, None], {"at": self.at}

    def step(self, actions):
        assert isinstance(actions, np.ndarray) and actions.shape == (2, 2) and actions.dtype == np.float32
        self.at = self.at + actions + self.wind
        self.steps += 1
        there = np.linalg.norm(self.at - GOAL.numpy(), axis=1) < 0.15
        cut = np.full(2, self.steps >= self.limit)
        return self.at[:, :, None, None], np.where(there, 1.0, -0.1), there, cut & ~there, {"at": self.at}


def agent(world=None, planner=None, **settings):
    world = PointWorld() if world is None else world
    if planner is None:
        planner = CEMPlanner(ActionSpace(2, max_norm=1.0), horizon=6, num_samples=80, num_elites=8, initial_std=0.7)
    settings = {"generator": torch.Generator().manual_seed(0)} | settings
    return MpcAgent(planner, world, lambda state: LatentCost(world, state, GOAL, over="sum"), **settings)


@pytest.mark.parametrize(("every", "decisions"), [(1, 12), (3, 4), (5, 3), (6, 2)])
def test_observations_are_encoded_once_for_a_decision(every, decisions):
    world = PointWorld()
    acting, at = agent(world, replan_every=every), torch.zeros(2, 2)
    for step in range(12):
        assert world.encoded == -(-step // every)
        action = acting.act(at[:, :, None, None])
        assert torch.equal(action, acting.plan.actions[:, step % every])
        at = at + action
    assert world.encoded == acting.decisions == decisions
    assert len(world.unrolled) == decisions * (10 + 1)  # iterations, and the plan itself


def test_the_goal_is_reached_and_the_record_says_how():
    record = control_loop(Points(), agent(), num_steps=20, seed=3, keep_observations=True, progress=False)
    assert record.ended.all() and record.actions.shape == (2, record.lengths.max(), 2)
    assert len(record.observations) == len(record.infos) == record.lengths.max() + 1
    np.testing.assert_array_equal(record.observations[-1][:, :, 0, 0], record.infos[-1]["at"])
    walked = record.infos[0]["at"] + record.actions.cumsum(axis=1).swapaxes(0, 1)
    np.testing.assert_allclose(walked, np.stack([info["at"] for info in record.infos[1:]]), atol=1e-5)
    assert (np.linalg.norm(record.actions, axis=-1) <= 1.0).all()
    for row, length in enumerate(record.lengths):
        np.testing.assert_allclose(record.rewards[row, : length - 1], -0.1)
        assert record.rewards[row, length - 1] == 1.0 and not record.rewards[row, length:].any()
    np.testing.assert_allclose(record.returns, 1.0 - 0.1 * (record.lengths - 1))
    assert len(record.seconds) == record.actions.shape[1] and record.costs.shape == record.rewards.shape
    assert len(set(record.lengths)) == 2  # the nearer one was there first, and did not end the other


def test_looking_again_corrects_what_the_model_does_not_know():
    misses = []
    for every in (1, 6):
        record = control_loop(Points(wind=0.3), agent(replan_every=every), num_steps=6, progress=False)
        misses.append(np.linalg.norm(record.infos[-1]["at"] - GOAL.numpy(), axis=1).mean())
    assert misses[0] < 0.5 * misses[1]


def test_a_warm_start_is_the_rest_of_the_plan(monkeypatch):
    starts = []
    original = CEMPlanner.plan

    def plan(self, *args, initial=None, **kwargs):
        starts.append(initial)
        return original(self, *args, initial=initial, **kwargs)

    monkeypatch.setattr(CEMPlanner, "plan", plan)
    acting, at = agent(replan_every=2), torch.zeros(2, 2, 1, 1)
    acting.act(at), acting.act(at)
    before = acting.plan.actions
    acting.act(at)
    assert starts[0] is None and torch.equal(starts[1][:, :4], before[:, 2:]) and not starts[1][:, 4:].any()
    cold = agent(warm_start=False)
    cold.act(at), cold.act(at)
    assert starts[2:] == [None, None]


def test_plans_get_no_longer_than_what_is_left():
    planner = ICEMPlanner(ActionSpace(2, max_norm=1.0, repeat=2), horizon=4, num_samples=40, num_elites=4)
    world = PointWorld()
    acting = agent(world, planner, replan_every=2)
    record = control_loop(Points(wind=-2.0), acting, num_steps=7, progress=False)  # which nobody wins
    assert record.actions.shape[1] == 7 and not record.ended.any() and (record.lengths == 7).all()
    horizons = list(dict.fromkeys(shape[2] for shape in world.unrolled))
    assert horizons == [8, 6, 4, 2]
    np.testing.assert_array_equal(record.actions[:, 0], record.actions[:, 1])


def test_episodes_that_are_cut_off_have_ended_too():
    record = control_loop(Points(wind=-2.0, limit=3), agent(), num_steps=9, progress=False)
    assert record.ended.all() and (record.lengths == 3).all() and record.actions.shape[1] == 3


def test_models_see_the_frames_and_actions_that_they_want():
    seen = []

    class Remembering(PointWorld):
        def encode(self, pixel_values_videos, actions=None, states=None):
            seen.append((pixel_values_videos, actions, states))
            return super().encode(pixel_values_videos, actions, states)

    def prepare(position):
        return {"pixel_values": position[:, :, None, None], "states": 10 * position}

    acting, at, done = agent(Remembering(), context_frames=3, prepare=prepare), torch.zeros(2, 2), []
    for _ in range(5):
        done.append(acting.act(at))
        at = at + done[-1]
    assert [frames.shape[1] for frames, _, _ in seen] == [1, 2, 3, 3, 3] and seen[0][1] is None
    for index, (frames, actions, states) in enumerate(seen[1:], start=1):
        assert torch.equal(actions, torch.stack(done[max(0, index - 2) : index], dim=1))
        torch.testing.assert_close(frames.flatten(2).diff(dim=1), actions)
        torch.testing.assert_close(states, 10 * frames.flatten(2))
    acting.reset()
    acting.act(at)
    assert seen[-1][0].shape[1] == 1 and acting.decisions == 1


def test_a_batch_of_agents_is_a_loop_of_agents():
    def walk(goal, start, generator):
        world = PointWorld()
        planner = CEMPlanner(ActionSpace(2, max_norm=1.0), horizon=4, num_samples=50, num_elites=5, tolerance=0.1)
        acting = MpcAgent(planner, world, lambda state: LatentCost(world, state, goal), generator=generator)
        at, path = start, []
        for _ in range(4):
            at = at + acting.act(at[:, :, None, None])
            path.append(at)
        return torch.stack(path, dim=1)

    start = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    both = walk(GOAL, start, [torch.Generator().manual_seed(seed) for seed in (3, 4)])
    for row, seed in enumerate((3, 4)):
        alone = walk(GOAL[row : row + 1], start[row : row + 1], [torch.Generator().manual_seed(seed)])
        assert torch.equal(alone[0], both[row])


def test_environments_of_gymnasium():
    gymnasium = pytest.importorskip("gymnasium")

    class Walk(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-99, 99, (2,))
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

        def __init__(self, goal):
            self.goal = np.array(goal, np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at = self.np_random.normal(0, 0.1, 2).astype(np.float32)
            return self.at, {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.at = self.at + action
            there = bool(np.linalg.norm(self.at - self.goal) < 0.15)
            return self.at, float(there), there, False, {}

    environments = gymnasium.vector.SyncVectorEnv([lambda goal=goal: Walk(goal) for goal in GOAL.tolist()])
    box = environments.single_action_space
    planner = CEMPlanner(ActionSpace(2, low=box.low, high=box.high), horizon=5, num_samples=80, num_elites=8)

    def prepare(position):
        return {"pixel_values": torch.as_tensor(position)[:, :, None, None]}

    record = control_loop(environments, agent(planner=planner, prepare=prepare), 20, seed=1, progress=False)
    assert record.ended.all() and (record.returns == 1).all() and (record.lengths < 12).all()


def test_environments_of_numbered_actions():
    class Numbered(Points):
        def step(self, actions):
            assert actions.shape == (2,) and actions.dtype.kind == "i"
            return super().step(MOVES[actions].numpy())

        def reset(self, *, seed=None):
            super().reset(seed=seed)
            self.at = 0 * self.at
            return self.at[:, :, None, None], {}

    planner = CategoricalCEMPlanner(DiscreteActionSpace(5), horizon=5, num_samples=100, num_elites=10)
    record = control_loop(
        Numbered(),
        agent(planner=planner),
        num_steps=8,
        as_action=lambda actions: actions.argmax(dim=1).cpu().numpy(),
        progress=False,
    )
    assert record.lengths.tolist() == [5, 5] and record.ended.all()
    assert record.actions.shape == (2, 5, 5) and (record.actions.sum(axis=-1) == 1).all()


def test_settings_that_make_no_sense_are_refused():
    planner = CEMPlanner(ActionSpace(2, repeat=2), horizon=3)
    for every in (3, 8):
        with pytest.raises(ValueError, match=f"replan_every is {every}: want a multiple of 2, at most the plan's 6"):
            agent(planner=planner, replan_every=every)
    with pytest.raises(ValueError, match="context_frames is 0"):
        agent(context_frames=0)
    with pytest.raises(ValueError, match="steps_left is 0"):
        agent().act(torch.zeros(2, 2, 1, 1), steps_left=0)
    with pytest.raises(ValueError, match="num_steps is 0"):
        control_loop(Points(), agent(), num_steps=0)
