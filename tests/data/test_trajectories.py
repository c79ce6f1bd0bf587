"""Windows of recorded trajectories: which frames, what is told of them, and what cannot be read."""

import json

import numpy as np
import pytest
import torch
from clips import numbers_of
from torch.utils.data import DataLoader
from trajectory_folders import poses, write_droid

from hf_jepa.data.gripper_scenes import GripperScenes
from hf_jepa.data.trajectories import TrajectoryCollator, TrajectoryDataset, TrajectoryWindow
from hf_jepa.data.trajectory_archives import ArchiveRecordings
from hf_jepa.data.trajectory_droid import DroidRecordings
from hf_jepa.data.trajectory_droid_writer import write_droid_trajectory
from hf_jepa.data.trajectory_sources import load_trajectories
from hf_jepa.data.trajectory_transforms import CentreRatioCrop, trajectory_transform
from hf_jepa.data.transforms import sample_rng
from hf_jepa.data.video_sampling import ShortVideoError
from hf_jepa.layers.poses import compose_poses, poses_in_camera, rotation_matrices
from hf_jepa.training.trajectory_poses import PoseActions


WINDOW = TrajectoryWindow(5, fps=4)
h5py = pytest.importorskip("h5py")


def as_they_are(frames, rng):
    """A transform that leaves the frames as they are."""
    return torch.from_numpy(frames)


def dataset(recordings, window=WINDOW, **options) -> TrajectoryDataset:
    return TrajectoryDataset(recordings, as_they_are, window, **options)


# --- windows ------------------------------------------------------------------------------------------------------


def test_frames_are_as_far_apart_as_asked_for_rounded_up():
    assert [TrajectoryWindow(8, fps=4).step(rate) for rate in (4, 5, 10, 15, 16, 60)] == [1, 2, 3, 4, 4, 15]
    with pytest.raises(ValueError, match="exactly one of fps and frame_step, got none"):
        TrajectoryWindow(8)
    with pytest.raises(ValueError, match=r"frame_step must be positive and whole, got 1.5"):
        TrajectoryWindow(8, frame_step=1.5)


@pytest.mark.parametrize("official", [False, True])
def test_windows_begin_wherever_they_fit(official):
    window = TrajectoryWindow(3, frame_step=4, official=official)
    seen = {tuple(window.indices(16, None, sample_rng(0, 0, i)).tolist()) for i in range(300)}
    last = 3 if official else 7  # officially 12 frames are needed, of which the last 4 are never seen
    assert seen == {(first, first + 4, first + 8) for first in range(last + 1)}
    fewest = 13 if official else 9
    assert window.indices(fewest, None).tolist() == [0, 4, 8]
    with pytest.raises(ShortVideoError, match=f"the trajectory has {fewest - 1} frames.*needs {fewest}"):
        window.indices(fewest - 1, None)


def test_a_sample_follows_from_seed_epoch_and_index():
    scenes = GripperScenes(6, (16, 16))
    data = dataset(scenes, seed=3)
    first = [data[i]["states"] for i in range(6)]
    loaded = DataLoader(data, batch_size=3, num_workers=2, collate_fn=TrajectoryCollator(), shuffle=False)
    assert torch.equal(torch.cat([batch["states"] for batch in loaded]), torch.stack(first))
    data.set_epoch(1)
    assert sum(torch.equal(data[i]["states"], first[i]) for i in range(6)) < 3
    again = dataset(scenes, seed=3)
    assert all(torch.equal(again[i]["states"], first[i]) for i in reversed(range(6)))


# --- poses --------------------------------------------------------------------------------------------------------


def test_actions_lead_from_pose_to_pose():
    data = dataset(GripperScenes(3, (16, 16)), derive=PoseActions())
    sample = data[1]
    assert sample["actions"].shape == (4, 7) and sample["actions"].dtype == torch.float32
    torch.testing.assert_close(
        compose_poses(sample["states"][:-1], sample["actions"])[:, [0, 1, 2, 6]],
        sample["states"][1:][:, [0, 1, 2, 6]],
        rtol=0,
        atol=1e-6,
    )
    turned = rotation_matrices(compose_poses(sample["states"][:-1], sample["actions"])[:, 3:6])
    torch.testing.assert_close(turned, rotation_matrices(sample["states"][1:, 3:6]), rtol=0, atol=1e-6)


