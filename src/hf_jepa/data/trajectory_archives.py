"""Trajectories in NumPy archives, one file each: the simplest form that recordings of one's own can have."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hf_jepa.data.trajectories import TrajectoryWindow
from hf_jepa.data.video_readers import VideoError, natural_order


class ArchiveRecordings:
    """A folder of `.npz` files: `video` uint8 (N, H, W, 3), `actions` (N - 1, A) or (N, A), and optionally `states`
    (N, P) and `fps`.

    `actions[t]` leads from frame t to frame t + 1, so the last of N is not used. Where a sample leaves frames out, the
    actions between two of its frames stand one after another in one row of `frame_step * A` numbers, as in LeWM.

    Args:
        folder: whose files are read, in natural order.
        states: whether states are wanted.

    Raises:
        FileNotFoundError: no such files.
        ValueError: the first file lacks what is wanted.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> video = np.zeros((20, 4, 6, 3), np.uint8)
        >>> np.savez(folder / "0.npz", video=video, actions=np.arange(19.0)[:, None], states=np.zeros((20, 2)))
        >>> found = ArchiveRecordings(folder).read(0, TrajectoryWindow(3, frame_step=2), None)
        >>> found["actions"].tolist(), found["states"].shape
        ([[7.0, 8.0], [9.0, 10.0]], (3, 2))
    """

    def __init__(self, folder: str | Path, states: bool = True):
        self.paths = sorted(Path(folder).expanduser().glob("*.npz"), key=natural_order)
        if not self.paths:
            raise FileNotFoundError(f"{folder} has no .npz files")
        self.states = states
        with np.load(self.paths[0], allow_pickle=False) as first:
            wanted = ("video", "actions", *(("states",) if states else ()))
            if lost := [name for name in wanted if name not in first]:
                raise ValueError(f"{self.paths[0]} lacks {', '.join(lost)}, it has {', '.join(first)}")
            self._widths = {name: int(first[name].shape[-1]) for name in wanted[1:]}

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def widths(self, window: TrajectoryWindow) -> Mapping[str, int]:
        return self._widths | {"actions": self._widths["actions"] * blocks(window)}

    def read(self, index: int, window: TrajectoryWindow, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        with np.load(self.paths[index], allow_pickle=False) as file:
            video, actions = file["video"], file["actions"]
            if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
                raise VideoError(f"video must be uint8 (N, H, W, 3), got {video.dtype} of shape {video.shape}")
            if actions.ndim != 2 or len(actions) not in (len(video) - 1, len(video)):
                raise VideoError(f"{len(video)} frames need as many actions or one less, got shape {actions.shape}")
            frames = window.indices(len(video), float(file["fps"]) if "fps" in file else None, rng)
            found = {"video": video[frames], "actions": actions_between(actions, frames)}
            if self.states:
                states = file["states"]
                if len(states) != len(video):
                    raise VideoError(f"{len(video)} frames have {len(states)} states")
                found["states"] = states[frames]
        return found


def blocks(window: TrajectoryWindow) -> int:
    """How many recorded actions lie between two frames of a sample, where that is the same in all recordings."""
    if window.frame_step is None:
        raise ValueError("recorded actions between two frames must be equally many everywhere: give frame_step")
    return window.frame_step


def actions_between(actions: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The recorded actions between the frames of a sample, one after another in a row.

    Args:
        actions: (N, A), of which number t leads from frame t to the next.
        frames: (T,), equally spaced.

    Returns:
        (T - 1, step * A)

    Example:
        >>> actions_between(np.arange(8).reshape(4, 2), np.array([0, 2])).tolist()
        [[0, 1, 2, 3]]
    """
    rows = len(frames) - 1
    return actions[frames[0] : frames[-1]].reshape(rows, -1)


__all__ = ["ArchiveRecordings", "actions_between", "blocks"]
