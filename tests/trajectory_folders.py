"""Folders of recorded trajectories whose frames show their own numbers."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from clips import numbered, write_video
from PIL import Image

from hf_jepa.data.trajectory_droid_writer import write_droid_trajectory


def poses(count: int, seed: int = 0) -> np.ndarray:
    """(count, 7): every number tells the frame it is of."""
    rng = np.random.default_rng(seed)
    found = rng.uniform(-1, 1, (count, 7)) * 0.3
    found[:, 0] = np.arange(count)
    found[:, 6] = rng.uniform(0, 1, count)
    return found


def write_droid(root: Path, lengths: tuple[int, ...] = (40, 40), fps: int = 15, **cameras: int) -> Path:
    """Trajectories run_0, run_1, ... Frame i of a camera shows the number i + offset.

    Args:
        cameras: name -> offset; "left" alone unless given.
    """
    for number, length in enumerate(lengths):
        videos = {
            name: np.stack([numbered(i + offset) for i in range(length)])
            for name, offset in (cameras or {"left": 0}).items()
        }
        where = {name: np.tile(np.arange(6.0) + place, (length, 1)) for place, name in enumerate(videos)}
        write_droid_trajectory(root / f"run_{number}", videos, poses(length, number), fps, where)
    return root


def write_lerobot(
    root: Path, version: int = 3, lengths: tuple[int, ...] = (30, 20, 25), fps: int = 10, images: bool = False
) -> Path:
    """Episodes whose frames show their place among all frames; action and state of frame i are (i, -i) and (i, 0, 1).

    Of version 3 the first two episodes share a table and a video, as the last ones share others.
    """
    key, starts = "observation.images.top", [int(sum(lengths[:n])) for n in range(len(lengths))]
    features: dict[str, Any] = {
        "action": {"dtype": "float32", "shape": [2]},
        "observation.state": {"dtype": "float32", "shape": [3]},
        key: {"dtype": "image" if images else "video", "shape": [32, 64, 3]},
    }
    info = {"codebase_version": f"v{version}.0", "fps": fps, "chunks_size": 1000, "features": features}
    if version == 2:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        files = [[number] for number in range(len(lengths))]
    else:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        files = [list(range(min(2, len(lengths)))), list(range(2, len(lengths)))]
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = []
    for place, numbers in enumerate(group for group in files if group):
        _write_file(root, info, key, place, numbers, lengths, starts, images)
        begin = 0.0
        for number in numbers:
            row = {"episode_index": number, "length": lengths[number], "tasks": ["push"]}
            if version == 3:
                end = begin + lengths[number] / fps
                where = {"chunk_index": 0, "file_index": place, "from_timestamp": begin, "to_timestamp": end}
                row |= {f"videos/{key}/{name}": value for name, value in where.items()}
                row |= {"data/chunk_index": 0, "data/file_index": place, "dataset_from_index": starts[number]}
                row |= {"dataset_to_index": starts[number] + lengths[number], "stats/action/mean": [0.0, 0.0]}
                begin = end
            rows.append(row)
    if version == 2:
        (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        (root / "meta/episodes/chunk-000").mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def _write_file(root, info, key, place, numbers, lengths, starts, images) -> None:
    where = {"episode_chunk": 0, "chunk_index": 0, "file_index": place, "episode_index": numbers[0], "video_key": key}
    shown = [starts[number] + frame for number in numbers for frame in range(lengths[number])]
    table = [
        {
            "action": np.array([i, -i], np.float32),
            "observation.state": np.array([i, 0, 1], np.float32),
            "episode_index": number,
            "frame_index": i - starts[number],
            "timestamp": (i - starts[number]) / info["fps"],
        }
        for i, number in zip(shown, (n for n in numbers for _ in range(lengths[n])), strict=True)
    ]
    if images:
        for row, i in zip(table, shown, strict=True):
            row[key] = Image.fromarray(numbered(i))
    path = root / info["data_path"].format(**where)
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(table).to_parquet(path)
    if not images:
        path = root / info["video_path"].format(**where)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, [numbered(i) for i in shown], rate=info["fps"])
