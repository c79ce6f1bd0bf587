"""Where a dot can go in two rooms that a wall with a door divides.

The world of the action-conditioned example of EB-JEPA: a square of 65 x 65 pixels, x to the right and y downwards,
pixel centres at the integers. It has two rules for a move that meets a wall: in the data the dot stays where it was
(`blocked`), in the environment it comes to rest near the point of contact (`contact_moves`).
"""

from typing import NamedTuple

import numpy as np


SIDE = 65  # pixels
BORDER = (4.0, 60.0)  # the coordinates of the four outer walls
WALL_HALF, DOOR_HALF = 1.0, 4.0  # the wall covers |x - wall_x| <= 1 but for |y - door_y| <= 4
WALL_X, DOOR_Y = (20, 44), (10, 54)  # where walls and doors are, both ends included
PUSH_BACK = 0.5  # standard deviation of how far a dot is thrown back that met a wall
INWARDS = 0.3  # where a dot is put that would otherwise lie on a wall


class Layouts(NamedTuple):
    """Where N walls and their doors are.

    Attributes:
        wall_x: int64 (N,), the column of the middle of the wall.
        door_y: int64 (N,), the row of the middle of the door.
    """

    wall_x: np.ndarray
    door_y: np.ndarray

    def rows(self, chosen: np.ndarray | slice) -> "Layouts":
        """Some of them."""
        return Layouts(self.wall_x[chosen], self.door_y[chosen])


def layouts_from(uniform: np.ndarray, wall_x: int | None = None, door_y: int | None = None) -> Layouts:
    """Layouts from uniform random numbers, all pairs of wall and door equally likely.

    Args:
        uniform: (N, 2) in [0, 1), for the wall and for the door.
        wall_x, door_y: one for all instead; the official world without random layouts has 32 and 18.

    Raises:
        ValueError: a wall or door outside of its range.

    Example:
        >>> layouts_from(np.array([[0.0, 0.0], [0.99, 0.99]]), door_y=18)
        Layouts(wall_x=array([20, 44]), door_y=array([18, 18]))
    """
    columns = []
    for name, fixed, (low, high), drawn in zip(
        ("wall_x", "door_y"), (wall_x, door_y), (WALL_X, DOOR_Y), uniform.T, strict=True
    ):
        if fixed is not None and not low <= fixed <= high:
            raise ValueError(f"{name}={fixed} is outside of {low}..{high}, or leave it None for random ones")
        columns.append(low + np.floor(drawn * (high - low + 1)).astype(np.int64) if fixed is None else None)
        if fixed is not None:
            columns[-1] = np.full(len(uniform), fixed, np.int64)
    return Layouts(*columns)


def _meets(p: np.ndarray, q: np.ndarray, line: np.ndarray | float) -> np.ndarray:
    """Whether a coordinate touches or crosses a line on its way from p to q."""
    return np.sign(p - line) * np.sign(q - line) <= 0


def _other_coordinate(p: np.ndarray, q: np.ndarray, axis: int, line: np.ndarray | float) -> np.ndarray:
    """The other coordinate (N,) where the way from p to q (N, 2) meets a line across `axis`; p's if it runs along."""
    step = q - p
    along = np.where(step[:, axis] == 0, 1.0, step[:, axis])
    share = np.where(step[:, axis] == 0, 0.0, (line - p[:, axis]) / along)
    return p[:, 1 - axis] + share * step[:, 1 - axis]


