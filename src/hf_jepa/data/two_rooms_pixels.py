"""Two rooms as pictures: a channel with the dot and one with the walls, for a whole batch at once, on any device."""

import torch

from hf_jepa.data.two_rooms_dynamics import BORDER, DOOR_HALF, SIDE, WALL_HALF


DOT_STD = 1.3  # of the dot's Gaussian, in pixels
MEAN, STD = (0.0026, 0.0989), (0.0369, 0.2986)  # of dot and walls, after each is stretched to [0, 1]
POSITION_MEAN, POSITION_STD = (31.5863, 32.0618), (16.1025, 16.1353)
_TINY = 1e-6


def render_dots(positions: torch.Tensor, image_size: int = SIDE) -> torch.Tensor:
    """Pictures of the dot.

    Args:
        positions: (..., 2), x first, in pixels of the world.
        image_size: pixels a side; with fewer than 65 the world is seen at a lower resolution, and the dot is as many
            pixels wide.

    Returns:
        uint8 (..., S, S).

    Example:
        >>> render_dots(torch.tensor([32.0, 10.0]))[10, 31:34].tolist()
        [189, 255, 189]
    """
    step = (SIDE - 1) / (image_size - 1)
    grid = torch.arange(image_size, device=positions.device, dtype=positions.dtype) * step
    x, y = (torch.exp(-((grid - positions[..., i, None]) ** 2) / (2 * (DOT_STD * step) ** 2)) for i in (0, 1))
    return (255 * y[..., :, None] * x[..., None, :]).clamp(0, 255).to(torch.uint8)


def render_walls(wall_x: torch.Tensor, door_y: torch.Tensor, image_size: int = SIDE) -> torch.Tensor:
    """Pictures of the walls.

    Args:
        wall_x, door_y: (N,).
        image_size: pixels a side.

    Returns:
        uint8 (N, S, S), 0 or 255.

    Example:
        >>> picture = render_walls(torch.tensor([32]), torch.tensor([18]))
        >>> picture[0, 18, 28:37].tolist(), picture[0, 40, 28:37].tolist()
        ([0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 255, 255, 255, 0, 0, 0])
    """
    step = (SIDE - 1) / (image_size - 1)
    grid = torch.arange(image_size, device=wall_x.device) * step
    half = max(WALL_HALF, step / 2)  # no wall falls between two pixels
    column = (grid - wall_x[:, None]).abs() <= half
    opening = (grid - door_y[:, None]).abs() <= DOOR_HALF
    walls = column[:, None, :] & ~opening[:, :, None]
    border = torch.zeros(image_size, dtype=torch.bool, device=wall_x.device)
    border[[round(line / step) for line in BORDER]] = True
    return (walls | border[:, None] | border[None, :]).to(torch.uint8) * 255


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """What a model sees: each picture stretched to [0, 1], then standardised.

    Args:
        pictures: uint8 (..., 2, S, S), dot and walls.

    Returns:
        float32 of the same shape.

    Example:
        >>> pictures = torch.zeros(2, 65, 65, dtype=torch.uint8)
        >>> normalise(pictures)[:, 0, 0]
        tensor([-0.0705, -0.3312])
    """
    return torch.stack([_standard(pictures[..., channel, :, :], channel) for channel in (0, 1)], dim=-3)


def _standard(pictures: torch.Tensor, channel: int) -> torch.Tensor:
    pictures = pictures.float()
    low, high = pictures.amin(dim=(-2, -1), keepdim=True), pictures.amax(dim=(-2, -1), keepdim=True)
    mean, std = pictures.new_tensor(MEAN[channel]), pictures.new_tensor(STD[channel])
    return ((pictures - low) / (high - low + _TINY) - mean) / (std + _TINY)


def normalise_positions(positions: torch.Tensor) -> torch.Tensor:
    """Positions (..., 2), standardised: what probes learn."""
    return (positions - positions.new_tensor(POSITION_MEAN)) / (positions.new_tensor(POSITION_STD) + _TINY)


def room_pixels(
    positions: torch.Tensor, wall_x: torch.Tensor, door_y: torch.Tensor, image_size: int = SIDE
) -> torch.Tensor:
    """Frames as a model sees them.

    Args:
        positions: (B, T, 2).
        wall_x, door_y: (B,).
        image_size: pixels a side.

    Returns:
        float32 (B, T, 2, S, S).

    Example:
        >>> room_pixels(torch.full((3, 5, 2), 20.0), torch.full((3,), 32), torch.full((3,), 18)).shape
        torch.Size([3, 5, 2, 65, 65])
    """
    dots = _standard(render_dots(positions, image_size), 0)
    walls = _standard(render_walls(wall_x, door_y, image_size), 1)  # (B, S, S): once for all frames
    return torch.stack([dots, walls[:, None].expand_as(dots)], dim=2)


__all__ = [
    "DOT_STD",
    "MEAN",
    "POSITION_MEAN",
    "POSITION_STD",
    "STD",
    "normalise",
    "normalise_positions",
    "render_dots",
    "render_walls",
    "room_pixels",
]
