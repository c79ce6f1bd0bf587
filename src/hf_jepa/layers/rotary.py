"""Rotary position codes for tokens on a (time, height, width) grid."""

import torch


LAYOUTS = ("tiled", "interleaved")


def grid_positions(index: torch.Tensor, grid_size: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    """Row-major token indices to their places along the three axes.

    Args:
        index: LongTensor (...,); indices beyond the grid lie in later frames.
        grid_size: (frames, rows, columns) in tokens.

    Returns:
        three LongTensors (...,): frame, row, column.

    Example:
        >>> [axis.item() for axis in grid_positions(torch.tensor(7), (2, 2, 3))]
        [1, 0, 1]
    """
    _, rows, columns = grid_size
    frame, line = index // (rows * columns), index // columns  # a line is a row, counted through all frames
    # Without remainders, which cannot be translated to ONNX where the grid is of any size.
    return frame, line - frame * rows, index - line * columns


def rotary_axis_dim(head_dim: int) -> int:
    """Channels of a head that turn with each of the three axes; what is left over does not turn.

    Raises:
        ValueError: an odd head, or one too narrow for two channels per axis.
    """
    if head_dim < 6 or head_dim % 2:
        raise ValueError(f"heads of {head_dim} channels: three rotary axes need an even number of at least 6")
    return 2 * (head_dim // 3 // 2)


def rotary_tables(
    positions: tuple[torch.Tensor, torch.Tensor, torch.Tensor], head_dim: int, layout: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines for `rotate`, in float32, once for all layers and heads of a forward.

    Angles are `position * 10000^(-k / (d / 2))` with k = 0 ... d / 2 - 1 for the d channels of an axis. Both layouts
    turn the pairs (2i, 2i + 1). "interleaved" gives both members of a pair one frequency: a rotation. "tiled" lays out
    all frequencies once and then again, so that the members of a pair have different ones: not a rotation, but what
    the released V-JEPA 2 weights were trained with (arXiv 2506.09985; their authors know of it).

    Args:
        positions: frame, row, column of every token, three tensors (...,) of integers or fractions.
        head_dim: channels of a head, even.
        layout: "tiled" or "interleaved".

    Returns:
        cos, sin: float32 tensors (..., head_dim); sin is negative for the first of each pair.

    Raises:
        ValueError: an unknown layout, heads that do not suit three axes.

    Example:
        >>> cos, sin = rotary_tables(grid_positions(torch.arange(8), (2, 2, 2)), 12, "interleaved")
        >>> cos.shape, [round(number, 2) for number in sin[1, 8:10].tolist()]
        (torch.Size([8, 12]), [-0.84, 0.84])
    """
    if layout not in LAYOUTS:
        raise ValueError(f"rope_layout={layout!r} is not one of {', '.join(LAYOUTS)}")
    dim = rotary_axis_dim(head_dim)
    device = positions[0].device
    omega = 1.0 / 10000 ** (torch.arange(dim // 2, dtype=torch.float32, device=device) / (dim / 2))
    angles = [place.float().unsqueeze(-1) * omega for place in positions]  # (..., d / 2) each
    if layout == "tiled":
        angles = [torch.cat([angle, angle], dim=-1) for angle in angles]
    else:
        angles = [angle.repeat_interleave(2, dim=-1) for angle in angles]
    angle = torch.nn.functional.pad(torch.cat(angles, dim=-1), (0, head_dim - 3 * dim))  # what is left over: angle 0
    sign = torch.tensor([-1.0, 1.0], device=device).repeat(head_dim // 2)
    return angle.cos(), angle.sin() * sign


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys by the angles of their tokens.

    Args:
        x: (B, N, H, d)
        cos, sin: (B or 1, N, 1, d) from `rotary_tables`.

    Returns:
        (B, N, H, d) in the type of x; the arithmetic is float32 at least.

    Example:
        >>> x = torch.randn(1, 4, 2, 6)
        >>> cos, sin = rotary_tables(grid_positions(torch.arange(4), (1, 2, 2)), 6, "interleaved")
        >>> turned = rotate(x, cos[None, :, None], sin[None, :, None])
        >>> torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
        True
    """
    swapped = x.unflatten(-1, (-1, 2)).roll(1, -1).flatten(-2)  # as `flip(-1)`, which is several times slower on a CPU
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)


__all__ = ["LAYOUTS", "grid_positions", "rotary_axis_dim", "rotary_tables", "rotate"]
