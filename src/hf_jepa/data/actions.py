"""Clips before an action, for anticipation: tables of actions in the form of EPIC-Kitchens-100."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_jepa.data.moving_digits import REACH, MovingDigits
from hf_jepa.data.shared_epoch import RowDataset
from hf_jepa.data.transforms import sample_rng
from hf_jepa.data.video_readers import VIDEO_ERRORS, open_video
from hf_jepa.data.video_sampling import anticipation_indices
from hf_jepa.data.videos import UndecodableVideo


COLUMNS = ("start_frame", "stop_frame", "verb_class", "noun_class")
QUESTIONS = ("verb", "noun", "action")
TRAIN_TIMES, TRAIN_POINTS = (0.25, 1.75), (0.0, 0.25)  # seconds before the moment, its place in the action
TEST_TIME = 1.0


@dataclass(frozen=True)
class Action:
    """One row of a table of actions: frames of a video, and what is done in them."""

    video: str
    start_frame: int
    stop_frame: int
    verb: int
    noun: int


def read_actions(table: str | Path, videos: str | Path) -> list[Action]:
    """The rows of a csv table of actions.

    Args:
        table: with the columns `start_frame`, `stop_frame`, `verb_class`, `noun_class`, and either `video`, a path
            relative to the folder, or `participant_id` and `video_id` as in the EPIC-Kitchens-100 annotations, whose
            files are `<participant_id>/videos/<video_id>.MP4`.
        videos: the folder of the videos.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a column is missing, a value is no whole number, or there is no row; the message names the line.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "train.csv"
        >>> _ = table.write_text("video,start_frame,stop_frame,verb_class,noun_class\\na.mp4,60,90,3,7\\n")
        >>> read_actions(table, "videos")[0].noun
        7
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{table} has no actions")
    named = "video" in rows[0]
    wanted = (*COLUMNS, *(("video",) if named else ("participant_id", "video_id")))
    if lost := [name for name in wanted if name not in rows[0]]:
        raise ValueError(f"{table} lacks the columns {', '.join(lost)}; it has {', '.join(map(str, rows[0]))}")
    actions = []
    for line, row in enumerate(rows, start=2):
        path = row["video"] if named else f"{row['participant_id']}/videos/{row['video_id']}.MP4"
        try:
            numbers = [int(row[name]) for name in COLUMNS]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{table}, line {line}: {error}") from error
        if numbers[1] < numbers[0]:
            raise ValueError(f"{table}, line {line}: the action stops at frame {numbers[1]}, before its start")
        actions.append(Action(str(Path(videos) / path), *numbers))
    return actions


class ActionClasses:
    """The verbs, nouns and actions (pairs of both) that occur in tables, numbered from 0.

    Args:
        actions: of all tables, training and validation, as in the official protocol.

    Example:
        >>> classes = ActionClasses([Action("a", 0, 9, verb=3, noun=7), Action("a", 9, 20, verb=1, noun=7)])
        >>> classes.verbs, classes.nouns, classes.actions
        ([1, 3], [7], [(1, 7), (3, 7)])
        >>> classes.labels(Action("b", 0, 5, verb=3, noun=7))
        {'verb': 1, 'noun': 0, 'action': 1}
    """

    def __init__(self, actions: Iterable[Action]):
        actions = list(actions)
        self.verbs = sorted({action.verb for action in actions})
        self.nouns = sorted({action.noun for action in actions})
        self.actions = sorted({(action.verb, action.noun) for action in actions})
        names = {"verb": self.verbs, "noun": self.nouns, "action": self.actions}
        self._numbers = {kind: {name: i for i, name in enumerate(known)} for kind, known in names.items()}

    def labels(self, action: Action) -> dict[str, int]:
        """Class numbers of an action."""
        keys = {"verb": action.verb, "noun": action.noun, "action": (action.verb, action.noun)}
        return {kind: self._numbers[kind][key] for kind, key in keys.items()}

    def to_dict(self) -> dict[str, list]:
        """For a JSON file: what the class numbers of a model stand for."""
        return {"verbs": self.verbs, "nouns": self.nouns, "actions": [list(pair) for pair in self.actions]}


