"""What many sequences of actions lead to: the rollouts of planning, cached, in pieces that fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hf_jepa.core.world_model import WorldState, for_candidates, require_candidates
from hf_jepa.layers.frame_causal import FrameCache
from hf_jepa.layers.poses import compose_poses
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.predictor_vjepa2_ac import VJepa2ACPredictor


MEMORY_BUDGET = 2 * 2**30  # bytes


@dataclass(frozen=True)
class CameraState(WorldState):
    """A `WorldState` of a model that is told where its camera is.

    Args:
        extrinsics: (B, F, E), of each frame. Imagined frames are seen from where the newest one is.

    Example:
        >>> state = CameraState(torch.zeros(2, 1, 16, 32), poses=torch.zeros(2, 1, 7), extrinsics=torch.zeros(2, 1, 6))
        >>> state[:1].extrinsics.shape
        torch.Size([1, 1, 6])
    """

    extrinsics: torch.Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What the predictor is told of one kind.

    Args:
        history: (B, F - 1, n), of the frames before the newest.
        future: (B, S, H, n), of the newest and the imagined ones that something is done in.
    """

    history: torch.Tensor
    future: torch.Tensor

    def of(self, environments: slice, samples: slice) -> "Condition":
        """Of some environments and some of their samples."""
        return Condition(self.history[environments], self.future[environments, samples])

    def whole(self) -> torch.Tensor:
        """(B * S, F - 1 + H, n)"""
        shared = self.history.unsqueeze(1).expand(-1, self.future.shape[1], -1, -1)
        return torch.cat([shared.to(self.future.dtype), self.future], dim=2).flatten(0, 1)


def unroll(
    predictor: VJepa2ACPredictor,
    state: WorldState,
    actions: torch.Tensor,
    use_cache: bool | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> torch.Tensor:
    """`VJepa2ACModel.unroll`, which documents it."""
    config = predictor.config
    conditions = _conditions(config, state, actions)
    environments, samples, horizon = actions.shape[:3]
    frames = state.latents.shape[1] - 1 + horizon
    cached = _uses_cache(config, frames, use_cache)
    rows = max(1, memory_budget // row_bytes(config, frames, horizon, cached, state.latents.element_size()))
    step = min(samples, rows)
    window, parts = None if cached else config.context_frames, []
    for part in _slices(environments, max(1, rows // step)):
        latents, past, chunks = state.latents[part], None, []
        if cached:
            past = _history(predictor, latents, [kind and kind.of(part, slice(0, 0)) for kind in conditions])
            latents = latents[:, -1:]
        for own in _slices(samples, step):
            kinds = [kind and kind.of(part, own) for kind in conditions]
            count = kinds[0].future.shape[1]
            told = [kind and (kind.future.flatten(0, 1) if cached else kind.whole()) for kind in kinds]
            frames_ahead = predictor.rollout(for_candidates(latents, count), *told, past=past, context_frames=window)
            chunks.append(frames_ahead.unflatten(0, (-1, count)))
        parts.append(torch.cat(chunks, dim=1))
    return torch.cat(parts)


def _conditions(config: VJepa2ACConfig, state: WorldState, actions: torch.Tensor) -> list[Condition | None]:
    """Actions, states and extrinsics of all frames; None for what the model is not told."""
    if state.latents.ndim != 4:
        raise ValueError(f"latents of shape {tuple(state.latents.shape)} are not (B, F, N, D), tokens of frames")
    require_candidates(actions, state, config.action_dim)
    done, frames = state.actions, state.latents.shape[1]
    if done is None and frames > 1:
        raise ValueError(
            f"the state has {frames} frames but not what was done between them: give encode(..., actions=...)"
        )
    conditions = [Condition(actions[:, 0, :0] if done is None else done, actions), None, None]
    for place, name, needed, told in (
        (1, "states", config.state_dim > 0, state.poses),
        (2, "extrinsics", config.use_extrinsics, getattr(state, "extrinsics", None)),
    ):
        if not needed:
            continue
        if told is None:
            raise ValueError(f"the state has no {name}, which this model is told: give encode(..., {name}=...)")
        now = told[:, -1:].unsqueeze(1).expand(-1, actions.shape[1], -1, -1)
        future = (
            _imagined_states(config, now, actions) if name == "states" else now.expand(-1, -1, actions.shape[2], -1)
        )
        conditions[place] = Condition(told[:, :-1], future)
    return conditions


def _imagined_states(config: VJepa2ACConfig, now: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """(B, S, 1, P) and (B, S, H, A) -> (B, S, H, P): the states in which the actions are done."""
    states = [now.squeeze(2)]
    for step in range(actions.shape[2] - 1):
        action = actions[:, :, step]
        states.append(compose_poses(states[-1], action) if config.state_update == "pose" else states[-1] + action)
    return torch.stack(states, dim=2)


def _history(predictor: VJepa2ACPredictor, latents: torch.Tensor, conditions: list[Condition | None]) -> FrameCache:
    """What the predictor keeps of all frames but the newest, whose tokens see what is done in it."""
    if latents.shape[1] == 1:
        return FrameCache()
    told = (kind and kind.history for kind in conditions)
    return predictor(latents[:, :-1], *told, use_cache=True).cache


def _uses_cache(config: VJepa2ACConfig, frames: int, use_cache: bool | None) -> bool:
    """Whether past frames are kept, of so many that the last step sees."""
    moves = config.context_frames is not None and config.context_frames < frames
    if use_cache and (moves or not config.is_frame_causal):
        reason = f"a window of context_frames {config.context_frames} moves over {frames} frames"
        reason = reason if config.is_frame_causal else "with is_frame_causal=False frames see later ones"
        raise ValueError(f"{reason}, so that what is kept of a frame would not be right: pass use_cache=False")
    return config.is_frame_causal and not moves if use_cache is None else use_cache


def row_bytes(config: VJepa2ACConfig, frames: int, horizon: int, cached: bool, bytes_per_value: int) -> int:
    """What a sample needs, about: keys and values kept and at hand, the activations of a layer, imagined frames.

    Args:
        config: of the model.
        frames: that the last step sees.
        horizon: steps.
        cached: whether keys and values of past frames are kept.
        bytes_per_value: of a number.
    """
    width, patches = config.pred_hidden_size, config.grid_size[1] * config.grid_size[2]
    tokens = patches + config.num_condition_tokens
    activations = 6 * width + 2 * config.mlp_width(width, config.pred_mlp_ratio)
    values = tokens * (activations * (1 if cached else frames) + 2 * width * frames)
    if cached:
        values += 2 * tokens * width * config.pred_num_hidden_layers * (horizon - 1)
    return bytes_per_value * (values + horizon * patches * config.hidden_size)


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


__all__ = ["MEMORY_BUDGET", "CameraState", "row_bytes", "unroll"]
