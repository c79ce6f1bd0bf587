"""The objective of a level of an H-JEPA: errors of steps that count, and what keeps a learned state from collapse."""

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from hf_jepa.core.regularization import require_step
from hf_jepa.core.world_model import WorldState
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.losses.vicreg import covariance_term, variance_term
from hf_jepa.models.h_jepa.levels_h_jepa import HJepaUpperLevel


def level_errors(
    level: HJepaUpperLevel, latents: torch.Tensor, actions: torch.Tensor, counts: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Teacher-forced predictions, and the errors of these and of those from the first state.

    Args:
        level: that predicts.
        latents: (B, n + 1, *L), its states.
        actions: (B, n, d), its macro-actions.
        counts: bool (B, n), the steps that count; all unless given.

    Returns:
        (B, n, *L), and two scalars.
    """
    targets = latents[:, 1:]
    forced = level.predict(latents[:, :-1], actions)
    alone = level.unroll(WorldState(latents[:, :1]), actions.unsqueeze(1))[:, 0]
    kind = level.level.loss_type
    return forced, _error(forced, targets, kind, counts), _error(alone, targets, kind, counts)


def _error(predicted: torch.Tensor, targets: torch.Tensor, kind: str, counts: torch.Tensor | None) -> torch.Tensor:
    """Mean distance over features and steps (B, n) that count, in float32."""
    apart = (predicted - targets).float()
    each = (apart.abs() if kind == "l1" else apart.square()).flatten(2).mean(dim=-1)
    if counts is None:
        return each.mean()
    return each.masked_fill(~counts, 0.0).sum() / counts.sum()


def regularization_term(
    model: PreTrainedModel,
    level: HJepaUpperLevel,
    latents: torch.Tensor,
    counts: torch.Tensor | None,
    step: int | None,
) -> torch.Tensor:
    """The weighted regulariser of learned states: all of a batch are its samples.

    Args:
        model: that is called, see `require_step`.
        level, latents, counts: see `level_errors`.
        step: optimizer step, from which "sigreg" draws.

    Raises:
        ValueError: "sigreg" in training without a step.
    """
    rows = latents.flatten(0, 1)
    if counts is not None:
        rows = latents[nn.functional.pad(counts, (1, 0), value=True)]  # first frames are real
    if level.level.regularizer == "vc":
        term = variance_term(rows) + covariance_term(rows)
    else:
        term = sigreg(rows, require_step(model, step))
    return level.level.regularizer_weight * term


def require_frame_mask(frame_mask: torch.Tensor, shape: tuple[int, int], least: int) -> None:
    """Refuse a mask with which nothing is learnt, or one that is not True first and False then.

    Args:
        frame_mask: bool (B, T), False where a trajectory was filled up.
        shape: (B, T).
        least: frames that some trajectory must have.

    Raises:
        ValueError: another type or shape, holes, no trajectory of so many frames.
    """
    if frame_mask.dtype != torch.bool or frame_mask.shape != shape:
        raise ValueError(f"frame_mask is {frame_mask.dtype} {tuple(frame_mask.shape)}, expected bool {shape}")
    if not frame_mask[:, 0].all() or (frame_mask[:, 1:] & ~frame_mask[:, :-1]).any():
        raise ValueError("frame_mask has holes: frames are filled up at the end of a trajectory alone")
    if not frame_mask[:, least - 1].any():
        raise ValueError(f"frame_mask leaves no trajectory of {least} frames, one step of the top level")


__all__ = ["level_errors", "regularization_term", "require_frame_mask"]
