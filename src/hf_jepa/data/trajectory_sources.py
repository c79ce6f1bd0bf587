"""Open recorded trajectories, in whichever of the known forms they are."""

from collections.abc import Sequence
from pathlib import Path

from hf_jepa.data.sources import is_hub_id
from hf_jepa.data.trajectories import Recordings
from hf_jepa.data.trajectory_archives import ArchiveRecordings


INFO = "meta/info.json"  # by which a LeRobot data set is known


def load_trajectories(
    name_or_path: str | Path,
    cameras: Sequence[str] | None = None,
    extrinsics: bool = False,
    state_column: str | None = "observation.state",
    action_column: str = "action",
    revision: str | None = None,
) -> Recordings:
    """Open recorded trajectories; nothing is decoded.

    Args:
        name_or_path: a folder of `.npz` files (`ArchiveRecordings`), a LeRobot data set as a folder or Hub id
            (`LeRobotRecordings`), or DROID-style trajectories (`DroidRecordings`): a folder that holds them at any
            depth, or a `.csv` list of their folders.
        cameras: to choose from; those of DROID are called as in its metadata, without "_mp4_path".
        extrinsics: read where the camera is, which DROID alone says.
        state_column, action_column: of LeRobot data; None leaves states out, also of `.npz` files.
        revision: of a data set on the Hub.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without trajectories.
        ValueError: a camera or column that does not exist, extrinsics of other data than DROID's.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = tempfile.mkdtemp()
        >>> np.savez(f"{folder}/0.npz", video=np.zeros((9, 4, 4, 3), np.uint8), actions=np.zeros((8, 2)))
        >>> len(load_trajectories(folder, state_column=None))
        1
    """
    path = Path(name_or_path).expanduser()
    lerobot = (path / INFO).is_file() or (not path.exists() and is_hub_id(str(name_or_path)))
    droid = not lerobot and (path.suffix == ".csv" or (path.is_dir() and not any(path.glob("*.npz"))))
    if extrinsics and not droid:
        raise ValueError(f"{name_or_path}: only DROID-style trajectories say where the camera is")
    if not lerobot and not path.exists():
        raise FileNotFoundError(f"no such file or folder: {name_or_path}")
    if lerobot:
        from hf_jepa.data.trajectory_lerobot import LeRobotRecordings

        return LeRobotRecordings(name_or_path, cameras, state_column, action_column, revision)
    if droid:
        from hf_jepa.data.trajectory_droid import DroidRecordings

        return DroidRecordings(path, cameras or ("left",), extrinsics)
    if cameras:
        raise ValueError(f"cameras={list(cameras)}: the files of {name_or_path} have one camera each")
    return ArchiveRecordings(path, states=state_column is not None)


__all__ = ["load_trajectories"]
