"""Imagined frames: cached, shared and chunked rollouts are those of the book."""

import pytest
import torch

from hf_jepa.core.world_model import WorldModel, WorldState
from hf_jepa.layers.poses import compose_poses
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACModel
from hf_jepa.models.vjepa2_ac.unroll_vjepa2_ac import CameraState, row_bytes
from hf_jepa.registry import VARIANTS


CLOSE = {"rtol": 1e-5, "atol": 1e-5}
KINDS = {
    "plain": {},
    "wide": {"crop_size": [16, 32]},
    "camera": {"use_extrinsics": True, "crop_size": [32, 16]},
    "no states": {"state_dim": 0, "action_dim": 4},
    "sums": {"state_dim": 2, "action_dim": 2, "state_update": "sum"},
}


def make(**fields) -> VJepa2ACModel:
    """A small model of generic weights, so that every part of the input matters."""
    torch.manual_seed(0)
    tiny = VARIANTS["vjepa2_ac"].tiny | {"num_hidden_layers": 1, "initializer_range": 0.2}
    return VJepa2ACModel(VJepa2ACConfig(**(tiny | fields))).eval()


def situation(model: VJepa2ACModel, frames: int, environments=2, samples=3, horizon=3):
    """A state after some frames, and actions."""
    config, generator = model.config, torch.Generator().manual_seed(1)
    rows = (environments, frames)
    tokens = (config.grid_size[1] * config.grid_size[2], config.hidden_size)
    given = {"actions": 0.3 * torch.randn(environments, frames - 1, config.action_dim, generator=generator)}
    if config.state_dim:
        given["poses"] = torch.rand(*rows, config.state_dim, generator=generator)
    if config.use_extrinsics:
        given["extrinsics"] = torch.rand(*rows, config.extrinsics_dim, generator=generator)
    kind = CameraState if config.use_extrinsics else WorldState
    state = kind(torch.randn(*rows, *tokens, generator=generator), **given)
    return state, 0.3 * torch.randn(environments, samples, horizon, config.action_dim, generator=generator)


def by_the_book(model: VJepa2ACModel, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
    """Sample after sample, step after step, everything anew, as in the official code."""
    config, rows = model.config, []
    for row, candidates in enumerate(actions):
        own = state[row : row + 1]
        for candidate in candidates:
            latents, poses, done = own.latents, own.poses, torch.cat([own.actions, candidate[None, :1]], dim=1)
            cameras = getattr(own, "extrinsics", None)
            for step in range(len(candidate)):
                normed = model.predictor(latents, done, poses, cameras).last_hidden_state[:, -1:]
                latents = torch.cat([latents, torch.nn.functional.layer_norm(normed, normed.shape[-1:])], dim=1)
                if step + 1 == len(candidate):
                    break
                done = torch.cat([done, candidate[None, step + 1 : step + 2]], dim=1)
                if poses is not None:
                    add = compose_poses if config.state_update == "pose" else torch.add
                    poses = torch.cat([poses, add(poses[:, -1:], candidate[None, step : step + 1])], dim=1)
                if cameras is not None:
                    cameras = torch.cat([cameras, cameras[:, -1:]], dim=1)
            rows.append(latents[0, own.latents.shape[1] :])
    return torch.stack(rows).unflatten(0, actions.shape[:2])


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_rollouts_are_those_of_the_book(kind, frames):
    model = make(**KINDS[kind])
    state, actions = situation(model, frames)
    expected = by_the_book(model, state, actions)
    assert expected.std() > 0.5  # normalised frames that are not all alike
    for use_cache in (None, True, False):
        torch.testing.assert_close(model.unroll(state, actions, use_cache=use_cache), expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_chunks_change_nothing(use_cache):
    model = make()
    state, actions = situation(model, frames=2, environments=3, samples=5, horizon=2)
    whole, calls = model.unroll(state, actions, use_cache=use_cache), []
    model.predictor.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    row = row_bytes(model.config, frames=3, horizon=2, cached=use_cache, bytes_per_value=4)
    for rows, most in ((0, 1), (4, 4), (9, 5), (10, 10), (1000, 15)):
        calls.clear()
        found = model.unroll(state, actions, use_cache=use_cache, memory_budget=rows * row)
        torch.testing.assert_close(found, whole, **CLOSE)
        assert max(calls) == most


@torch.no_grad()
def test_the_history_is_computed_once_and_then_only_the_newest_frame():
    model, shapes = make(), []
    state, actions = situation(model, frames=4, environments=1, samples=8, horizon=3)
    model.predictor.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[:2])))
    model.unroll(state, actions)
    assert shapes == [(1, 3), (8, 1), (8, 1), (8, 1)]
    shapes.clear()
    model.unroll(state, actions, use_cache=False)
    assert shapes == [(8, 4), (8, 5), (8, 6)]