class ActionDataset(RowDataset):
    """Clips that end before an action, and what the action is.

    For training, the time between the end of the clip and the moment asked for is drawn from 0.25 to 1.75 s, and the
    moment from the first quarter of the action, anew in every epoch; for measuring they are 1 s and the anchor.

    Args:
        actions: rows of a table.
        classes: numbers of all classes.
        transform: called as `transform(frames, rng)` with uint8 (T, H, W, 3).
        frames_per_clip: T.
        fps: frames of a clip per second.
        anchor: "start", or "official", see `anticipation_indices`.
        train: draw times and moments.
        seed: of these and of the transform.

    Example:
        >>> actions = [Action("missing.mp4", 60, 90, verb=3, noun=7)]
        >>> black = lambda frames, rng: torch.zeros(len(frames), 3, 8, 8)
        >>> clips = ActionDataset(actions, ActionClasses(actions), black)
        >>> str(clips[0]).startswith("missing.mp4: ")
        True
    """

    items = "actions"

    def __init__(
        self,
        actions: Sequence[Action],
        classes: ActionClasses,
        transform: Callable,
        frames_per_clip: int = 32,
        fps: float = 8.0,
        anchor: str = "start",
        train: bool = False,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.actions, self.classes, self.transform = actions, classes, transform
        self.frames_per_clip, self.fps, self.anchor, self.train = frames_per_clip, fps, anchor, train

    def __len__(self) -> int:
        return len(self.actions)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any] | UndecodableVideo:
        """ "pixel_values_videos" (T, C, H, W), "anticipation_times" (seconds), "verb_labels", ..., "sample_index"."""
        action = self.actions[index]
        time, point = (rng.uniform(*TRAIN_TIMES), rng.uniform(*TRAIN_POINTS)) if self.train else (TEST_TIME, 0.0)
        try:
            with open_video(action.video) as video:
                if video.fps is None:
                    raise ValueError("the frame rate is not known")
                frames = anticipation_indices(
                    action.start_frame,
                    action.stop_frame,
                    video.fps,
                    self.frames_per_clip,
                    self.fps,
                    time,
                    point,
                    self.anchor,
                )
                pixels = self.transform(video.read(frames), rng)
        except VIDEO_ERRORS as error:
            blank = self.transform(np.zeros((self.frames_per_clip, 16, 16, 3), np.uint8), rng)
            return UndecodableVideo.of(error, index, action.video, blank.shape)
        labels = {f"{kind}_labels": number for kind, number in self.classes.labels(action).items()}
        return {"pixel_values_videos": pixels, "anticipation_times": time, "sample_index": index} | labels


class DigitActions(Dataset):
    """Anticipation without downloads: where will the smaller of two moving digits be in a moment?

    The verb is the cell of a 4 x 4 grid in which the digit will be, the noun the digit, the action both.

    Args:
        length, split, seed: as for `MovingDigits`.
        num_frames: T that are seen.
        fps: frames per second, by definition.
        train: draw the time until the moment from 0.25 to 1.75 s instead of taking 1 s.

    Example:
        >>> sample = DigitActions(length=10, num_frames=4)[0]
        >>> sample["pixel_values_videos"].shape, sample["anticipation_times"], sample["action_labels"] < 160
        (torch.Size([4, 3, 64, 64]), 1.0, True)
    """

    num_classes = {"verb": 16, "noun": 10, "action": 160}

    def __init__(
        self,
        length: int,
        split: str = "train",
        num_frames: int = 16,
        fps: float = 8.0,
        train: bool = False,
        seed: int = 0,
    ):
        self.num_frames, self.fps, self.train, self.seed = num_frames, fps, train, seed
        future = int(TRAIN_TIMES[1] * fps) + 1
        self.clips = MovingDigits(length, split, num_frames + future, seed=seed)

    def __len__(self) -> int:
        return len(self.clips)

    def set_epoch(self, epoch: int) -> None:
        """Choose the clips of an epoch."""
        self.clips.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = sample_rng(self.seed + 1, self.clips.epoch, index)
        time = rng.uniform(*TRAIN_TIMES) if self.train else TEST_TIME
        batch = self.clips.batch([index])
        corner = batch.position[0, self.num_frames + int(time * self.fps) - 1, 0]  # row and column, 0 ... REACH
        row, column = (corner * 4 / REACH).int().clamp(max=3).tolist()
        verb, noun = 4 * row + column, int(batch.digits[0, 0])
        return {
            "pixel_values_videos": batch.pixel_values_videos[0, : self.num_frames],
            "anticipation_times": time,
            "sample_index": index,
            "verb_labels": verb,
            "noun_labels": noun,
            "action_labels": 10 * verb + noun,
        }


class ActionCollator:
    """Stack samples to a batch; what cannot be read keeps a row of zeros and the label -100, and is named.

    Example:
        >>> good = DigitActions(length=3, num_frames=2)[0]
        >>> bad = UndecodableVideo(7, "b.mp4", "the file is empty", (2, 3, 64, 64))
        >>> batch = ActionCollator()([good, bad])
        >>> batch["verb_labels"][1].item(), batch["skipped"]
        (-100, ['b.mp4: the file is empty'])
    """

    def __call__(self, samples: Sequence[dict[str, Any] | UndecodableVideo]) -> dict[str, Any]:
        skipped = [str(sample) for sample in samples if isinstance(sample, UndecodableVideo)]
        samples = [_blank(sample) if isinstance(sample, UndecodableVideo) else sample for sample in samples]
        names = ("anticipation_times", "sample_index", *(f"{kind}_labels" for kind in QUESTIONS))
        batch = {"pixel_values_videos": torch.stack([sample["pixel_values_videos"] for sample in samples])}
        return (
            batch | {name: torch.tensor([sample[name] for sample in samples]) for name in names} | {"skipped": skipped}
        )


def _blank(sample: UndecodableVideo) -> dict[str, Any]:
    labels = {f"{kind}_labels": -100 for kind in QUESTIONS}
    pixels = torch.zeros(sample.shape)
    return {
        "pixel_values_videos": pixels,
        "anticipation_times": TEST_TIME,
        "sample_index": sample.sample_index,
    } | labels


__all__ = ["Action", "ActionClasses", "ActionCollator", "ActionDataset", "DigitActions", "read_actions"]
