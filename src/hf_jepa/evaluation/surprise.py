"""Surprise: how far what happens in a clip is from what the model predicted of it, frame by frame."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import l1_loss

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.losses.prediction import normalize_targets


class SurpriseCurves(NamedTuple):
    """Prediction errors over time.

    Args:
        error: float32 (B, F), of every clip the mean error of every predicted group of `tubelet_size` frames.
        tokens: float32 (B, F, H, W), the errors that these are the means of: where in the frames it was.
        frame: LongTensor (F,), the first frame of each group, counted from 0.
    """

    error: torch.Tensor
    tokens: torch.Tensor
    frame: torch.Tensor


@torch.no_grad()
def surprise_curves(
    model: nn.Module,
    pixel_values_videos: torch.Tensor,
    *,
    max_context: int | None = None,
    mask_index: int = 0,
    batch_size: int = 32,
) -> SurpriseCurves:
    """Predict every next group of frames of clips from the frames before it, and measure the error.

    The protocol is causal, nothing of later frames enters. With P frames per token and t = 1, 2, ... it
    1. encodes the frames before P t, all or the last `max_context`, with the target encoder,
    2. lets the predictor fill in all tokens of the frames P t ... P t + P - 1, which lie beyond the encoded clip,
    3. encodes the same frames together with those, and normalises the tokens as the targets of pretraining are,
    4. takes the mean absolute difference.

    The idea is that of Garrido et al. (2502.11831), here for the next frames alone. What a frame costs depends on the
    scene and on how much context there is: compare with clips in which nothing odd happens.

    Args:
        model: a `VJepa2Model` (`model.base_model` of a pretraining model). It runs as it is: call `eval()` before.
        pixel_values_videos: (B, T, C, H, W), T at least two groups of frames.
        max_context: frames that the prediction may rest on at most, a multiple of P; pretraining never showed the
            predictor more than a clip.
        mask_index: the learnt mask token: 0 for models pretrained here on clips of one length, 1 for released ones.
        batch_size: clips at a time.

    Returns:
        `SurpriseCurves` on the CPU, F = T / P - 1.

    Raises:
        TypeError: a model without a predictor.
        ValueError: clips that do not divide into groups of frames or have only one, an unusable `max_context`.

    Example:
        >>> import torch
        >>> from hf_jepa import VJepa2Config, VJepa2Model
        >>> model = VJepa2Model(VJepa2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, crop_size=32,
        ...     patch_size=8, frames_per_clip=8, pred_hidden_size=24, pred_num_attention_heads=2,
        ...     pred_num_hidden_layers=1)).eval()
        >>> curves = surprise_curves(model, torch.randn(2, 8, 3, 32, 32))
        >>> curves.error.shape, curves.tokens.shape, curves.frame.tolist()
        (torch.Size([2, 3]), torch.Size([2, 3, 4, 4]), [2, 4, 6])
    """
    if not hasattr(model, "predictor") or not hasattr(model, "encoder"):
        raise TypeError(
            f"{type(model).__name__} has no encoder and predictor: pass a VJepa2Model, of a pretraining model its "
            "`base_model`"
        )
    check_count(batch_size, "batch_size")
    group, frames = model.config.tubelet_size, pixel_values_videos.shape[1]
    if pixel_values_videos.ndim != 5 or frames % group or frames < 2 * group:
        raise ValueError(
            f"clips of shape {tuple(pixel_values_videos.shape)}: expected (B, T, C, H, W) with T a multiple of "
            f"{group} and at least {2 * group} frames"
        )
    max_context = frames if max_context is None else max_context
    if max_context < group or max_context % group:
        raise ValueError(f"max_context is {max_context}: it must be a positive multiple of {group} frames")
    starts = range(group, frames, group)
    tokens = torch.cat(
        [
            torch.stack([_errors(model, clips, start, max_context, mask_index) for start in starts], dim=1)
            for clips in pixel_values_videos.split(batch_size)
        ]
    )
    return SurpriseCurves(tokens.mean(dim=(2, 3)), tokens, torch.tensor(starts))


def _errors(model: nn.Module, clips: torch.Tensor, start: int, max_context: int, mask_index: int) -> torch.Tensor:
    """Error of each token (B, H, W) of the group of frames at `start`, from those before it."""
    clips = clips[:, max(0, start - max_context) : start + model.config.tubelet_size]
    frames, rows, columns = model.token_grid(clips)
    area = rows * columns
    next_tokens = torch.arange((frames - 1) * area, frames * area, device=clips.device).expand(len(clips), -1)
    past = clips[:, : -model.config.tubelet_size]
    predicted = model(past, target_mask=next_tokens, mask_index=mask_index).predictor_output.last_hidden_state
    happened = model.encoder(clips).last_hidden_state
    happened = normalize_targets(happened, model.config.target_normalization)[:, -area:]
    error = l1_loss(predicted.float(), happened.float(), reduction="none").mean(dim=-1)
    return error.unflatten(1, (rows, columns)).cpu()


__all__ = ["SurpriseCurves", "surprise_curves"]
