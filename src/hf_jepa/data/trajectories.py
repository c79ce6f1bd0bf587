"""Windows of recorded trajectories: frames, what was done between them, and where the agent was in each.

A trajectory that cannot be read, or is too short, does not raise: its place is taken by an `UndecodableTrajectory`,
which the collator drops and names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from hf_jepa.data.decoding import UndecodableImage
from hf_jepa.data.shared_epoch import RowDataset
from hf_jepa.data.transforms import sample_rng
from hf_jepa.data.video_readers import VIDEO_ERRORS, VideoError
from hf_jepa.data.video_sampling import ShortVideoError


@dataclass(frozen=True)
class UndecodableTrajectory(UndecodableImage):
    """Takes the place of a sample whose trajectory cannot be read; `str()` of it is "name: reason".

    Args:
        sample_index, source, reason: as in `UndecodableImage`.
        shape: of the pixels it would have had, (T, C, H, W).
        others: shapes of what else it would have had, by name.

    Example:
        >>> str(UndecodableTrajectory(7, "run/7", "no metadata_*.json", (8, 3, 32, 32), {"states": (8, 7)}))
        'run/7: no metadata_*.json'
    """

    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrajectoryWindow:
    """Which frames of a trajectory make a sample.

    Args:
        num_frames: T.
        fps: frames of a sample per second; their distance is rounded up to whole frames of the recording, as in the
            official V-JEPA 2 code, so that a recording of 10 frames per second gives 3.3 of 4 that are asked for.
        frame_step: or their distance in frames of the recording.
        official: where the window begins: False, uniform over all places where T frames fit. True, as the official
            code has it: `T * frame_step` frames must fit, the last of which are never seen.

    Raises:
        ValueError: not exactly one of fps and frame_step, or a number that is not positive.

    Example:
        >>> TrajectoryWindow(num_frames=8, fps=4).step(15.0)
        4
    """

    num_frames: int
    fps: float | None = None
    frame_step: int | None = None
    official: bool = False

    def __post_init__(self):
        given = {"fps": self.fps, "frame_step": self.frame_step}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of fps and frame_step, got {given or 'none'}")
        for name, value in (given | {"num_frames": self.num_frames}).items():
            if not value > 0 or (name != "fps" and value != int(value)):
                raise ValueError(f"{name} must be positive{'' if name == 'fps' else ' and whole'}, got {value!r}")

    def step(self, recorded_fps: float | None) -> int:
        """Distance of two frames, in frames of a recording of `recorded_fps` frames per second.

        Raises:
            VideoError: the rate is needed and not known.
        """
        if self.frame_step is not None:
            return self.frame_step
        if recorded_fps is None:
            raise VideoError("the frame rate is not known: choose frames by frame_step")
        return math.ceil(recorded_fps / self.fps)

    def indices(self, length: int, recorded_fps: float | None, rng: np.random.Generator | None = None) -> np.ndarray:
        """The frames of a window.

        Args:
            length: frames of the recording.
            recorded_fps: its rate, None if not known.
            rng: draws the place; None takes the middle.

        Returns:
            int64 (T,), ascending.

        Raises:
            ShortVideoError: the recording is shorter than a window.

        Example:
            >>> TrajectoryWindow(num_frames=3, frame_step=4).indices(20, None).tolist()
            [5, 9, 13]
        """
        step = self.step(recorded_fps)
        span = self.num_frames * step if self.official else (self.num_frames - 1) * step + 1
        places = length - span + (0 if self.official else 1)
        if places < 1:
            needed = span + (1 if self.official else 0)
            raise ShortVideoError(
                f"the trajectory has {length} frames, a window of {self.num_frames} x {step} needs {needed}"
            )
        first = (places - 1) // 2 if rng is None else int(rng.integers(places))
        return first + step * np.arange(self.num_frames)


class Recordings(Protocol):
    """Trajectories on disk, of which windows are read."""

    def __len__(self) -> int: ...

    def widths(self, window: TrajectoryWindow) -> Mapping[str, int]:
        """What a window has beside its frames, and how many numbers of each."""
        ...

    def name(self, index: int) -> str:
        """What a message calls a trajectory."""
        ...

    def read(self, index: int, window: TrajectoryWindow, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """ "video" uint8 (T, H, W, 3), and what `widths` names: "actions" (T - 1, A), all else (T, n)."""
        ...


class TrajectoryDataset(RowDataset):
    """Map-style data set of windows of recorded trajectories, one of each in an epoch.

    The random numbers of a sample follow from (seed, epoch, index) alone: workers, ranks, order and resuming change
    neither the window, nor the camera, nor the crop. Whoever iterates tells it the epoch by `set_epoch`.

    Args:
        recordings: `DroidRecordings`, `LeRobotRecordings`, or anything else of the form of `Recordings`.
        transform: called as `transform(frames, rng)` with uint8 (T, H, W, 3).
        window: which frames make a sample.
        derive: called with the tensors of a sample, gives those that a model is told: for poses the actions between
            them, see `PoseActions`.
        random_window: draw where windows begin (training); otherwise they are in the middle.
        rows: numbers of the trajectories that belong to the data set; all unless given.
        seed: of windows, cameras and transforms.

    Raises:
        ValueError: no trajectories, or a negative seed.

    Example:
        >>> class Counting:
        ...     def widths(self, window): return {"actions": 1}
        ...     def __len__(self): return 2
        ...     def name(self, index): return f"run {index}"
        ...     def read(self, index, window, rng):
        ...         frames = window.indices(20, None, rng)
        ...         video = np.zeros((len(frames), 4, 6, 3), np.uint8)
        ...         return {"video": video, "actions": np.diff(frames)[:, None]}
        >>> from hf_jepa.data.video_transforms import clip_evaluation_transform
        >>> data = TrajectoryDataset(Counting(), clip_evaluation_transform(8), TrajectoryWindow(4, frame_step=5))
        >>> sample = data[0]
        >>> sample["pixel_values_videos"].shape, sample["actions"].flatten().tolist()
        (torch.Size([4, 3, 8, 8]), [5.0, 5.0, 5.0])
    """

    items = "trajectories"

    def __init__(
        self,
        recordings: Recordings,
        transform: Callable,
        window: TrajectoryWindow,
        derive: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        random_window: bool = True,
        rows: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.rows = range(len(recordings)) if rows is None else rows
        if not len(self.rows):
            raise ValueError("there are no trajectories")
        self.recordings, self.transform, self.window, self.derive = recordings, transform, window, derive
        self.random_window = random_window

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any] | UndecodableTrajectory:
        """ "pixel_values_videos" (T, C, H, W), "actions" (T - 1, A), "states" (T, P), ..., "sample_index"."""
        try:
            found = self.recordings.read(self.rows[index], self.window, rng if self.random_window else None)
            self._check(found)
        except VIDEO_ERRORS as error:
            blank = self._finish(self._blank(), sample_rng(self.seed, 0, 0))
            shapes = {name: tuple(value.shape) for name, value in blank.items()}
            shape = shapes.pop("pixel_values_videos")
            return UndecodableTrajectory.of(error, index, self.recordings.name(self.rows[index]), shape, others=shapes)
        return self._finish(found, rng) | {"sample_index": index}

    def _check(self, found: dict[str, np.ndarray]) -> None:
        for name, width in self.recordings.widths(self.window).items():
            values, rows = found[name], self.window.num_frames - (name == "actions")
            if values.shape != (rows, width):
                raise VideoError(f"{name} are of shape {values.shape}, expected ({rows}, {width})")
            if not np.isfinite(values).all():
                raise VideoError(f"{name} are not finite")

    def _blank(self) -> dict[str, np.ndarray]:
        frames, others = self.window.num_frames, self.recordings.widths(self.window)
        zeros = {name: np.zeros((frames - (name == "actions"), width)) for name, width in others.items()}
        return zeros | {"video": np.zeros((frames, 16, 16, 3), np.uint8)}

    def _finish(self, found: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Pixels as the model sees them, and what it is told."""
        pixels = self.transform(found["video"], rng)
        told = {
            name: torch.from_numpy(np.asarray(values, np.float64)) for name, values in found.items() if name != "video"
        }
        told = self.derive(told) if self.derive else told
        return {"pixel_values_videos": pixels} | {name: values.float() for name, values in told.items()}


