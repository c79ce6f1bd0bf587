"""Gripper scenes: trajectories of a gripper over a table that need no download, in which every pose can be seen.

A gripper of two fingers wanders over a table, seen from above: its place, its turn, how high it is (nearer is larger)
and how far it is open are those of its pose, so that a world model of poses has something to learn in a minute. The
other two angles stay as they are, as they nearly do in recordings of tabletop manipulation.
"""

from collections.abc import Mapping

import numpy as np

from hf_jepa.data.trajectories import TrajectoryWindow
from hf_jepa.data.transforms import sample_rng


FRAMES, FPS = 60, 15.0
# Of x and y (metres on the table), z (height), the turn about the vertical, the gripper (0 open, 1 closed).
LOW = np.array([0.3, -0.3, 0.1, -1.2, 0.0])
HIGH = np.array([0.7, 0.3, 0.5, 1.2, 1.0])
KNOTS = 6  # poses that a trajectory passes, drawn at random
DOWNWARD = (np.pi, 0.0)  # the other two angles
TABLE, FINGERS = np.array([70.0, 90.0, 80.0]), np.array([[235.0, 200.0, 60.0], [80.0, 190.0, 235.0]])


class GripperScenes:
    """Recordings, made when they are read: trajectory `index` is a pure function of (seed, index).

    Args:
        length: how many.
        size: (height, width) of the frames in pixels.
        seed: of the trajectories.

    Raises:
        ValueError: a length below 1, frames of fewer than 16 pixels a side.

    Example:
        >>> scenes = GripperScenes(length=10)
        >>> found = scenes.read(3, TrajectoryWindow(num_frames=8, fps=4), None)
        >>> found["video"].shape, found["states"].shape
        ((8, 64, 64, 3), (8, 7))
    """

    fps = FPS

    def __init__(self, length: int, size: tuple[int, int] = (64, 64), seed: int = 0):
        if length < 1:
            raise ValueError(f"there must be at least one trajectory, got length={length}")
        if min(size) < 16:
            raise ValueError(f"fingers are not to be told apart in frames of {size} pixels: use 16 or more")
        self.length, self.size, self.seed = length, tuple(size), seed

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"gripper scene {index}"

    def widths(self, window: TrajectoryWindow) -> Mapping[str, int]:
        return {"states": 7}

    def read(self, index: int, window: TrajectoryWindow, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        poses = self.poses(index)[window.indices(FRAMES, FPS, rng)]
        return {"video": draw_grippers(poses, self.size), "states": poses}

    def poses(self, index: int) -> np.ndarray:
        """All poses of a trajectory, float64 (60, 7): a smooth way through places that are drawn at random."""
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is out of range for {self.length} trajectories")
        knots = sample_rng(self.seed, 0, index).uniform(LOW, HIGH, (KNOTS, 5))
        time = np.linspace(0, KNOTS - 1, FRAMES)
        first = np.minimum(time.astype(np.int64), KNOTS - 2)
        share = 0.5 - 0.5 * np.cos(np.pi * (time - first))[:, None]  # stops for a moment at each
        x, y, z, turn, gripper = (knots[first] * (1 - share) + knots[first + 1] * share).T
        roll, pitch = (np.full(FRAMES, angle) for angle in DOWNWARD)
        return np.stack([x, y, z, roll, pitch, turn, gripper], axis=1)


def draw_grippers(poses: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames of a gripper over a table.

    Args:
        poses: (T, 7): x runs down the frame, y to the right, z makes the gripper larger.
        size: (height, width) in pixels.

    Returns:
        uint8 (T, height, width, 3)

    Example:
        >>> frames = draw_grippers(GripperScenes(1).poses(0)[:2], (32, 48))
        >>> frames.shape, frames.dtype
        ((2, 32, 48, 3), dtype('uint8'))
    """
    height, width = size
    unit = min(size) / 64
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    share = (poses[:, [0, 1]] - LOW[:2]) / (HIGH - LOW)[:2]
    centre = share * (np.array(size) - 24 * unit) + 12 * unit
    scale = (0.8 + poses[:, 2])[:, None, None] * unit
    turn, opening = poses[:, 5, None, None], (1 + 5 * (1 - poses[:, 6]))[:, None, None]
    down, right = rows - centre[:, 0, None, None], columns - centre[:, 1, None, None]
    along = (down * np.cos(turn) + right * np.sin(turn)) / scale
    across = (right * np.cos(turn) - down * np.sin(turn)) / scale
    frames = np.broadcast_to(TABLE, (len(poses), height, width, 3)).copy()
    frames += 20 * ((rows // (8 * unit) + columns // (8 * unit)) % 2)[None, :, :, None]  # a cloth of squares
    for side, colour in zip((-1, 1), FINGERS, strict=True):
        # Soft borders: a pixel that a finger covers in part has a part of its colour.
        edge = np.maximum(np.abs(along) - 8, np.abs(across - side * (opening + 1.5)) - 1.5)
        cover = np.clip(0.5 - edge * scale, 0, 1)[..., None]
        frames = frames * (1 - cover) + colour * cover
    return np.rint(frames).clip(0, 255).astype(np.uint8)


__all__ = ["GripperScenes", "draw_grippers"]
