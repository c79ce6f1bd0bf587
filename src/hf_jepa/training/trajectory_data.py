"""The data of world models: trajectories that are made on the way, or recorded ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from hf_jepa.data.gripper_scenes import GripperScenes
from hf_jepa.data.moving_digits import CANVAS, MovingDigits
from hf_jepa.data.trajectories import Recordings, TrajectoryCollator, TrajectoryDataset, TrajectoryWindow
from hf_jepa.data.trajectory_sources import load_trajectories
from hf_jepa.data.trajectory_transforms import CROPS, trajectory_transform
from hf_jepa.data.two_rooms import TwoRooms, TwoRoomsCollator
from hf_jepa.hub.processors import load_processor, pixel_statistics
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.training.trajectory_poses import PoseActions


MADE = ("two_rooms", "moving_digits", "gripper_scenes")


@dataclass(frozen=True)
class TrajectoryData:
    """What a run trains on.

    Args:
        train: the training trajectories.
        test: those to measure on, None for none.
        collator: makes batches of them.
        processor: what prepares frames for the model, saved beside it; None where the data renders them itself.
    """

    train: Dataset
    test: Dataset | None
    collator: Callable
    processor: Any = None


@dataclass(kw_only=True)
class TrajectoryDataArguments:
    """Where trajectories come from, and which frames of them make a sample."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "'two_rooms', 'moving_digits' or 'gripper_scenes' (made on the way), a folder or .csv list of "
            "DROID-style trajectories, a LeRobot data set (folder or Hub id), or a folder of .npz files."
        },
    )
    generated_length: int = field(default=4096, metadata={"help": f"Samples per epoch of {', '.join(MADE)}."})
    eval_length: int = field(
        default=0,
        metadata={"help": "Trajectories to measure on: another split, or the last recorded ones."},
    )
    fps: float | None = field(default=None, metadata={"help": "Frames of a sample per second (4: V-JEPA 2-AC)."})
    frame_step: int | None = field(default=None, metadata={"help": "Or their distance in frames of the recording."})
    official_window: bool = field(
        default=False, metadata={"help": "Never see the last frames of a trajectory, as the official code."}
    )
    crop: str = field(
        default="centre", metadata={"help": "'centre' (of full height, at most 1.35 wide) or 'whole' frames."}
    )
    cameras: list[str] | None = field(
        default=None, metadata={"help": "Cameras to choose from, 'left' of DROID unless given; one of LeRobot."}
    )
    camera_frame: bool = field(default=False, metadata={"help": "Poses as the camera sees them (DROID)."})
    state_column: str = field(default="observation.state", metadata={"help": "States of LeRobot data."})
    action_column: str = field(default="action", metadata={"help": "Actions of LeRobot data."})
    revision: str | None = field(default=None, metadata={"help": "Of a data set on the Hub."})

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r} is not one of {', '.join(CROPS)}")
        if self.eval_length < 0:
            raise ValueError(f"eval_length={self.eval_length} must be 0 or more")

    def open(self, config: PreTrainedConfig, checkpoint: str | None = None, seed: int = 0) -> TrajectoryData:
        """The trajectories for a model.

        Args:
            config: of the model.
            checkpoint: it is continued from, whose processor is kept.
            seed: of what is random.

        Raises:
            ValueError: no data set; numbers of actions, states or pixels that the model does not take.
        """
        if not self.dataset:
            raise ValueError(f"dataset is missing: name {', '.join(map(repr, MADE))}, a folder, or a Hub id")
        opener = {"two_rooms": self._two_rooms, "moving_digits": self._moving_digits}.get(self.dataset)
        return opener(config, seed) if opener else self._recorded(config, checkpoint, seed)

    def _two_rooms(self, config: PreTrainedConfig, seed: int) -> TrajectoryData:
        self._require(config, actions=2, states=2, channels=2)
        height, width = pair(config.image_size)
        if height != width:
            raise ValueError(f"two rooms are square, but image_size is {height} x {width}")
        frames = config.frames_per_clip
        test = TwoRooms(self.eval_length, "validation", frames, seed=seed) if self.eval_length else None
        collator = TwoRoomsCollator(height, with_states=config.state_dim > 0)
        return TrajectoryData(TwoRooms(self.generated_length, "train", frames, seed=seed), test, collator)

    def _moving_digits(self, config: PreTrainedConfig, seed: int) -> TrajectoryData:
        self._require(config, actions=0)
        if pair(config.image_size) != (CANVAS, CANVAS):
            raise ValueError(f"moving digits have {CANVAS} x {CANVAS} pixels, but image_size is {config.image_size}")
        frames, channels = config.frames_per_clip, config.num_channels
        test = MovingDigits(self.eval_length, "test", frames, channels, seed=seed) if self.eval_length else None
        train = MovingDigits(self.generated_length, "train", frames, channels, seed=seed)
        return TrajectoryData(train, test, TrajectoryCollator())

    def _recorded(self, config: PreTrainedConfig, checkpoint: str | None, seed: int) -> TrajectoryData:
        window = TrajectoryWindow(config.frames_per_clip, self.fps, self.frame_step, self.official_window)
        extrinsics = getattr(config, "use_extrinsics", False)
        if self.dataset == "gripper_scenes":
            recordings = GripperScenes(self.generated_length + self.eval_length, pair(config.image_size), seed)
        else:
            recordings = self._load(extrinsics or self.camera_frame, config.state_dim > 0)
        derive, widths = None, dict(recordings.widths(window))
        if "actions" not in widths:
            derive = PoseActions(self.camera_frame, states=config.state_dim > 0, extrinsics=extrinsics)
            widths["actions"] = widths["states"]
        elif self.camera_frame:
            raise ValueError(f"camera_frame: {self.dataset} has actions of its own, which are not poses of a camera")
        self._require(config, actions=widths["actions"], states=widths.get("states", 0), channels=3)
        processor = load_processor(checkpoint, config)
        mean, std = pixel_statistics(processor)
        transform = trajectory_transform(pair(config.image_size), self.crop, mean=mean, std=std)
        if not 0 <= self.eval_length < len(recordings):
            raise ValueError(f"eval_length={self.eval_length} leaves none of the {len(recordings)} trajectories")
        parts = range(len(recordings) - self.eval_length), range(len(recordings) - self.eval_length, len(recordings))
        train, test = (
            TrajectoryDataset(recordings, transform, window, derive, drawn, rows, seed) if rows else None
            for drawn, rows in zip((True, False), parts, strict=True)
        )
        return TrajectoryData(train, test, TrajectoryCollator(), processor)

    def _load(self, extrinsics: bool, states: bool) -> Recordings:
        with PartialState().local_main_process_first():  # what is downloaded is downloaded once
            return load_trajectories(
                self.dataset,
                cameras=self.cameras,
                extrinsics=extrinsics,
                state_column=self.state_column if states else None,
                action_column=self.action_column,
                revision=self.revision,
            )

    def _require(self, config: PreTrainedConfig, **found: int) -> None:
        """Raise where the model takes others than the data has."""
        for name, field_name in (("actions", "action_dim"), ("states", "state_dim"), ("channels", "num_channels")):
            wanted = getattr(config, field_name)
            if name == "states" and wanted == 0:
                continue
            if name in found and found[name] != wanted:
                raise ValueError(f"{self.dataset} has {found[name]} {name}, the model takes {field_name}={wanted}")


__all__ = ["MADE", "TrajectoryData", "TrajectoryDataArguments"]