def test_poses_of_a_camera_are_its_inverse_times_the_pose():
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    drawn = torch.rand(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    cameras = torch.rand(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    found = poses_in_camera(drawn, cameras)
    for pose, camera, seen in zip(drawn.numpy(), cameras.numpy(), found.numpy(), strict=True):
        whole = [np.eye(4), np.eye(4)]
        for matrix, numbers in zip(whole, (camera, pose), strict=True):
            matrix[:3, :3], matrix[:3, 3] = rotation.from_euler("xyz", numbers[3:6]).as_matrix(), numbers[:3]
        expected = np.linalg.inv(whole[0]) @ whole[1]
        np.testing.assert_allclose(seen[:3], expected[:3, 3], atol=1e-12)
        np.testing.assert_allclose(rotation.from_euler("xyz", seen[3:6]).as_matrix(), expected[:3, :3], atol=1e-12)
        assert seen[6] == pose[6]
    with pytest.raises(ValueError, match="a camera has 6 numbers"):
        poses_in_camera(drawn, drawn)


def test_a_model_is_told_what_it_asks_for():
    told = {"states": torch.rand(3, 7), "extrinsics": torch.rand(3, 6)}
    assert set(PoseActions(states=False)(told)) == {"actions"}
    assert set(PoseActions(extrinsics=True)(told)) == {"actions", "states", "extrinsics"}
    seen = PoseActions(camera_frame=True)(told)["states"]
    assert torch.equal(seen, poses_in_camera(told["states"], told["extrinsics"]))


# --- DROID --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def droid(tmp_path_factory):
    """Two trajectories of three cameras, whose frames show their numbers."""
    return write_droid(tmp_path_factory.mktemp("droid"), (60, 50), left=0, wrist=100, ext1=150)


def test_frames_and_poses_of_a_trajectory_belong_together(droid):
    data = dataset(DroidRecordings(droid))
    for index, length in enumerate((60, 50)):
        sample = data[index]
        frames = numbers_of(sample["pixel_values_videos"].numpy())
        assert np.diff(frames).tolist() == [4] * 4  # 15 frames per second, 4 are asked for
        np.testing.assert_allclose(sample["states"].numpy(), poses(length, index)[frames], atol=1e-6)


def test_a_camera_is_drawn_anew_in_every_epoch(droid):
    data = dataset(DroidRecordings(droid, ("left", "wrist", "ext1"), extrinsics=True))
    seen = []
    for epoch in range(12):
        data.set_epoch(epoch)
        sample = data[0]
        frame = numbers_of(sample["pixel_values_videos"].numpy())[0]
        offset = frame - int(sample["states"][0, 0])
        place = {0: 0, 100: 1, 150: 2}[offset]
        assert sample["extrinsics"][0].tolist() == [place + i for i in range(6)]  # those of this camera
        seen.append(offset)
    assert set(seen) == {0, 100, 150}
    measured = dataset(DroidRecordings(droid, ("wrist", "left")), random_window=False)[0]  # always the first one
    assert numbers_of(measured["pixel_values_videos"].numpy())[0] == int(measured["states"][0, 0]) + 100


def test_lists_name_folders_as_the_official_ones(droid, tmp_path):
    (tmp_path / "list.csv").write_text(f"{droid / 'run_1'}\n\n{droid / 'run_0'}\n")
    assert [folder.name for folder in DroidRecordings(tmp_path / "list.csv").folders] == ["run_1", "run_0"]
    assert [folder.name for folder in DroidRecordings(droid).folders] == ["run_0", "run_1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="names no trajectories: a trajectory is a folder with trajectory.h5"):
        load_trajectories(tmp_path / "empty")


def damage(folder, kind: str) -> str:
    """Break a trajectory; what is said of it."""
    table, video = folder / "trajectory.h5", next(folder.glob("recordings/MP4/*.mp4"))
    metadata = next(folder.glob("*.json"))
    if kind == "table":
        table.write_bytes(table.read_bytes()[:500])
        return "file"
    if kind == "video":
        video.write_bytes(b"no video")
        return "Invalid data"
    if kind == "no video":
        video.unlink()
        return "the video of camera 'left' is missing: recordings/MP4/1000.mp4"
    if kind == "no metadata":
        metadata.unlink()
        return r"no metadata_\*.json says"
    if kind == "metadata":
        metadata.write_text("{")
        return "Expecting property name"
    if kind == "camera":
        metadata.write_text(json.dumps({"right_mp4_path": "a/recordings/MP4/7.mp4"}))
        return "has no camera 'left', only right"
    with h5py.File(table, "a") as file:
        if kind == "column":
            del file["observation/robot_state/gripper_position"]
            return "has no observation/robot_state/gripper_position"
        file["observation/robot_state/cartesian_position"][3:] = np.nan
        return "states are not finite"


@pytest.mark.parametrize(
    "kind", ["table", "video", "no video", "no metadata", "metadata", "camera", "column", "numbers"]
)
def test_a_damaged_trajectory_is_named_and_left_out(tmp_path, kind):
    write_droid(tmp_path, (24, 24), left=0)
    reason = damage(tmp_path / "run_0", kind)
    data = dataset(DroidRecordings(tmp_path), derive=PoseActions())
    batch = TrajectoryCollator()([data[0], data[1]])
    assert batch["sample_index"].tolist() == [1]
    (skipped,) = batch["skipped"]
    assert skipped.startswith(f"{tmp_path / 'run_0'}: ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(skipped)
    alone = TrajectoryCollator()([data[0]])
    assert alone["actions"].shape == (0, 4, 7) and alone["states"].shape == (0, 5, 7)
    assert alone["pixel_values_videos"].shape[:2] == (0, 5)


def test_a_short_trajectory_is_named_with_its_length(tmp_path):
    write_droid(tmp_path, (16, 24), left=0)
    assert str(dataset(DroidRecordings(tmp_path))[0]).endswith(
        "run_0: the trajectory has 16 frames, a window of 5 x 4 needs 17"
    )


def test_a_trajectory_is_written_as_a_whole_or_not_at_all(tmp_path):
    frames = np.zeros((9, 16, 16, 3), np.uint8)
    write_droid_trajectory(tmp_path / "a", {"left": frames}, poses(9))
    with pytest.raises(FileExistsError, match="exists already"):
        write_droid_trajectory(tmp_path / "a", {"left": frames}, poses(9))
    with pytest.raises(ValueError, match="left has 9 frames, poses have 8 frames"):
        write_droid_trajectory(tmp_path / "b", {"left": frames}, poses(8))
    with pytest.raises(ValueError, match=r"extrinsics of \['wrist'\], of which there is no video"):
        write_droid_trajectory(tmp_path / "b", {"left": frames}, poses(9), extrinsics={"wrist": poses(9)[:, :6]})
    with pytest.raises(Exception, match="even|divisible|dimension|Invalid|libx264"):
        write_droid_trajectory(tmp_path / "b", {"left": np.zeros((9, 17, 17, 3), np.uint8)}, poses(9))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- other forms --------------------------------------------------------------------------------------------------


def test_archives_keep_the_actions_of_skipped_frames(tmp_path):
    video = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(6, 2).repeat(3, 3)
    actions = np.stack([np.arange(19), -np.arange(19)], axis=1)
    np.savez(tmp_path / "10.npz", video=video, actions=actions, states=np.zeros((20, 3)))
    np.savez(tmp_path / "9.npz", video=video, actions=actions[:9], states=np.zeros((20, 3)))
    recordings = ArchiveRecordings(tmp_path)
    window = TrajectoryWindow(4, frame_step=3)
    assert recordings.widths(window) == {"actions": 6, "states": 3}
    data = dataset(recordings, window)
    sample = data[1]  # 10.npz comes after 9.npz
    first = int(sample["pixel_values_videos"][0, 0, 0, 0])
    assert sample["pixel_values_videos"][:, 0, 0, 0].tolist() == [first + 3 * i for i in range(4)]
    assert sample["actions"].tolist() == [
        [s * (first + 3 * row + k) for k in range(3) for s in (1, -1)] for row in range(3)
    ]
    assert str(data[0]).endswith("9.npz: 20 frames need as many actions or one less, got shape (9, 2)")
    assert "states" not in dataset(ArchiveRecordings(tmp_path, states=False), window)[1]
    with pytest.raises(ValueError, match="must be equally many everywhere: give frame_step"):
        recordings.widths(TrajectoryWindow(4, fps=2))


def test_what_a_path_holds_decides_how_it_is_read(droid, tmp_path):
    assert type(load_trajectories(droid)) is DroidRecordings
    np.savez(tmp_path / "0.npz", video=np.zeros((3, 4, 4, 3), np.uint8), actions=np.zeros((2, 1)))
    assert type(load_trajectories(tmp_path, state_column=None)) is ArchiveRecordings
    with pytest.raises(ValueError, match=r"0.npz lacks states, it has video, actions"):
        load_trajectories(tmp_path)
    with pytest.raises(ValueError, match="only DROID-style trajectories say where the camera is"):
        load_trajectories(tmp_path, extrinsics=True)
    with pytest.raises(FileNotFoundError, match="no such file or folder: /nowhere/at/all"):
        load_trajectories("/nowhere/at/all")


def test_batches_of_different_things_are_refused():
    good = dataset(GripperScenes(2, (16, 16)))[0]
    with pytest.raises(ValueError, match="trajectories have different things"):
        TrajectoryCollator()([good, {name: value for name, value in good.items() if name != "states"}])
    with pytest.raises(ValueError, match="states of the trajectories of a batch differ in shape"):
        TrajectoryCollator()([good, good | {"states": good["states"][:3]}])


# --- pixels -------------------------------------------------------------------------------------------------------


def test_wide_frames_lose_their_sides_and_are_squeezed():
    crop = CentreRatioCrop(256)
    assert crop.box(1280, 720) == (154, 0, 972, 720)  # the official numbers
    assert crop.box(256, 256) == (0, 0, 256, 256)
    assert crop.box(100, 400) == (0, 133, 100, 133)
    frames = torch.rand(2, 3, 90, 160)
    expected = torch.nn.functional.interpolate(
        frames[..., 19 : 19 + 122], (32, 32), mode="bilinear", align_corners=False, antialias=False
    )
    assert torch.equal(CentreRatioCrop(32)(frames), expected)
    whole = torch.nn.functional.interpolate(frames, (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(CentreRatioCrop(32, None)(frames), whole)
    with pytest.raises(ValueError, match="crop 'random' is not one of centre, whole"):
        trajectory_transform(32, "random")


def test_square_frames_are_normalised_as_they_are():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((frames - 255 * mean) / (255 * std)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(trajectory_transform(8)(frames).numpy(), expected, atol=1e-5)
