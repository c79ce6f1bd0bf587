"""Trajectories as the raw DROID data has them (arXiv 2403.12945): a folder each, with a table, videos and metadata.

    trajectory.h5               observation/robot_state/cartesian_position  (N, 6): x, y, z in metres, three angles
                                observation/robot_state/gripper_position    (N,):   0 open, 1 closed
                                observation/camera_extrinsics/<camera>_left (N, 6): where a camera is, by its number
    metadata_*.json             "<name>_mp4_path": "(anything/)recordings/MP4/<camera>.mp4", for each camera
    recordings/MP4/<camera>.mp4

Angles are extrinsic, "xyz" of SciPy, in radians. The videos have the frame rate of the table.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from hf_jepa.data.trajectories import TrajectoryWindow
from hf_jepa.data.video_readers import VideoError, natural_order, open_video


if TYPE_CHECKING:
    import h5py


TABLE, VIDEOS = "trajectory.h5", "recordings/MP4"
ROBOT, CAMERAS = "observation/robot_state", "observation/camera_extrinsics"
CAMERA_KEY = "{}_mp4_path"


class DroidRecordings:
    """DROID-style trajectories: frames of one of the cameras, and the pose of the end effector in each.

    Args:
        path: a folder that holds trajectories at any depth, or a `.csv` list with the folder of one trajectory per
            line (official form), relative ones to the list.
        cameras: names to choose from, drawn anew in every epoch: "left" is what the released V-JEPA 2-AC saw; DROID
            also has "right", "wrist", "ext1", "ext2".
        extrinsics: read where the camera is, too.

    Raises:
        ImportError: h5py is not installed.
        FileNotFoundError: no such path, or no trajectories there.
        ValueError: no cameras.

    Example:
        >>> import tempfile
        >>> from hf_jepa.data.gripper_scenes import GripperScenes, draw_grippers
        >>> folder = Path(tempfile.mkdtemp())
        >>> from hf_jepa.data.trajectory_droid_writer import write_droid_trajectory
        >>> poses = GripperScenes(1).poses(0)
        >>> _ = write_droid_trajectory(folder / "first", {"left": draw_grippers(poses, (32, 48))}, poses, fps=15)
        >>> found = DroidRecordings(folder).read(0, TrajectoryWindow(8, fps=4), None)
        >>> found["video"].shape, found["states"].shape
        ((8, 32, 48, 3), (8, 7))
    """

    def __init__(self, path: str | Path, cameras: Sequence[str] = ("left",), extrinsics: bool = False):
        require_h5py()
        if isinstance(cameras, str) or not cameras:
            raise ValueError(f"cameras must be one or more names, got {cameras!r}")
        self.folders = find_droid_folders(path)
        self.cameras, self.extrinsics = tuple(cameras), extrinsics

    def __len__(self) -> int:
        return len(self.folders)

    def name(self, index: int) -> str:
        return str(self.folders[index])

    def widths(self, window: TrajectoryWindow) -> Mapping[str, int]:
        return {"states": 7} | ({"extrinsics": 6} if self.extrinsics else {})

    def read(self, index: int, window: TrajectoryWindow, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        folder = self.folders[index]
        camera = self.cameras[0] if rng is None else self.cameras[int(rng.integers(len(self.cameras)))]
        video_path = _video_of(folder, camera)
        with open_video(video_path) as video, require_h5py().File(folder / TABLE) as table:
            poses = _poses(table)
            # A recording that ended a frame early or late has a video one frame longer or shorter than its table.
            frames = window.indices(min(video.num_frames, len(poses)), video.fps, rng)
            found = {"video": video.read(frames), "states": poses[frames]}
            if self.extrinsics:
                found["extrinsics"] = _column(table, f"{CAMERAS}/{video_path.stem}_left")[frames]
        return found


def find_droid_folders(path: str | Path) -> list[Path]:
    """The folders of trajectories, in natural order, or in that of a list.

    Args:
        path: see `DroidRecordings`.

    Raises:
        FileNotFoundError: no such path, or no trajectories there.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("lab/run_10", "lab/run_9"):
        ...     (root / name).mkdir(parents=True)
        ...     (root / name / "trajectory.h5").touch()
        >>> [folder.name for folder in find_droid_folders(root)]
        ['run_9', 'run_10']
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            lines = [row[0].strip() for row in csv.reader(file, delimiter=" ") if row and row[0].strip()]
        folders = [path.parent / line for line in lines]
    else:
        tables = path.rglob(TABLE)
        folders = sorted((table.parent for table in tables), key=lambda f: (f.parent.as_posix(), natural_order(f)))
    if not folders:
        raise FileNotFoundError(f"{path} names no trajectories: a trajectory is a folder with {TABLE}")
    return folders


def _video_of(folder: Path, camera: str) -> Path:
    """The video of a camera, by its name in the metadata."""
    found = sorted(folder.glob("metadata_*.json")) or sorted(folder.glob("*.json"))
    if not found:
        raise VideoError("no metadata_*.json says which video is of which camera")
    metadata = json.loads(found[0].read_text(encoding="utf-8"))
    key = CAMERA_KEY.format(camera)
    if not isinstance(metadata, dict) or not metadata.get(key):
        known = [name.removesuffix("_mp4_path") for name in metadata if str(name).endswith("_mp4_path")]
        raise VideoError(f"{found[0].name} has no camera {camera!r}, only {', '.join(sorted(known)) or 'none'}")
    path = folder / VIDEOS / Path(metadata[key]).name  # paths there are those of the disk it was recorded on
    if not path.is_file():
        raise VideoError(f"the video of camera {camera!r} is missing: {VIDEOS}/{path.name}")
    return path


def _poses(table: "h5py.File") -> np.ndarray:
    """(N, 7)"""
    place, gripper = _column(table, f"{ROBOT}/cartesian_position"), _column(table, f"{ROBOT}/gripper_position")
    gripper = gripper.reshape(len(gripper), -1)
    if place.ndim != 2 or place.shape[1] != 6 or gripper.shape != (len(place), 1):
        raise VideoError(f"{TABLE} has positions of shape {place.shape} and grippers of shape {gripper.shape}")
    return np.concatenate([place, gripper], axis=1)


def _column(table: "h5py.File", name: str) -> np.ndarray:
    if name not in table:
        raise VideoError(f"{TABLE} has no {name}")
    return np.asarray(table[name][()], np.float64)


def require_h5py() -> ModuleType:
    """The library that reads and writes the tables.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('tables of DROID need h5py: run `pip install "hf_jepa[robots]"`') from error
    return h5py


__all__ = [
    "CAMERAS",
    "CAMERA_KEY",
    "ROBOT",
    "TABLE",
    "VIDEOS",
    "DroidRecordings",
    "find_droid_folders",
    "require_h5py",
]
