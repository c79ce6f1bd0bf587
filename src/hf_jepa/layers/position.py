"""Position tables: frozen sine-cosine codes and how they follow an input of another size."""

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


def sincos_2d(dim: int, grid_size: tuple[int, int]) -> torch.Tensor:
    """2-D sine-cosine table of I-JEPA: the first half of the channels codes the column, the second half the row.

    Computed in float64 on the CPU (also under `torch.device("meta")`) and rounded once.

    Args:
        dim: channels, a multiple of 4.
        grid_size: (rows, columns) of the token grid.

    Returns:
        float32 tensor (1, rows * columns, dim), row-major.

    Example:
        >>> sincos_2d(8, (2, 3)).shape
        torch.Size([1, 6, 8])
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a multiple of 4 channels, got {dim}")
    rows, columns = grid_size
    row = sincos_1d(dim // 2, torch.arange(rows, dtype=torch.float64, device="cpu"))
    column = sincos_1d(dim // 2, torch.arange(columns, dtype=torch.float64, device="cpu"))
    table = torch.cat(
        [column[None, :, :].expand(rows, columns, -1), row[:, None, :].expand(rows, columns, -1)], dim=-1
    )
    return table.reshape(1, rows * columns, dim).float()


def resize_positions(table: torch.Tensor, from_grid: tuple[int, int], to_grid: tuple[int, int]) -> torch.Tensor:
    """Stretch a position table to another grid by bicubic interpolation, as native transformers does.

    Args:
        table: (1, rows * columns, D) for `from_grid`.
        from_grid, to_grid: (rows, columns).

    Returns:
        (1, rows' * columns', D); `table` itself when the grids are equal.
    """
    if from_grid == to_grid:
        return table
    image = table.float().reshape(1, *from_grid, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    image = nn.functional.interpolate(image, size=to_grid, mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)


__all__ = ["resize_positions", "sincos_1d", "sincos_2d"]
