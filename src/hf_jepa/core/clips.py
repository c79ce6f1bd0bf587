"""Batches of video: one clip length or several, each with its masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from hf_jepa.layers.tokens import as_mask_list


Grid = tuple[int, int, int]  # (frames, rows, columns) of the tokens of a clip
Clips = torch.Tensor | Sequence[torch.Tensor]
ClipMasks = torch.Tensor | Sequence[torch.Tensor] | Sequence[Sequence[torch.Tensor]]


def as_groups(clips: Clips) -> list[torch.Tensor]:
    """Clips of one length, or a list of groups that have one length each, as a list of groups.

    Raises:
        ValueError: an empty list.
    """
    groups = [clips] if isinstance(clips, torch.Tensor) else list(clips)
    if not groups:
        raise ValueError("pixel_values_videos is an empty list: pass at least one group of clips")
    return groups


def as_group_masks(masks: ClipMasks, groups: Sequence[torch.Tensor], name: str) -> list[list[torch.Tensor]]:
    """Masks of a call, one list for every group of clips.

    Args:
        masks: of one group: a mask or a list of them; of several groups: a list of such lists.
        groups: clips of one length each, B_g in number.
        name: of the argument, for messages.

    Raises:
        TypeError, ValueError: see `as_mask_list`; another number of lists than groups, of rows than clips.

    Example:
        >>> clips, mask = [torch.zeros(2, 4, 3, 8, 8), torch.zeros(1, 8, 3, 8, 8)], torch.tensor([[0, 1]])
        >>> [len(group) for group in as_group_masks([[mask.repeat(2, 1)], [mask, mask]], clips, "context_mask")]
        [1, 2]
    """
    if len(groups) == 1:
        nested = isinstance(masks, Sequence) and len(masks) == 1 and isinstance(masks[0], Sequence)
        return [as_mask_list(masks[0] if nested else masks, name, rows=len(groups[0]))]
    if not isinstance(masks, Sequence) or len(masks) != len(groups):
        found = f"{len(masks)} entries" if isinstance(masks, Sequence) else f"a {type(masks).__name__}"
        raise ValueError(f"{name} has {found}, expected a list of masks for each of {len(groups)} groups of clips")
    return [
        as_mask_list(group_masks, f"{name}[{g}]", rows=len(group))
        for g, (group, group_masks) in enumerate(zip(groups, masks, strict=True))
    ]


def require_pairs(context_mask: list[list[torch.Tensor]], target_mask: list[list[torch.Tensor]]) -> None:
    """Refuse contexts and targets that do not go together one to one.

    Raises:
        ValueError: naming the numbers of masks.
    """
    counts = [[len(group) for group in masks] for masks in (context_mask, target_mask)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"context_mask has {counts[0]} and target_mask {counts[1]} masks: every context goes with one target"
        )


@dataclass
class VideoEncoderOutput(BaseModelOutput):
    """Output of a video encoder.

    Args:
        last_hidden_state: (B, N, D), or a tuple of such tensors ordered (group, mask).
        hidden_states: when asked for, as the layers have them; several masks or groups are one tensor, see `Packing`.
        attentions: when asked for, of each layer (B, H, N, N), or one such tensor for each mask of another length.
        levels: the tokens (B, N, D) after each layer asked for, behind the final norm, or tuples as above.
    """

    levels: tuple | None = None


@dataclass
class VideoFeatures(ModelOutput):
    """What an encoder says about clips, in the shape of the clips.

    Args:
        grid: (B, T', H', W', D), one feature per tubelet, of the last layer.
        pooled: (B, D), their mean: there is no CLS token.
        layers: the grids (B, T', H', W', D) of the layers asked for.

    Example:
        >>> VideoFeatures(grid=torch.zeros(1, 2, 4, 4, 8)).grid.shape
        torch.Size([1, 2, 4, 4, 8])
    """

    grid: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    layers: tuple[torch.FloatTensor, ...] | None = None


def layer_indices(layers: Sequence[int], depth: int) -> list[int]:
    """Layers asked for, counted from 0; negative ones from the end.

    Raises:
        ValueError: a layer that the encoder does not have.

    Example:
        >>> layer_indices([0, -1], 12)
        [0, 11]
    """
    if wrong := [layer for layer in layers if not -depth <= layer < depth]:
        raise ValueError(f"layers {wrong} do not exist: the encoder has layers 0 to {depth - 1}")
    return [layer % depth for layer in layers]


__all__ = [
    "ClipMasks",
    "Clips",
    "Grid",
    "VideoEncoderOutput",
    "VideoFeatures",
    "as_group_masks",
    "as_groups",
    "layer_indices",
    "require_pairs",
]