def _meets_door_edge(p: np.ndarray, q: np.ndarray, layouts: Layouts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether the way leaves the door by its upper or lower edge, the row of the edge and the column there, (N,)."""
    down = np.sign(q[:, 1] - p[:, 1])
    edge = layouts.door_y + DOOR_HALF * down
    x = _other_coordinate(p, q, 1, edge)
    crossed = (p[:, 1] - edge) * (q[:, 1] - edge) < 0
    return crossed & (np.abs(x - layouts.wall_x) <= WALL_HALF), edge, x


def blocked(position: np.ndarray, proposed: np.ndarray, layouts: Layouts) -> np.ndarray:
    """Which moves the data set cancels: those that touch or cross a wall.

    Args:
        position, proposed: (N, 2), x first.
        layouts: of N rooms.

    Returns:
        bool (N,).

    Example:
        >>> room = Layouts(np.array([32]), np.array([18]))
        >>> [bool(blocked(np.array([[30.5, y]]), np.array([[31.5, y]]), room)[0]) for y in (18.0, 30.0)]
        [False, True]
    """
    hit = np.zeros(len(position), bool)
    for border in BORDER:
        hit |= _meets(position, proposed, border).any(axis=1)
    hit |= _meets_door_edge(position, proposed, layouts)[0]
    face = layouts.wall_x - WALL_HALF * np.where(position[:, 0] < layouts.wall_x, 1, -1)  # the one on its side
    y = _other_coordinate(position, proposed, 0, face)
    inside = np.abs(y - layouts.door_y) <= DOOR_HALF
    return hit | (_meets(position[:, 0], proposed[:, 0], face) & ~inside)


def walk(start: np.ndarray, actions: np.ndarray, layouts: Layouts) -> np.ndarray:
    """Where actions lead in the data set.

    Args:
        start: (N, 2).
        actions: (N, S, 2).
        layouts: of N rooms.

    Returns:
        (N, S + 1, 2), of the type of the start.

    Example:
        >>> room = Layouts(np.array([32]), np.array([18]))
        >>> walk(np.array([[30.0, 40.0]]), np.array([[[0.5, 1.0], [1.0, 0.0], [0.0, 1.0]]]), room)[0].tolist()
        [[30.0, 40.0], [30.5, 41.0], [30.5, 41.0], [30.5, 42.0]]
    """
    positions = np.empty((len(start), actions.shape[1] + 1, 2), start.dtype)
    positions[:, 0] = start
    for t in range(actions.shape[1]):
        here, there = positions[:, t], positions[:, t] + actions[:, t]
        positions[:, t + 1] = np.where(blocked(here, there, layouts)[:, None], here, there)
    return positions


def contact_moves(
    position: np.ndarray, proposed: np.ndarray, layouts: Layouts, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the environment puts the dot: at the point of contact, thrown back by noise, if the way meets a wall.

    Args:
        position, proposed: (N, 2), x first.
        layouts: of N rooms.
        noise: (N, 2, 2) standard normal numbers; the second pair is for moves into a corner.

    Returns:
        the next positions (N, 2), and bool (N,), which met a wall.

    Example:
        >>> room, still = Layouts(np.array([32]), np.array([18])), np.zeros((1, 2, 2))
        >>> contact_moves(np.array([[28.0, 40.0]]), np.array([[32.0, 40.0]]), room, still)
        (array([[30.7, 40. ]]), array([ True]))
    """
    noise = PUSH_BACK * noise
    at_edge, edge, edge_x = _meets_door_edge(position, proposed, layouts)
    away = np.sign(position[:, 1] - edge)  # from the edge into the door
    in_door = np.stack([edge_x + noise[:, 0, 0], edge + np.abs(noise[:, 0, 1]) * away], axis=1)

    limits, with_door = _limits_of_room(position, layouts)
    (across, at_wall), (along, at_border) = (_limit(position, proposed, axis, limits) for axis in (0, 1))
    through = with_door & (np.abs(at_wall[:, :, 1] - layouts.door_y[:, None]) <= DOOR_HALF)
    hits = (across & ~through, along)  # vertical and horizontal walls, (N, 2): the smaller coordinate first
    put = _thrown_back(position, hits, (at_wall, at_border), noise)
    put = np.clip(put, *limits)
    put = np.where(put == limits[0], put + INWARDS, np.where(put == limits[1], put - INWARDS, put))
    put = np.where(at_edge[:, None], in_door, put)  # the edges of the door come first
    met = at_edge | hits[0].any(axis=1) | hits[1].any(axis=1)
    return np.where(met[:, None], put, proposed), met


def _limits_of_room(position: np.ndarray, layouts: Layouts) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The smaller and larger limits (N, 2) of the room of the dot, and which of left and right is the wall."""
    left = position[:, 0] < layouts.wall_x
    low, high = (np.full((len(position), 2), border) for border in BORDER)
    low[:, 0] = np.where(left, low[:, 0], layouts.wall_x + WALL_HALF)
    high[:, 0] = np.where(left, layouts.wall_x - WALL_HALF, high[:, 0])
    return (low, high), np.stack([~left, left], axis=1)


def _limit(p: np.ndarray, q: np.ndarray, axis: int, limits: tuple[np.ndarray, np.ndarray]):
    """Of the smaller and the larger limit of a coordinate: whether it is met (N, 2), and where (N, 2, 2)."""
    lines = np.stack([limit[:, axis] for limit in limits], axis=1)  # (N, 2)
    other = np.stack([_other_coordinate(p, q, axis, line) for line in lines.T], axis=1)
    contact = np.stack([lines, other] if axis == 0 else [other, lines], axis=2)
    return _meets(p[:, axis, None], q[:, axis, None], lines), contact


def _thrown_back(
    position: np.ndarray, hits: tuple[np.ndarray, ...], contacts: tuple[np.ndarray, ...], noise: np.ndarray
) -> np.ndarray:
    """The points of contact (N, 2) and noise that leads away from the wall; of two walls the nearer one counts."""
    rows = np.arange(len(position))
    pairs = (noise[:, 0], np.where(hits[0].any(axis=1, keepdims=True), noise[:, 1], noise[:, 0]))
    landed, distance = [], []
    for axis, (hit, points, pair) in enumerate(zip(hits, contacts, pairs, strict=True)):
        contact = points[rows, np.where(hit[:, 0], 0, 1)]
        throw = pair.copy()
        throw[:, axis] = np.abs(throw[:, axis]) * np.sign(position[:, axis] - contact[:, axis])
        landed.append(contact + throw)
        distance.append(np.where(hit.any(axis=1), np.linalg.norm(contact - position, axis=1), np.inf))
    return np.where((distance[0] <= distance[1])[:, None], *landed)


__all__ = [
    "BORDER",
    "DOOR_HALF",
    "DOOR_Y",
    "SIDE",
    "WALL_HALF",
    "WALL_X",
    "Layouts",
    "blocked",
    "contact_moves",
    "layouts_from",
    "walk",
]
