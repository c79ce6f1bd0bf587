"""Trajectories of LeRobot data sets: episodes of both versions, their frames, states and actions."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from clips import numbers_of
from trajectory_folders import write_lerobot

from hf_jepa.data import trajectory_lerobot
from hf_jepa.data.trajectories import TrajectoryCollator, TrajectoryDataset, TrajectoryWindow
from hf_jepa.data.trajectory_lerobot import LeRobotRecordings
from hf_jepa.data.trajectory_sources import load_trajectories


LENGTHS = (30, 20, 25)
KEY = "observation.images.top"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set of each version, and one with images in its table."""
    root = tmp_path_factory.mktemp("lerobot")
    kinds = {"v2": (2, False), "v3": (3, False), "images": (3, True)}
    return {name: write_lerobot(root / name, version, LENGTHS, images=i) for name, (version, i) in kinds.items()}


def dataset(recordings, window: TrajectoryWindow, **options) -> TrajectoryDataset:
    return TrajectoryDataset(recordings, lambda frames, rng: torch.from_numpy(frames), window, **options)


@pytest.mark.parametrize("kind", ["v2", "v3", "images"])
def test_frames_states_and_actions_are_of_one_episode(folders, kind):
    data = dataset(load_trajectories(folders[kind]), TrajectoryWindow(4, fps=4))  # every third of 10 per second
    starts = np.cumsum([0, *LENGTHS])
    begins = set()
    for epoch in range(3):
        data.set_epoch(epoch)
        for index in range(3):
            sample = data[index]
            frames = numbers_of(sample["pixel_values_videos"].numpy())
            assert np.diff(frames).tolist() == [3] * 3
            assert starts[index] <= frames[0] and frames[-1] < starts[index + 1]
            assert sample["states"].tolist() == [[frame, 0, 1] for frame in frames]
            # What was done at all three frames from one of the sample up to the next.
            assert sample["actions"].tolist() == [
                [sign * (frame + k) for k in range(3) for sign in (1, -1)] for frame in frames[:-1]
            ]
            begins.add(frames[0] - starts[index])
    assert len(begins) > 4


def test_columns_are_chosen(folders):
    recordings = LeRobotRecordings(folders["v3"], ["top"], None, "observation.state")
    assert recordings.cameras == [KEY]
    assert recordings.widths(TrajectoryWindow(3, frame_step=2)) == {"actions": 6}
    assert "states" not in dataset(recordings, TrajectoryWindow(3, frame_step=2))[0]
    with pytest.raises(ValueError, match="no actions in a column 'motors', only action, observation.state"):
        LeRobotRecordings(folders["v3"], action_column="motors")
    with pytest.raises(ValueError, match=rf"no camera 'wrist', only {KEY}"):
        LeRobotRecordings(folders["v3"], ["wrist"])
    with pytest.raises(ValueError, match="only DROID-style trajectories say where the camera is"):
        load_trajectories(folders["v3"], extrinsics=True)


def changed_info(source, target, **fields) -> None:
    shutil.copytree(source, target)
    info = json.loads((target / "meta/info.json").read_text())
    (target / "meta/info.json").write_text(json.dumps(info | fields))


def test_what_is_no_such_data_set_is_refused(folders, tmp_path):
    changed_info(folders["v3"], tmp_path / "v1", codebase_version="v1.6")
    with pytest.raises(ValueError, match="codebase_version is 'v1.6', versions 2 and 3 can be read"):
        LeRobotRecordings(tmp_path / "v1")
    with pytest.raises(FileNotFoundError, match="has no meta/info.json: it is no LeRobot data set"):
        LeRobotRecordings(tmp_path)
    shutil.copytree(folders["v2"], tmp_path / "v2")
    next((tmp_path / "v2").glob("data/**/episode_000001.parquet")).unlink()
    with pytest.raises(FileNotFoundError, match="1 tables are missing, among them .*episode_000001.parquet"):
        LeRobotRecordings(tmp_path / "v2")
    shutil.copytree(folders["v2"], tmp_path / "longer")
    with open(tmp_path / "longer/meta/episodes.jsonl", "w") as file:
        file.writelines(json.dumps({"episode_index": i, "length": 30}) + "\n" for i in range(3))
    with pytest.raises(ValueError, match="the tables have 75 rows, the episodes 90"):
        LeRobotRecordings(tmp_path / "longer")


def test_a_damaged_episode_is_named_and_left_out(folders, tmp_path):
    shutil.copytree(folders["v2"], tmp_path / "video")
    broken = sorted((tmp_path / "video").glob("videos/**/*.mp4"))
    broken[0].write_bytes(b"no video")
    shutil.copy(broken[2], broken[1])  # 25 frames where 20 are needed are enough, 20 for 25 are not
    shutil.copy(next(folders["v2"].glob("videos/**/episode_000001.mp4")), broken[2])
    data = dataset(LeRobotRecordings(tmp_path / "video"), TrajectoryWindow(4, frame_step=3))
    batch = TrajectoryCollator()([data[0], data[1], data[2]])
    assert batch["sample_index"].tolist() == [1]
    assert batch["skipped"][0].startswith("video, episode 0: Invalid data")
    assert batch["skipped"][1] == "video, episode 2: the video has 20 frames, the table needs 25"
    # Rows that are not those of the episode, though they are as many.
    shutil.copytree(folders["v2"], tmp_path / "rows")
    table = next((tmp_path / "rows").glob("data/**/episode_000000.parquet"))
    rows = datasets.load_dataset("parquet", data_files=str(table), split="train")
    rows.map(lambda row: {"episode_index": 5}).to_parquet(table)
    data = dataset(LeRobotRecordings(tmp_path / "rows"), TrajectoryWindow(4, frame_step=3))
    assert "are not those of the episode" in str(data[0]) and isinstance(data[1], dict)


def test_of_a_hub_id_only_what_is_needed_is_downloaded(folders, monkeypatch):
    asked = []

    def snapshot_download(name, repo_type, revision, allow_patterns):
        asked.append((name, repo_type, revision, allow_patterns))
        return str(folders["v3"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    data = load_trajectories("someone/robot", cameras=["top"], revision="v3.0")
    assert len(data) == 3 and trajectory_lerobot.INFO == "meta/info.json"
    assert [call[:3] for call in asked] == [("someone/robot", "dataset", "v3.0")] * 2
    assert asked[0][3] == ["meta/**"]
    assert asked[1][3] == ["data/**", f"videos/**/{KEY}/**", f"videos/{KEY}/**"]
