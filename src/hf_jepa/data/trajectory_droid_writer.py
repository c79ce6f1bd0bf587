"""Writing trajectories in the form of the raw DROID data, for recordings of one's own."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hf_jepa.data.trajectory_droid import CAMERA_KEY, CAMERAS, ROBOT, TABLE, VIDEOS, require_h5py


def write_droid_trajectory(
    folder: str | Path,
    videos: Mapping[str, np.ndarray],
    poses: np.ndarray,
    fps: int = 15,
    extrinsics: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a trajectory in the form that `DroidRecordings` reads, for recordings of one's own.

    Args:
        folder: is made, and must not exist.
        videos: frames uint8 (N, H, W, 3) of each camera, by its name; height and width even.
        poses: (N, 7), x, y, z, three angles, gripper.
        fps: frames per second.
        extrinsics: (N, 6) of each camera, by its name.
        metadata: further entries of the json file.

    Returns:
        the folder.

    Raises:
        FileExistsError: the folder exists.
        ValueError: numbers of frames that differ, poses without 7 numbers, cameras without video.
        ImportError: h5py or PyAV is not installed.

    Example:
        >>> from hf_jepa.data.gripper_scenes import GripperScenes, draw_grippers
        >>> poses = GripperScenes(1).poses(0)
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> written = write_droid_trajectory(folder, {"left": draw_grippers(poses, (32, 48))}, poses)
        >>> sorted(path.name for path in written.iterdir())
        ['metadata_run.json', 'recordings', 'trajectory.h5']
    """
    folder, extrinsics = Path(folder), extrinsics or {}
    lengths = {f"{name} has": len(frames) for name, frames in videos.items()} | {"poses have": len(poses)}
    if len(set(lengths.values())) > 1 or np.shape(poses)[1:] != (7,) or not videos:
        raise ValueError(
            f"a trajectory has one or more videos and poses (N, 7), got poses {np.shape(poses)} and "
            f"{', '.join(f'{name} {count} frames' for name, count in lengths.items())}"
        )
    if lost := set(extrinsics) - set(videos):
        raise ValueError(f"extrinsics of {sorted(lost)}, of which there is no video")
    with _new_folder(folder) as temporary:
        numbers = {name: str(1000 + place) for place, name in enumerate(videos)}
        paths = {CAMERA_KEY.format(name): f"{VIDEOS}/{numbers[name]}.mp4" for name in videos}
        (temporary / VIDEOS).mkdir(parents=True)
        for name, frames in videos.items():
            _write_video(temporary / VIDEOS / f"{numbers[name]}.mp4", frames, fps)
        with require_h5py().File(temporary / TABLE, "w") as table:
            table[f"{ROBOT}/cartesian_position"], table[f"{ROBOT}/gripper_position"] = poses[:, :6], poses[:, 6]
            for name, values in extrinsics.items():
                table[f"{CAMERAS}/{numbers[name]}_left"] = values
        text = json.dumps({**(metadata or {}), **paths}, indent=2)
        (temporary / f"metadata_{folder.name}.json").write_text(text + "\n", encoding="utf-8")
    return folder


def _write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    try:
        import av
    except ImportError as error:
        raise ImportError('writing video files needs PyAV: run `pip install "hf_jepa[video]"`') from error
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when all went well and vanishes when not."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (own / folder.name).mkdir()
        yield own / folder.name
        (own / folder.name).rename(folder)
    finally:
        shutil.rmtree(own)


__all__ = ["write_droid_trajectory"]
