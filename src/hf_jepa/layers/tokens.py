"""Selecting tokens by index, the operation on which every masked JEPA rests."""

from collections.abc import Sequence

import torch


def as_mask_list(
    mask: torch.Tensor | Sequence[torch.Tensor], name: str, rows: int | None = None
) -> list[torch.Tensor]:
    """Bring a mask argument into its one form: a non-empty list of LongTensors of shape (B, K).

    Args:
        mask: one or several.
        name: of the argument, for messages.
        rows: B, where something else has set it.

    Raises:
        TypeError: a mask is no tensor.
        ValueError: the list is empty, a mask is not an integer tensor of two dimensions with at least one token, or
            masks have different numbers of rows.
    """
    masks = [mask] if isinstance(mask, torch.Tensor) else list(mask or ())
    if not masks:
        raise ValueError(f"{name} is empty: pass at least one LongTensor (batch, kept tokens)")
    for i, m in enumerate(masks):
        if not isinstance(m, torch.Tensor):
            raise TypeError(f"{name}[{i}] is of type {type(m).__name__}: expected a LongTensor (batch, kept tokens)")
        if m.ndim != 2 or m.dtype != torch.long:
            raise ValueError(
                f"{name}[{i}] has shape {tuple(m.shape)} and dtype {m.dtype}: expected a LongTensor (batch, kept "
                "tokens) of token indices (a boolean mask is turned into indices by `mask.nonzero()`)"
            )
        if m.shape[1] == 0:
            raise ValueError(f"{name}[{i}] keeps no token: a mask must keep at least one")
        rows = m.shape[0] if rows is None else rows
        if m.shape[0] != rows:
            raise ValueError(f"{name}[{i}] has {m.shape[0]} rows, other masks {rows}: one mask row per image")
    return masks


def take_tokens(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Keep the tokens named by `mask`, in the order of `mask`.

    Args:
        x: tokens, (B, N, D); a table (1, N, D) serves every row of the mask.
        mask: LongTensor (B, K) of indices below N.

    Returns:
        (B, K, D)

    Example:
        >>> import torch
        >>> x = torch.arange(6.0).view(1, 3, 2)
        >>> take_tokens(x, torch.tensor([[2, 0]])).tolist()
        [[[4.0, 5.0], [0.0, 1.0]]]
    """
    if x.shape[0] not in (1, mask.shape[0]):
        raise ValueError(f"{x.shape[0]} rows of tokens but a mask of {mask.shape[0]} rows: one mask row per image")
    if x.shape[0] == 1:  # a table shared by all rows: one plain row lookup, no expanded copy
        return torch.nn.functional.embedding(mask, x[0])
    return x.gather(1, mask.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def take_tokens_per_mask(x: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Keep the tokens of every mask and stack the results on the batch axis.

    Args:
        x: tokens, (B, N, D).
        masks: M LongTensors (B, K), all with the same K.

    Returns:
        (M * B, K, D), rows ordered (mask, image).

    Raises:
        ValueError: the masks keep different numbers of tokens, so that they cannot share one batch.
    """
    lengths = [m.shape[1] for m in masks]
    if len(set(lengths)) != 1:
        raise ValueError(f"the masks of one call must keep the same number of tokens to share a batch, got {lengths}")
    return torch.cat([take_tokens(x, m) for m in masks]) if len(masks) > 1 else take_tokens(x, masks[0])


__all__ = ["as_mask_list", "take_tokens", "take_tokens_per_mask"]
