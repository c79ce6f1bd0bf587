"""Imagined frames of V-JEPA 2-AC: cached beside computed anew, by our modules and restated; poses beside SciPy."""

from collections.abc import Iterator

import numpy as np
import torch
from counting import floating_point_operations
from scipy.spatial.transform import Rotation
from timing import Row, medians
from torch import nn

from hf_jepa.core.world_model import WorldState
from hf_jepa.layers.frame_causal import FrameCausalLayer
from hf_jepa.layers.poses import compose_poses
from hf_jepa.layers.rotary import rotate
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACModel


OPERATIONS_LIMIT, TIME_LIMIT, POSES_LIMIT = 1 / 4, 1 / 3, 1 / 20
HORIZON, POSES = 8, 800
SMALL = VJepa2ACConfig(
    hidden_size=192,
    num_hidden_layers=1,  # the encoder is not asked
    num_attention_heads=3,
    crop_size=128,
    pred_hidden_size=256,
    pred_num_hidden_layers=6,
    pred_num_attention_heads=4,
)
TINY = VJepa2ACConfig(**(SMALL.to_diff_dict() | {"crop_size": 48, "pred_num_hidden_layers": 2}))


def run(quick: bool) -> Iterator[Row]:
    """Rollouts without and with a history, then poses; `quick` takes a small model and one reading."""
    config, samples, repeats = (TINY, 2, 1) if quick else (SMALL, 4, 5)
    yield from bench_rollouts(config, frames=1, horizon=HORIZON, samples=samples, repeats=repeats, judged=not quick)
    yield from bench_rollouts(config, frames=4, horizon=2, samples=samples, repeats=repeats, judged=False)
    yield bench_poses(20 if quick else POSES, repeats, judged=not quick)


def bench_rollouts(
    config: VJepa2ACConfig, frames: int, horizon: int, samples: int, repeats: int, judged: bool
) -> Iterator[Row]:
    """Equal frames first, then operations and times."""
    torch.manual_seed(0)
    model = VJepa2ACModel(config).eval()
    state, actions = situation(config, frames, samples, horizon)
    contestants = {
        "all frames anew": lambda: model.unroll(state, actions, use_cache=False),
        "restated official rollout": lambda: restated_rollout(model, state, actions),
    }

    def ours() -> torch.Tensor:
        return model.unroll(state, actions)

    tokens = config.grid_size[1] * config.grid_size[2]
    after = f" after {frames} frames" if frames > 1 else ""
    what = f"V-JEPA 2-AC, {horizon} frames imagined{after}, width {config.pred_hidden_size}, {tokens} tokens"
    with torch.no_grad():
        for beside, other in contestants.items():
            torch.testing.assert_close(ours(), other(), rtol=1e-4, atol=1e-4)
            counted = [floating_point_operations(each, model) / 1e9 for each in (ours, other)]
            yield Row(what, beside, *counted, OPERATIONS_LIMIT if judged else None, "GFLOP")
            times = medians(ours, other, repeats=repeats)
            yield Row(what, beside, *times, TIME_LIMIT if judged else None)


def situation(config: VJepa2ACConfig, frames: int, samples: int, horizon: int) -> tuple[WorldState, torch.Tensor]:
    """A state of one environment, and the actions of some samples."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(
        1, frames, config.grid_size[1] * config.grid_size[2], config.hidden_size, generator=generator
    )
    done = 0.1 * torch.randn(1, frames - 1, config.action_dim, generator=generator)
    state = WorldState(latents, done, torch.rand(1, frames, config.state_dim, generator=generator))
    return state, 0.1 * torch.randn(1, samples, horizon, config.action_dim, generator=generator)


def restated_rollout(model: VJepa2ACModel, state: WorldState, actions: torch.Tensor) -> torch.Tensor:
    """What the official code computes: at every step all frames, under a table of who sees whom; poses one by one."""
    samples, horizon = actions.shape[1:3]
    seen = state.latents.repeat(samples, 1, 1, 1)
    done = torch.cat([state.actions.repeat(samples, 1, 1), actions[0]], dim=1)
    poses, first = state.poses.repeat(samples, 1, 1), seen.shape[1]
    for step in range(horizon):
        count = seen.shape[1]
        predicted = _masked(model.predictor, seen, done[:, :count], poses)[:, -1:]
        seen = torch.cat([seen, nn.functional.layer_norm(predicted, predicted.shape[-1:])], dim=1)
        after = scipy_poses(poses[:, -1].numpy(), actions[0, :, step].numpy())
        poses = torch.cat([poses, torch.from_numpy(after).float().unsqueeze(1)], dim=1)
    return seen[None, :, first:]


def _masked(predictor: nn.Module, latents: torch.Tensor, actions: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
    """The predictor under a mask over all pairs of tokens."""
    count = latents.shape[1]
    x = predictor.embeddings(latents, actions, poses, None)
    frame = torch.arange(count).repeat_interleave(x.shape[1] // count)
    mask, rotary = frame[:, None] >= frame[None, :], predictor._rotary(0, count, x.device)
    for layer in predictor.layer:
        x = x + _attention(layer, layer.norm1(x), mask, rotary)
        x = x + layer.mlp(layer.norm2(x))
    patches = x.unflatten(1, (count, -1))[:, :, predictor.config.num_condition_tokens :]
    return predictor.proj(predictor.layernorm(patches))


def _attention(layer: FrameCausalLayer, normed: torch.Tensor, mask: torch.Tensor, rotary) -> torch.Tensor:
    attention = layer.attention
    parts = (part(normed).unflatten(-1, (-1, attention.head_dim)) for part in (attention.query, attention.key))
    query, key = (rotate(part, *rotary).transpose(1, 2) for part in parts)
    value = attention.value(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if attention.config._attn_implementation == "eager":  # whose products are counted
        scores = (query @ key.mT * attention.scaling).masked_fill(~mask, float("-inf"))
        out = scores.softmax(dim=-1) @ value
    else:
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attention.proj(out.transpose(1, 2).flatten(2))


def bench_poses(count: int, repeats: int, judged: bool) -> Row:
    """What one action makes of many poses, and the same one by one."""
    generator = torch.Generator().manual_seed(0)
    poses, actions = torch.rand(count, 7, generator=generator), 0.1 * torch.randn(count, 7, generator=generator)

    def ours() -> torch.Tensor:
        return compose_poses(poses, actions)

    def one_by_one() -> np.ndarray:
        return scipy_poses(poses.numpy(), actions.numpy())

    np.testing.assert_allclose(ours().numpy(), one_by_one(), rtol=0, atol=1e-5)
    times = medians(ours, one_by_one, repeats=repeats)
    return Row(f"poses after an action, {count} of them", "SciPy, one by one", *times, POSES_LIMIT if judged else None)


def scipy_poses(poses: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Poses (n, 7) after actions (n, 7), in a loop over samples."""
    found: list[np.ndarray] = []
    for pose, action in zip(poses, actions, strict=True):
        turns = (Rotation.from_euler("xyz", angles).as_matrix() for angles in (action[3:6], pose[3:6]))
        turned = Rotation.from_matrix(np.matmul(*turns)).as_euler("xyz")
        found.append(np.concatenate([pose[:3] + action[:3], turned, np.clip(pose[6:] + action[6:], 0, 1)]))
    return np.stack(found)
