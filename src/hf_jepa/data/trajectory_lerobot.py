"""Trajectories of LeRobot data sets, versions 2 and 3: parquet tables, videos, and what `meta/info.json` says of them.

Version 2 has a table and a video for each episode, version 3 many episodes in each file, and tables in `meta/episodes`
that say where they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_jepa.data.trajectories import TrajectoryWindow
from hf_jepa.data.trajectory_archives import actions_between
from hf_jepa.data.video_readers import VideoError, VideoReader, open_video


if TYPE_CHECKING:
    import datasets

INFO = "meta/info.json"
EPISODES = {2: "meta/episodes.jsonl", 3: "meta/episodes/**/*.parquet"}
NEEDED = ("data_path", "video_path", "chunks_size", "fps", "features")
FRAMES = ("video", "image")  # kinds of columns that cameras have


@dataclass(frozen=True)
class Episode:
    """Where an episode is.

    Args:
        number: `episode_index`.
        start, length: its rows among those of all tables.
        places: fields of the path templates, by camera; of version 3 also "from_timestamp", seconds at which it
            begins in its video.
    """

    number: int
    start: int
    length: int
    places: Mapping[str, Mapping[str, Any]]


class LeRobotRecordings:
    """The episodes of a LeRobot data set: frames of a camera, states, and the actions between them.

    `action` of a row is done after its frame, so the actions of all rows from one frame of a sample up to the next
    stand one after another in one row, `frame_step * A` numbers, as in LeWM.

    Args:
        name_or_path: a folder, or a Hub id, of which the tables and the videos of the chosen cameras are downloaded.
        cameras: to choose from, drawn anew in every epoch: columns, with or without "observation.images."; may be left
            out where there is one camera.
        state_column: of the states; None leaves them out.
        action_column: of the actions.
        revision: of a data set on the Hub.

    Raises:
        FileNotFoundError: a folder without `meta/info.json`, or without the files that it names.
        ValueError: another version, an unknown camera or column; the message lists those there are.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        cameras: Sequence[str] | None = None,
        state_column: str | None = "observation.state",
        action_column: str = "action",
        revision: str | None = None,
    ):
        self.root = _folder(name_or_path, revision, "meta/**")
        self.info, self.version = _read_info(self.root)
        self.fps = float(self.info["fps"])
        features = self.info["features"]
        self.cameras = _cameras(self.root, features, cameras)
        if self.root != Path(name_or_path).expanduser():
            videos = [f"videos/**/{camera}/**" for camera in self.cameras]
            _folder(name_or_path, revision, "data/**", *videos, *(f"videos/{camera}/**" for camera in self.cameras))
        self.columns = {"actions": action_column} | ({"states": state_column} if state_column else {})
        for name, column in self.columns.items():
            if column not in features or features[column]["dtype"] in (*FRAMES, "string"):
                known = [key for key, each in features.items() if each["dtype"].startswith("float")]
                raise ValueError(f"{self.root}: no {name} in a column {column!r}, only {', '.join(sorted(known))}")
        self._sizes = {name: int(np.prod(features[column]["shape"])) for name, column in self.columns.items()}
        self.episodes = _episodes(self.root, self.version, self.info, self.cameras)
        self._rows = _open_tables(self.root, self.version, self.info, self.episodes, self._read_columns())

    def _read_columns(self) -> list[str]:
        images = [camera for camera in self.cameras if self._is_image(camera)]
        return ["episode_index", "frame_index", *self.columns.values(), *images]

    def _is_image(self, camera: str) -> bool:
        return self.info["features"][camera]["dtype"] == "image"

    def __len__(self) -> int:
        return len(self.episodes)

    def name(self, index: int) -> str:
        return f"{self.root.name}, episode {self.episodes[index].number}"

    def widths(self, window: TrajectoryWindow) -> Mapping[str, int]:
        return self._sizes | {"actions": self._sizes["actions"] * window.step(self.fps)}

    def read(self, index: int, window: TrajectoryWindow, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        episode = self.episodes[index]
        camera = self.cameras[0] if rng is None else self.cameras[int(rng.integers(len(self.cameras)))]
        frames = window.indices(episode.length, self.fps, rng)
        first = episode.start + int(frames[0])
        rows = self._rows[first : episode.start + int(frames[-1]) + 1]
        numbers = np.asarray(rows["episode_index"]).ravel(), np.asarray(rows["frame_index"]).ravel()
        if not ((numbers[0] == episode.number).all() and (np.diff(numbers[1]) == 1).all()):
            raise VideoError(f"rows {first} and on of the tables are not those of the episode, as {INFO} has it")
        values = {name: np.asarray(rows[column], np.float64) for name, column in self.columns.items()}
        values = {name: each.reshape(len(each), -1) for name, each in values.items()}
        found = {"actions": actions_between(values["actions"], frames - frames[0])}
        if "states" in values:
            found["states"] = values["states"][frames - frames[0]]
        if self._is_image(camera):
            with open_video([rows[camera][frame] for frame in frames - frames[0]]) as video:
                return found | {"video": video.read(range(len(frames)))}
        return found | {"video": self._read_video(episode, camera, frames)}

    def _read_video(self, episode: Episode, camera: str, frames: np.ndarray) -> np.ndarray:
        place = episode.places[camera]
        path = self.root / self.info["video_path"].format(video_key=camera, **place)
        with open_video(path) as video:
            begin = round(place.get("from_timestamp", 0.0) * self.fps)
            self._require_frames(video, begin + episode.length)
            return video.read(begin + frames)

    def _require_frames(self, video: VideoReader, needed: int) -> None:
        if video.fps is not None and abs(video.fps - self.fps) > 0.02 * self.fps:
            raise VideoError(f"the video has {video.fps:g} frames per second, {INFO} says {self.fps:g}")
        if video.num_frames < needed:
            raise VideoError(f"the video has {video.num_frames} frames, the table needs {needed}")


def _folder(name_or_path: str | Path, revision: str | None, *patterns: str) -> Path:
    """The folder of a data set, with the files that are asked for."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    downloaded = snapshot_download(
        str(name_or_path), repo_type="dataset", revision=revision, allow_patterns=list(patterns)
    )
    return Path(downloaded)


def _read_info(root: Path) -> tuple[dict[str, Any], int]:
    """`meta/info.json`, and the version of the format."""
    path = root / INFO
    if not path.is_file():
        raise FileNotFoundError(f"{root} has no {INFO}: it is no LeRobot data set")
    info = json.loads(path.read_text(encoding="utf-8"))
    version = str(info.get("codebase_version", ""))
    if not version.startswith(("v2", "v3")):
        raise ValueError(f"{path}: codebase_version is {version!r}, versions 2 and 3 can be read")
    if lost := [name for name in NEEDED if name not in info]:
        raise ValueError(f"{path} lacks {', '.join(lost)}")
    return info, int(version[1])


def _cameras(root: Path, features: Mapping[str, Any], wanted: Sequence[str] | None) -> list[str]:
    known = [name for name, feature in features.items() if feature["dtype"] in FRAMES]
    if not wanted:
        if len(known) != 1:
            raise ValueError(f"{root} has the cameras {', '.join(known) or 'none'}: choose by cameras=...")
        return known
    chosen = [name if name in known else f"observation.images.{name}" for name in wanted]
    if unknown := [name for name, full in zip(wanted, chosen, strict=True) if full not in known]:
        raise ValueError(f"{root} has no camera {unknown[0]!r}, only {', '.join(known) or 'none'}")
    return chosen


def _episodes(root: Path, version: int, info: Mapping[str, Any], cameras: Sequence[str]) -> list[Episode]:
    """All episodes, in the order of their numbers."""
    rows = _episode_rows(root, version)
    if not rows:
        raise ValueError(f"{root} has no episodes")
    found, start = [], 0
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        number, length = int(row["episode_index"]), int(row["length"])
        if version == 2:
            place = {"episode_chunk": number // int(info["chunks_size"]), "episode_index": number}
            places = dict.fromkeys(cameras, place)
        else:
            start = int(row["dataset_from_index"])
            fields = ("chunk_index", "file_index", "from_timestamp")
            videos = [camera for camera in cameras if info["features"][camera]["dtype"] == "video"]
            places = {camera: {name: row[f"videos/{camera}/{name}"] for name in fields} for camera in videos}
        found.append(Episode(number, start, length, places))
        start += length
    return found


def _episode_rows(root: Path, version: int) -> list[dict[str, Any]]:
    paths = sorted(root.glob(EPISODES[version]))
    if not paths:
        raise FileNotFoundError(f"{root} has no {EPISODES[version]}")
    if version == 2:
        return [json.loads(line) for line in paths[0].read_text(encoding="utf-8").splitlines() if line.strip()]
    import pyarrow.parquet as parquet

    tables = [parquet.read_table(path) for path in paths]
    keep = lambda name: not name.startswith("stats/") and name != "tasks"  # noqa: E731  which are large
    return [row for table in tables for row in table.select(list(filter(keep, table.column_names))).to_pylist()]


def _open_tables(
    root: Path, version: int, info: Mapping[str, Any], episodes: Sequence[Episode], columns: list[str]
) -> "datasets.Dataset":
    """The rows of all episodes, one after another."""
    import datasets

    if version == 2:
        size = int(info["chunks_size"])
        names = [
            info["data_path"].format(episode_chunk=each.number // size, episode_index=each.number) for each in episodes
        ]
        paths = [root / name for name in names]
    else:
        paths = sorted((root / "data").glob("**/*.parquet"))
    if lost := [path for path in paths if not path.is_file()] or ([] if paths else [root / "data"]):
        raise FileNotFoundError(f"{len(lost)} tables are missing, among them {lost[0]}")
    rows = datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train", columns=columns)
    if len(rows) != (total := sum(each.length for each in episodes)):
        raise ValueError(f"{root}: the tables have {len(rows)} rows, the episodes {total}")
    for column in columns:  # undecoded, as `open_video` takes them
        if isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


__all__ = ["Episode", "LeRobotRecordings"]