def test_gradients_of_cached_rollouts_are_those_of_the_book():
    model = make()
    state, actions = situation(model, frames=3, environments=1, samples=2, horizon=3)
    found = []
    for unroll in (model.unroll, lambda *args: by_the_book(model, *args)):
        model.zero_grad()
        wanted = actions.clone().requires_grad_()
        latents = state.latents.clone().requires_grad_()
        imagined = unroll(WorldState(latents, state.actions, state.poses), wanted)
        (imagined[:, :, -1] - 1).abs().mean(dim=(2, 3)).sum().backward()
        weight = model.predictor.layer[0].attention.key.weight.grad.clone()
        found.append((imagined.detach(), wanted.grad, latents.grad, weight))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert found[0][1].abs().sum() > 0


@torch.no_grad()
def test_a_window_of_frames_moves_and_counts_anew():
    model, whole = make(context_frames=2), make()
    state, actions = situation(model, frames=3, environments=1, samples=2, horizon=2)
    found = model.unroll(state, actions)
    assert not torch.allclose(found, whole.unroll(state, actions), atol=1e-3)
    recent = WorldState(state.latents[:, 1:], state.actions[:, 1:], state.poses[:, 1:])
    first = whole.unroll(recent, actions[:, :, :1])
    torch.testing.assert_close(found[:, :, :1], first, **CLOSE)
    for sample in range(2):
        after = compose_poses(state.poses[:, -1], actions[:, sample, 0])
        latents = torch.cat([state.latents[:, -1:], first[:, sample]], dim=1)
        poses = torch.stack([state.poses[:, -1], after], dim=1)
        second = whole.unroll(WorldState(latents, actions[:, sample, :1], poses), actions[:, sample : sample + 1, 1:])
        torch.testing.assert_close(found[:, sample : sample + 1, 1:], second, **CLOSE)
    with pytest.raises(ValueError, match="context_frames 2 moves over 4 frames.*use_cache=False"):
        model.unroll(state, actions, use_cache=True)
    wide = make(context_frames=4)
    torch.testing.assert_close(wide.unroll(state, actions, use_cache=True), whole.unroll(state, actions))


@torch.no_grad()
def test_without_causality_nothing_is_kept():
    model = make(is_frame_causal=False)
    state, actions = situation(model, frames=2)
    torch.testing.assert_close(model.unroll(state, actions), by_the_book(model, state, actions), **CLOSE)
    assert not torch.allclose(model.unroll(state, actions), make().unroll(state, actions), atol=1e-3)
    with pytest.raises(ValueError, match="is_frame_causal=False.*use_cache=False"):
        model.unroll(state, actions, use_cache=True)


@torch.no_grad()
def test_encoding_and_going_on():
    model = make(use_extrinsics=True)
    assert isinstance(model, WorldModel)
    frames = torch.randn(2, 3, 3, 32, 32)
    actions, states, cameras = torch.randn(2, 2, 7), torch.rand(2, 3, 7), torch.rand(2, 3, 6)
    state = model.encode(frames, actions, states, cameras)
    assert state.latents.shape == (2, 3, 16, 32) and state[:1].extrinsics.shape == (1, 3, 6)
    alone = model.encode(frames[:, 2:])  # a goal needs nothing more
    assert torch.equal(alone.last, state.last) and alone.actions is None
    out = model(frames, actions, states, cameras)
    assert torch.equal(out.last_hidden_state, state.latents) and out.predictions.shape == (2, 2, 16, 32)
    first = model.encode(frames[:, :2], actions[:, :1], states[:, :2], cameras[:, :2])
    imagined = model.unroll(first, actions[:, None, 1:])
    torch.testing.assert_close(imagined[:, 0, 0], out.predictions[:, 1], **CLOSE)


def test_what_is_missing_or_wrong_is_named():
    model = make()
    state, actions = situation(model, frames=2)
    bare = WorldState(state.latents, state.actions)
    for wrong, message in (
        ((bare, actions), r"no states.*encode\(\.\.\., states=\.\.\.\)"),
        ((WorldState(state.latents, poses=state.poses), actions), "2 frames but not what was done"),
        ((state, actions[..., :4]), r"shape \(2, 3, 3, 4\) are not \(2, S, H, 7\)"),
        ((state, actions[0]), "are not"),
        ((state, actions[:1]), r"\(2, S, H, 7\)"),
        ((state, actions[:, :, :0]), "are not"),
        ((WorldState(state.latents[:, :, :9], state.actions, state.poses), actions), "crop_size 32 has 4 x 4 tokens"),
        ((WorldState(state.latents.mean(2), state.actions, state.poses), actions), r"not \(B, F, N, D\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.unroll(*wrong)
    camera, _ = situation(make(use_extrinsics=True), frames=2)
    with pytest.raises(ValueError, match=r"no extrinsics.*extrinsics=\.\.\."):
        make(use_extrinsics=True).unroll(WorldState(camera.latents, camera.actions, camera.poses), actions)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3, 16, 32\), expected \(B, T, 3, 32, 32\)"):
        model.encode(torch.zeros(1, 2, 3, 16, 32))
    with pytest.raises(TypeError, match="of type list"):
        model.encode([1])
    with pytest.raises(ValueError, match="nothing of them can be kept"):
        make(is_frame_causal=False).predictor(state.latents, torch.zeros(2, 2, 7), state.poses, use_cache=True)
