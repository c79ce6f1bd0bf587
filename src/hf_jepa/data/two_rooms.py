"""Two rooms: how a dot wanders through them, as videos with actions that need no download.

Nobody plans here: a dot wanders about, and in about a third of the trajectories it happens to pass the door. Positions
are all that a sample holds; the collator renders the frames of a whole batch. The distribution is that of the
action-conditioned example of EB-JEPA (arXiv 2602.03604), whose numbers the constants are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_jepa.data.shared_epoch import EndlessDataset
from hf_jepa.data.two_rooms_dynamics import SIDE, layouts_from, walk
from hf_jepa.data.two_rooms_pixels import normalise_positions, room_pixels
from hf_jepa.data.two_rooms_walks import STEPS, UNIFORM, wander


SPLITS = ("train", "validation", "test")
TURN = 5.0  # concentration of the von Mises distribution of the turns between steps


class RoomClips(NamedTuple):
    """A batch of clips and all that is known about them.

    Attributes:
        positions: float32 (B, T, 2) of the dot, x first, in pixels of the world (0..64).
        actions: float32 (B, T - 1, 2), in pixels per frame.
        wall_x, door_y: int64 (B,).
    """

    positions: torch.Tensor
    actions: torch.Tensor
    wall_x: torch.Tensor
    door_y: torch.Tensor

    def pixels(self, image_size: int = SIDE) -> torch.Tensor:
        """The frames as a model sees them, float32 (B, T, 2, S, S)."""
        return room_pixels(self.positions, self.wall_x, self.door_y, image_size)


class TwoRooms(EndlessDataset):
    """Endless clips of a dot in two rooms: clip `index` of an epoch is a pure function of (seed, split, epoch, index).

    Args:
        length: clips per epoch.
        split: "train", "validation" or "test": of the same distribution, of other random numbers.
        num_frames: T, at most 90.
        wall_x, door_y: of all rooms; None for a random layout of each clip.
        seed: of the clips.

    Raises:
        ValueError: an unknown split, a length below 1, too many frames or fewer than 2, a layout out of range.

    Example:
        >>> clips = TwoRooms(length=100)
        >>> sample = clips[7]
        >>> sample["positions"].shape, sample["actions"].shape, sample["sample_index"]
        (torch.Size([17, 2]), torch.Size([16, 2]), 7)
        >>> TwoRoomsCollator()([clips[1], clips[2]])["pixel_values_videos"].shape
        torch.Size([2, 17, 2, 65, 65])
    """

    items = "clips"

    def __init__(
        self,
        length: int,
        split: str = "train",
        num_frames: int = 17,
        wall_x: int | None = None,
        door_y: int | None = None,
        seed: int = 0,
    ):
        super().__init__(length, seed)
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        if not 2 <= num_frames <= STEPS:
            raise ValueError(f"a clip has 2 to {STEPS} frames, got num_frames={num_frames}")
        layouts_from(np.zeros((1, 2)), wall_x, door_y)
        self.split, self.num_frames, self.wall_x, self.door_y = split, num_frames, wall_x, door_y

    def rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, index, SPLITS.index(self.split)))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        clips = self.batch(indices)._asdict()
        return [
            {name: values[row] for name, values in clips.items()} | {"sample_index": int(index)}
            for row, index in enumerate(indices)
        ]

    def batch(self, indices: Sequence[int]) -> RoomClips:
        """Clips with all that is known about them.

        Args:
            indices: of clips, 0..length - 1.

        Raises:
            IndexError: an index out of range.

        Example:
            >>> TwoRooms(length=100, door_y=18).batch([3, 4]).door_y.tolist()
            [18, 18]
        """
        uniform, turns = self._draw(indices)
        layouts = layouts_from(uniform[:, :2], self.wall_x, self.door_y)
        start, actions = wander(uniform[:, 3:], turns, layouts)
        first = np.floor(uniform[:, 2] * (STEPS - self.num_frames + 1)).astype(np.int64)
        actions = actions[:, : first.max() + self.num_frames - 1]  # nobody sees what comes later
        window = first[:, None] + np.arange(self.num_frames)  # (B, T)
        positions = np.take_along_axis(walk(start, actions, layouts), window[:, :, None], axis=1)
        actions = np.take_along_axis(actions, window[:, :-1, None], axis=1)
        as_float = (torch.from_numpy(values.astype(np.float32)) for values in (positions, actions))
        return RoomClips(*as_float, *(torch.from_numpy(values) for values in layouts))

    def _draw(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Uniform numbers (B, 193) and turns (B, 2, 89) of samples, each from a generator of its own."""
        uniform, turns = np.empty((len(indices), 3 + UNIFORM)), np.empty((len(indices), 2, STEPS - 1))
        for row, rng in enumerate(self.rngs(indices)):
            rng.random(out=uniform[row])
            turns[row] = rng.vonmises(0.0, TURN, (2, STEPS - 1))
        return uniform, turns


class TwoRoomsCollator:
    """Batches from samples of `TwoRooms`: the frames of all are rendered at once.

    Args:
        image_size: pixels a side of the frames; fewer than 65 for small models.
        with_states: also give the positions, standardised, as `states`: for models that are told where they are.

    Raises:
        ValueError: an image size below 9.

    Example:
        >>> batch = TwoRoomsCollator(image_size=33)([TwoRooms(length=9)[0]])
        >>> {name: tuple(values.shape) for name, values in batch.items()}
        {'pixel_values_videos': (1, 17, 2, 33, 33), 'actions': (1, 16, 2), 'sample_index': (1,)}
    """

    def __init__(self, image_size: int = SIDE, with_states: bool = False):
        if image_size < 9:
            raise ValueError(f"walls and dot are not to be told apart at image_size={image_size}, use 9 or more")
        self.image_size, self.with_states = image_size, with_states

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        clips = RoomClips(*(torch.stack([sample[name] for sample in samples]) for name in RoomClips._fields))
        batch = {"pixel_values_videos": clips.pixels(self.image_size), "actions": clips.actions}
        if self.with_states:
            batch["states"] = normalise_positions(clips.positions)
        return batch | {"sample_index": torch.tensor([sample["sample_index"] for sample in samples])}


__all__ = ["SPLITS", "RoomClips", "TwoRooms", "TwoRoomsCollator"]
