"""Pictures of two rooms: paths of the dot, what a model thinks how far things are, and episodes that move."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image

from hf_jepa.hub.files import new_name
from hf_jepa.visualization.figures import hide_ticks, line_colors, new_figure, new_panels, save_figure


_WORLD = 64.0  # the last coordinate
_GAP = 2  # pixels between the rooms of an animation


def draw_room_paths(
    walls: np.ndarray,
    paths: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    targets: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
) -> Path:
    """Draw rooms from above with the ways of the dot, from a circle on; targets are stars.

    Args:
        walls: (N, S, S), zero where nothing is; pictures of any resolution.
        paths: name of who walked -> (N, T, 2), x first, in pixels of the world (0..64).
        path: PNG to write.
        targets: (N, 2).
        titles: one for each room.
        columns: rooms side by side.

    Returns:
        The path written.

    Raises:
        ValueError: no room, or paths and targets of other numbers of rooms (named).
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> walls = np.zeros((2, 65, 65))
        >>> walls[:, :, 32] = 255
        >>> steps = np.cumsum(np.ones((2, 20, 2)), axis=1)
        >>> draw_room_paths(walls, {"CEM": steps}, tempfile.mkdtemp() + "/paths.png", targets=steps[:, -1]).name
        'paths.png'
    """
    walls = np.asarray(walls)
    if walls.ndim != 3 or not len(walls):
        raise ValueError(f"walls of shape {walls.shape}: expected (N, S, S) of at least one room")
    points = {name: np.asarray(each, np.float64) for name, each in paths.items()}
    for name, each in points.items():
        if each.ndim != 3 or each.shape[::2] != (len(walls), 2):
            raise ValueError(f"the path of {name!r} has shape {each.shape}: expected ({len(walls)}, T, 2)")
    if targets is not None and np.shape(targets) != (len(walls), 2):
        raise ValueError(f"targets of shape {np.shape(targets)}: expected ({len(walls)}, 2)")
    size = (2.3, 2.5 if titles else 2.3)
    figure, panels = new_panels(len(walls), columns, size, below=0.3 if points else 0)
    for number, panel in enumerate(panels):
        panel.set_axis_off()
        _draw_walls(panel, walls[number])
        for (name, each), color in zip(points.items(), line_colors(len(points)), strict=True):
            panel.plot(*each[number].T, color=color, linewidth=1.2, label=name, alpha=0.85)
            panel.plot(*each[number, 0], "o", color=color, markersize=4)
        if targets is not None:
            panel.plot(*targets[number], "*", color="black", markersize=9)
        if titles:
            panel.set_title(titles[number], fontsize=8)
    if points:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return save_figure(figure, path)


def draw_room_energy(
    energies: Mapping[str, np.ndarray],
    walls: np.ndarray,
    path: str | Path,
    *,
    targets: np.ndarray,
    extent: tuple[float, float] = (4.0, 60.0),
    titles: Sequence[str] | None = None,
) -> Path:
    """Draw how far a goal seems to be from every place of a room, with lines of equal distance.

    Where only the straight distance counts, the lines are circles around the goal, through the wall; where the wall is
    known, they come out of the door.

    Args:
        energies: name of a measure -> (N, G, G), rows from the top (y), columns from the left (x). One row of pictures
            each, with colours of its own.
        walls: (N, S, S), zero where nothing is.
        path: PNG to write.
        targets: (N, 2), x first.
        extent: coordinates of the first and the last row and column of the grid.
        titles: one for each room.

    Returns:
        The path written.

    Raises:
        ValueError: nothing to draw, energies of other numbers of rooms, or that are not finite (named).
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> y, x = np.mgrid[4:60:20j, 4:60:20j]
        >>> circles = np.hypot(x - 40, y - 20)[None]
        >>> path = tempfile.mkdtemp() + "/energy.png"
        >>> draw_room_energy({"straight": circles}, np.zeros((1, 65, 65)), path, targets=np.array([[40, 20]])).name
        'energy.png'
    """
    walls, targets = np.asarray(walls), np.asarray(targets)
    measured = {name: np.asarray(each, np.float64) for name, each in energies.items()}
    if not measured or not len(walls):
        raise ValueError("there is nothing to draw: give at least one room and the energies of one measure")
    for name, each in measured.items():
        if each.ndim != 3 or len(each) != len(walls) or not np.isfinite(each).all():
            raise ValueError(f"energies {name!r} of shape {each.shape}: expected finite numbers ({len(walls)}, G, G)")
    low, high = extent
    figure = new_figure(2.5 * len(walls) + 0.3, 2.5 * len(measured) + (0.2 if titles else 0))
    panels = figure.subplots(len(measured), len(walls), squeeze=False)
    for row, (name, each) in zip(panels, measured.items(), strict=True):
        for number, panel in enumerate(row):
            at = np.linspace(low, high, each.shape[2]), np.linspace(low, high, each.shape[1])
            panel.pcolormesh(*at, each[number], cmap="viridis", shading="nearest")
            panel.contour(*at, each[number], levels=12, colors="white", linewidths=0.5)
            _draw_walls(panel, walls[number], filled=False)
            panel.plot(*targets[number], "*", color="#ff5c5c", markersize=10)
            hide_ticks(panel)
            if titles and row is panels[0]:
                panel.set_title(titles[number], fontsize=8)
        row[0].set_ylabel(name, fontsize=8)
    return save_figure(figure, path)


def save_episodes(
    frames: Sequence[np.ndarray], path: str | Path, *, columns: int = 4, scale: int = 2, frames_per_second: int = 20
) -> Path:
    """Write episodes that run side by side as an animated GIF.

    Args:
        frames: T pictures of all rooms, uint8 (N, S, S, 3) each, such as `TwoRoomsVectorEnv.render` gives.
        path: GIF to write.
        columns: rooms side by side.
        scale: by how much pixels are enlarged.
        frames_per_second: at most 50, because viewers show faster ones slowly.

    Returns:
        The path written.

    Raises:
        ValueError: no frame, frames of another shape or type, or a speed that a GIF cannot have.

    Example:
        >>> import tempfile
        >>> frames = [np.full((3, 65, 65, 3), 60 * t, np.uint8) for t in range(4)]
        >>> save_episodes(frames, tempfile.mkdtemp() + "/episodes.gif").name
        'episodes.gif'
    """
    pictures = [np.asarray(frame) for frame in frames]
    shapes = {each.shape for each in pictures}
    if len(shapes) != 1 or pictures[0].ndim != 4 or pictures[0].shape[3] != 3 or pictures[0].dtype != np.uint8:
        raise ValueError(f"frames of shape {sorted(shapes)}: expected at least one, uint8 (N, S, S, 3), all alike")
    if not 1 <= frames_per_second <= 50 or scale < 1 or columns < 1:
        raise ValueError(
            f"frames_per_second={frames_per_second} must be 1..50, scale={scale} and columns={columns} 1 or more"
        )
    images = [Image.fromarray(_tiled(each, columns)) for each in pictures]
    size = (images[0].width * scale, images[0].height * scale)
    images = [each.resize(size, Image.Resampling.NEAREST) for each in images]
    path, duration = Path(path), round(1000 / frames_per_second)
    with new_name(path) as temporary:
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return path


def _tiled(rooms: np.ndarray, columns: int) -> np.ndarray:
    """Pictures (N, S, S, 3) as one, with a white gap between them."""
    count, side = rooms.shape[:2]
    columns = min(columns, count)
    step = side + _GAP
    canvas = np.full((ceil(count / columns) * step - _GAP, columns * step - _GAP, 3), 255, np.uint8)
    for number, room in enumerate(rooms):
        y, x = number // columns * step, number % columns * step
        canvas[y : y + side, x : x + side] = room
    return canvas


def _draw_walls(panel, walls: np.ndarray, filled: bool = True) -> None:
    """Walls behind what is drawn, or as outlines over it; axes in pixels of the world, y downwards."""
    half = _WORLD / (walls.shape[-1] - 1) / 2
    if filled:
        style = {"cmap": "Greys", "vmin": 0, "vmax": 1.6, "interpolation": "nearest"}
        panel.imshow(walls > 0, extent=(-half, _WORLD + half, _WORLD + half, -half), **style)
    else:
        at = np.linspace(0, _WORLD, walls.shape[-1])
        panel.contourf(at, at, walls > 0, levels=[0.5, 1.5], colors=["black"], alpha=0.55)
    panel.set_xlim(-half, _WORLD + half)
    panel.set_ylim(_WORLD + half, -half)
    panel.set_aspect("equal")


__all__ = ["draw_room_energy", "draw_room_paths", "save_episodes"]