class TrajectoryCollator:
    """Stack samples to a batch, leaving out the trajectories that could not be read.

    The batch has `pixel_values_videos` (B, T, C, H, W), `actions` (B, T - 1, A), `states` (B, T, P) and whatever else
    samples have, `sample_index` (B,), and `skipped`, one "name: reason" per trajectory left out. A batch of which
    nothing could be read has no row.

    Raises:
        ValueError: samples that have different things, or of different shapes.

    Example:
        >>> good = {"pixel_values_videos": torch.zeros(3, 3, 8, 8), "actions": torch.zeros(2, 7), "sample_index": 5}
        >>> bad = UndecodableTrajectory(6, "run/6", "no trajectory.h5", (3, 3, 8, 8), {"actions": (2, 7)})
        >>> batch = TrajectoryCollator()([good, bad])
        >>> batch["actions"].shape, batch["sample_index"], batch["skipped"]
        (torch.Size([1, 2, 7]), tensor([5]), ['run/6: no trajectory.h5'])
    """

    def __call__(self, samples: Sequence[dict[str, Any] | UndecodableTrajectory]) -> dict[str, Any]:
        skipped = [str(sample) for sample in samples if isinstance(sample, UndecodableTrajectory)]
        if len(skipped) == len(samples):
            shapes = {"pixel_values_videos": samples[0].shape} | dict(samples[0].others)
            nothing = {name: torch.empty(0, *shape) for name, shape in shapes.items()}
            return nothing | {"sample_index": torch.empty(0).long(), "skipped": skipped}
        read = [sample for sample in samples if not isinstance(sample, UndecodableTrajectory)]
        names = [name for name in read[0] if name != "sample_index"]
        for sample in read[1:]:
            if sample.keys() != read[0].keys():
                raise ValueError(f"trajectories have different things: {sorted(read[0])} and {sorted(sample)}")
        batch = {name: _stacked(name, [sample[name] for sample in read]) for name in names}
        return batch | {"sample_index": torch.tensor([s["sample_index"] for s in read]), "skipped": skipped}


def _stacked(name: str, values: list[torch.Tensor]) -> torch.Tensor:
    if len(shapes := {tuple(value.shape) for value in values}) > 1:
        raise ValueError(f"{name} of the trajectories of a batch differ in shape: {sorted(shapes)}")
    return torch.stack(values)


__all__ = [
    "Recordings",
    "TrajectoryCollator",
    "TrajectoryDataset",
    "TrajectoryWindow",
    "UndecodableTrajectory",
]
