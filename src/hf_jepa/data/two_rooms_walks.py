"""How a dot wanders through two rooms: trajectories from random numbers, those of many rooms at once.

Two kinds, in the proportions of the action-conditioned example of EB-JEPA (arXiv 2602.03604), whose numbers the
constants are: walks from anywhere, and walks that are laid through the door, so that passing it is seen often enough.
"""

import numpy as np
import torch

from hf_jepa.data.two_rooms_dynamics import BORDER, DOOR_HALF, WALL_HALF, Layouts


STEPS = 90  # actions of a whole trajectory
STEP_LENGTH = (1.0, 0.4, 0.2, 1.8)  # truncated normal: mean, standard deviation, ends
DOOR_SPREAD = 1.4  # standard deviation of where the door is passed
CROSSING = 0.35  # share of the walks that are laid through the door
UNIFORM = 10 + 2 * STEPS  # uniform numbers that one trajectory needs


def wander(uniform: np.ndarray, turns: np.ndarray, layouts: Layouts) -> tuple[np.ndarray, np.ndarray]:
    """Starts and actions of trajectories, from random numbers.

    Args:
        uniform: (N, 190) in [0, 1).
        turns: (N, 2, 89) in radians: of the trajectory, or of the two parts of one that passes the door.
        layouts: of N rooms.

    Returns:
        starts (N, 2) and actions (N, 90, 2).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> room = Layouts(np.full(5, 32), np.full(5, 18))
        >>> start, actions = wander(rng.random((5, 190)), rng.vonmises(0, 5, (5, 2, 89)), room)
        >>> start.shape, actions.shape
        ((5, 2), (5, 90, 2))
    """
    place, coins, lengths = uniform[:, :3], uniform[:, 3:10], uniform[:, 10:].reshape(-1, 2, STEPS)
    lengths = truncated_normal(lengths, *STEP_LENGTH)
    crossing = coins[:, 0] < CROSSING
    leftward = np.pi + (coins[:, 1] - 0.5) * np.pi / 2
    heading = np.where(crossing, leftward, 2 * np.pi * coins[:, 2])
    first = steps_of(heading, turns[:, 0], lengths[:, 0])
    second = steps_of(leftward + np.pi, turns[:, 1], lengths[:, 1])
    passing, before = _through_door(first, second, coins[:, 3:5])
    start = np.where(crossing[:, None], _before_door(layouts, before, coins[:, 5:7]), _start(place, layouts))
    return start, np.where(crossing[:, None, None], passing, first)


def truncated_normal(uniform: np.ndarray, mean: float, std: float, low: float, high: float) -> np.ndarray:
    """Normal numbers between two ends, by the inverse of their distribution.

    Example:
        >>> truncated_normal(np.array([0.0, 0.5, 1.0]), 1.0, 0.4, 0.2, 1.8).round(6)
        array([0.2, 1. , 1.8])
    """
    ends = torch.special.ndtr(torch.tensor([(low - mean) / std, (high - mean) / std], dtype=torch.float64))
    share = ends[0] + torch.from_numpy(uniform) * (ends[1] - ends[0])
    return (mean + std * torch.special.ndtri(share)).clamp(low, high).numpy()


def steps_of(heading: np.ndarray, turns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Actions (N, S, 2) of a first heading (N,), turns (N, S - 1) and lengths (N, S).

    Example:
        >>> steps_of(np.zeros(1), np.array([[np.pi / 2]]), np.ones((1, 2))).round(6)
        array([[[1., 0.],
                [0., 1.]]])
    """
    angle = np.concatenate([heading[:, None], heading[:, None] + turns.cumsum(axis=1)], axis=1)
    return lengths[:, :, None] * np.stack([np.cos(angle), np.sin(angle)], axis=2)


def _start(place: np.ndarray, layouts: Layouts) -> np.ndarray:
    """Anywhere in the two rooms (N, 2); who would start within the wall starts beside it."""
    low, high = BORDER
    start = low + place[:, :2] * (high - low)
    x, wall = start[:, 0], layouts.wall_x
    inside = (np.abs(x - wall) <= WALL_HALF) & (np.abs(start[:, 1] - layouts.door_y) > DOOR_HALF)
    left, share = place[:, 2] < 0.5, place[:, 2] * 2 % 1  # one number serves as coin and as place
    beside = np.where(
        left, low + share * (wall - WALL_HALF - low), wall + WALL_HALF + share * (high - wall - WALL_HALF)
    )
    return np.stack([np.where(inside, beside, x), start[:, 1]], axis=1)


def _through_door(first: np.ndarray, second: np.ndarray, coins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions (N, 90, 2) that come to the door by the first walk and leave it by the second, or the other way round.

    The first walk leads away from the door, so its first actions are taken backwards. Also gives what leads to the
    door, summed (N, 2).
    """
    split = 1 + np.floor(coins[:, 0] * STEPS).astype(np.int64)[:, None]  # actions before the door
    t = np.arange(STEPS)[None]
    come = -np.take_along_axis(first, np.clip(split - 1 - t, 0, None)[:, :, None], axis=1)
    go = np.take_along_axis(second, np.clip(t - split + 1, 0, STEPS - 1)[:, :, None], axis=1)  # from its second action
    actions = np.where((t < split)[:, :, None], come, go)
    back = coins[:, 1] < 0.5
    actions = np.where(back[:, None, None], -actions[:, ::-1], actions)
    before = np.where(back[:, None], t < STEPS - split, t < split)
    return actions, (actions * before[:, :, None]).sum(axis=1)


def _before_door(layouts: Layouts, before: np.ndarray, coins: np.ndarray) -> np.ndarray:
    """Where who passes the door starts (N, 2)."""
    x = layouts.wall_x + WALL_HALF * (2 * coins[:, 0] - 1)
    y = layouts.door_y + truncated_normal(coins[:, 1], 0.0, DOOR_SPREAD, -DOOR_HALF, DOOR_HALF)
    return np.clip(np.stack([x, y], axis=1) - before, BORDER[0] + 0.01, BORDER[1] - 0.01)


__all__ = ["STEPS", "UNIFORM", "steps_of", "truncated_normal", "wander"]
