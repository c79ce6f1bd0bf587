"""Position tables: frozen sine-cosine codes and how they follow an input of another size."""

import math

import torch
from torch import nn


def sincos_1d(dim: int, positions: torch.Tensor) -> torch.Tensor:
    """Sine-cosine code of scalar positions, `[sin(p w_k)] ++ [cos(p w_k)]` with `w_k = 10000^(-k / (dim / 2))`.

    Args:
        dim: channels, a multiple of 2.
        positions: float64 tensor (N,).

    Returns:
        float64 tensor (N, dim).
    """
    if dim % 2:
        raise ValueError(f"a sine-cosine code needs an even number of channels, got {dim}")
    omega = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64, device="cpu") / (dim / 2))
    angle = torch.outer(positions, omega)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos_2d(dim: int, grid_size: tuple[int, int], row_first: bool = False) -> torch.Tensor:
    """2-D sine-cosine table: one half of the channels codes the column, the other the row.

    Computed in float64 on the CPU (also under `torch.device("meta")`) and rounded once.

    Args:
        dim: channels, a multiple of 4.
        grid_size: (rows, columns) of the token grid.
        row_first: whether the first half codes the row, as in V-JEPA, or the column, as in I-JEPA.

    Returns:
        float32 tensor (1, rows * columns, dim), row-major.

    Example:
        >>> sincos_2d(8, (2, 3)).shape
        torch.Size([1, 6, 8])
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a multiple of 4 channels, got {dim}")
    rows, columns = grid_size
    row = _axis_code(dim // 2, rows).unsqueeze(1).expand(-1, columns, -1)
    column = _axis_code(dim // 2, columns).expand(rows, -1, -1)
    halves = [row, column] if row_first else [column, row]
    return torch.cat(halves, dim=-1).reshape(1, rows * columns, dim).float()


def sincos_3d(dim: int, grid_size: tuple[int, int, int], uniform_power: bool = True) -> torch.Tensor:
    """3-D sine-cosine table of V-JEPA: channels code the frame, then the row, then the column.

    Computed in float64 on the CPU (also under `torch.device("meta")`) and rounded once.

    Args:
        dim: channels.
        grid_size: (frames, rows, columns) of the token grid.
        uniform_power: all three axes get `2 * ceil(dim / 6)` channels and what exceeds `dim`, the last cosines of the
            column, is cut off; False: half of the channels for the frame, a quarter for row and column each.

    Returns:
        float32 tensor (1, frames * rows * columns, dim), row-major.

    Raises:
        ValueError: without `uniform_power`, a `dim` that is no multiple of 8.

    Example:
        >>> sincos_3d(8, (2, 2, 3)).shape
        torch.Size([1, 12, 8])
    """
    if not uniform_power and dim % 8:
        raise ValueError(f"a 3-D sine-cosine table of unequal axes needs a multiple of 8 channels, got {dim}")
    frames, rows, columns = grid_size
    widths = [2 * math.ceil(dim / 6)] * 3 if uniform_power else [dim // 2, dim // 4, dim // 4]
    frame, row, column = (_axis_code(width, n) for width, n in zip(widths, grid_size, strict=True))
    axes = [
        frame[:, None, None].expand(-1, rows, columns, -1),
        row[None, :, None].expand(frames, -1, columns, -1),
        column[None, None].expand(frames, rows, -1, -1),
    ]
    return torch.cat(axes, dim=-1)[..., :dim].reshape(1, frames * rows * columns, dim).float()


def _axis_code(dim: int, length: int) -> torch.Tensor:
    """The code of places 0 ... length - 1 along an axis, float64 (length, dim)."""
    return sincos_1d(dim, torch.arange(length, dtype=torch.float64, device="cpu"))


def same_grid(from_grid: tuple[int, ...], to_grid: tuple[int, ...]) -> bool:
    """Whether two grids are known to be equal; in a graph for inputs of any size (`torch.export`) no grid is known.

    There a comparison would restrict the graph to sizes that give the same answer. To stretch a table to the grid that
    it has changes nothing, not even by rounding.

    Example:
        >>> same_grid((2, 3), (2, 3))
        True
    """
    return not any(isinstance(length, torch.SymInt) for length in to_grid) and from_grid == to_grid


def resize_positions(table: torch.Tensor, from_grid: tuple[int, ...], to_grid: tuple[int, ...]) -> torch.Tensor:
    """Stretch a position table to another grid.

    Two axes are interpolated bicubically, as native transformers does for I-JEPA, three axes trilinearly, as V-JEPA.

    Args:
        table: (1, rows * columns, D) or (1, frames * rows * columns, D) for `from_grid`.
        from_grid, to_grid: (rows, columns), or (frames, rows, columns).

    Returns:
        (1, N', D) for `to_grid`; `table` itself when the grids are equal.

    Example:
        >>> resize_positions(torch.zeros(1, 12, 8), (2, 2, 3), (2, 4, 4)).shape
        torch.Size([1, 32, 8])
    """
    if same_grid(from_grid, to_grid):
        return table
    mode = "bicubic" if len(from_grid) == 2 else "trilinear"
    grid = table.float().transpose(1, 2).unflatten(2, from_grid)  # (1, D, [frames,] rows, columns)
    # By size and not by scale factor: 11 * (15 / 11) is a little less than 15 and would be rounded down.
    grid = nn.functional.interpolate(grid, size=to_grid, mode=mode, align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(table.dtype)


__all__ = ["resize_positions", "same_grid", "sincos_1d", "sincos_2d", "sincos_3d"]
