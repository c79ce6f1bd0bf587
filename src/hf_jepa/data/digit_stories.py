"""Digit stories: moving digits with captions, questions and answers, all of which are true by construction.

In every clip two different digits (or one) move in different directions, straight ahead and without touching a
border, so that "a two moves up and a seven moves left" holds from the first frame to the last. What is tested need not
have been trained: the splits share no digit image, and every digit has directions in which it never moves in training.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hf_jepa.data.digit_texts import DIGITS, DigitQuestion, choose_question, digit_scenes, story_caption
from hf_jepa.data.moving_digits import CANVAS, GLYPH, REACH, SPEED, digit_images, glyph_numbers, paint_digits
from hf_jepa.data.shared_epoch import EndlessDataset


TASKS = ("caption", "question", "both")
STEPS = np.array([(0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)], np.float64)  # row, column
STEPS /= np.linalg.norm(STEPS, axis=1, keepdims=True)
UNIFORM = 13  # random numbers of a clip


class DigitStoryBatch(NamedTuple):
    """A batch of clips and all that is known about them.

    Attributes:
        frames: uint8 (B, T, 64, 64), grey.
        digits: int64 (B, n), the classes, the smaller one first.
        directions: int64 (B, n), numbers of `DIRECTIONS`.
        position: float32 (B, T, n, 2), row and column of the upper left corner of each digit, in pixels, 0..48.
        velocity: float32 (B, T, n, 2), rows and columns per frame.
        captions: one for each clip.
        questions: one for each clip, drawn at random.
    """

    frames: np.ndarray
    digits: np.ndarray
    directions: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    captions: list[str]
    questions: list[DigitQuestion]


class DigitEvent(NamedTuple):
    """What happens in a stretch of a stream.

    Attributes:
        start, stop: its frames, the last one excluded.
        caption: in words.
        digits, directions: as in `DigitStoryBatch`, (2,) each.
    """

    start: int
    stop: int
    caption: str
    digits: tuple[int, int]
    directions: tuple[int, int]


class DigitStream(NamedTuple):
    """A long video and its events.

    Attributes:
        frames: uint8 (T, 64, 64, 3).
        events: in the order of time, without gaps.
    """

    frames: np.ndarray
    events: list[DigitEvent]


def _speeds(num_frames: int) -> tuple[float, float]:
    """Slowest and fastest flight, in pixels per frame: none reaches the other border before the clip is over."""
    fastest = min(SPEED[1], REACH / (num_frames - 1))
    return fastest / 2, fastest


def _velocity(directions: np.ndarray, uniform: np.ndarray, num_frames: int) -> np.ndarray:
    """(B, n, 2), rows and columns per frame, from directions and numbers in [0, 1), both (B, n)."""
    slowest, fastest = _speeds(num_frames)
    return (slowest + (fastest - slowest) * uniform)[..., None] * STEPS[directions]


@lru_cache(maxsize=2)
def _glyphs_by_class(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The digit images of a split, uint8, sorted by class, and where each class begins and how many it has."""
    glyphs, classes = digit_images()
    glyphs = np.rint(glyphs * 255).astype(np.uint8)
    numbers = glyph_numbers(split)
    numbers = numbers[np.argsort(classes[numbers], kind="stable")]
    count = np.bincount(classes[numbers], minlength=len(DIGITS))
    return glyphs[numbers], np.cumsum(count) - count, count


def _glyphs(split: str, digits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Images uint8 (B, n, 16, 16) of digits (B, n)."""
    glyphs, first, count = _glyphs_by_class(split)
    return glyphs[first[digits] + (uniform * count[digits]).astype(np.int64)]


class DigitStories(EndlessDataset):
    """Endless clips of moving digits with texts: clip `index` of an epoch is a function of (seed, epoch, index).

    A sample is what `VisionTextDataset` gives: "video" uint8 (T, 64, 64, 3), "query", "target", "sample_index".

    Args:
        length: clips per epoch.
        split: "train" or "test", which digit images are used.
        combinations: "seen" for training, "unseen" where both digits move as they never did there (`is_unseen`),
            "all" for any.
        num_frames: T; the more, the slower they move.
        num_directions: 4, or 8 with the diagonals.
        num_digits: n, 1 or 2 in every clip.
        task: "caption", "question" with an answer as target, or "both", one of the two at random.
        caption_query: the query of a caption; "" for query-free training.
        seed: of the clips.

    Raises:
        ValueError: a length below 1, less than two frames, or an unknown split, task or kind of combinations.

    Example:
        >>> stories = DigitStories(length=100, num_frames=8)
        >>> stories[7]["video"].shape, stories[7]["query"]
        ((8, 64, 64, 3), '')
        >>> batch = stories.batch([1, 2, 3])
        >>> batch.frames.shape, len(batch.captions)
        ((3, 8, 64, 64), 3)
    """

    items = "clips"

    def __init__(
        self,
        length: int,
        split: str = "train",
        combinations: str = "seen",
        num_frames: int = 16,
        num_directions: int = 4,
        task: str = "caption",
        caption_query: str = "",
        seed: int = 0,
        num_digits: int = 2,
    ):
        super().__init__(length, seed)
        if num_frames < 2:
            raise ValueError(f"nothing moves in less than two frames, got num_frames={num_frames}")
        if task not in TASKS:
            raise ValueError(f"task {task!r} is not one of {', '.join(TASKS)}")
        glyph_numbers(split)  # raises where it is unknown
        self.scenes = digit_scenes(combinations, num_directions, num_digits)
        self.split, self.num_frames, self.num_directions = split, num_frames, num_directions
        self.task, self.caption_query = task, caption_query

    @property
    def frame_counts(self) -> np.ndarray:
        """As of a `VisionTextDataset`."""
        return np.broadcast_to(self.num_frames, self.length)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        uniform = self._uniform(indices)
        batch = self._render(uniform)
        samples = []
        for row, index in enumerate(indices):
            asks = self.task == "question" or (self.task == "both" and uniform[row, 9] < 0.5)
            question = batch.questions[row]
            query, target = (question.question, question.answer) if asks else (self.caption_query, batch.captions[row])
            video = np.repeat(batch.frames[row, ..., None], 3, axis=-1)
            samples.append({"video": video, "query": query, "target": target, "sample_index": int(index)})
        return samples

    def batch(self, indices: Sequence[int]) -> DigitStoryBatch:
        """Clips with all that is known about them, for evaluation.

        Args:
            indices: of clips, 0..length - 1.

        Returns:
            the clips in that order.

        Raises:
            IndexError: an index out of range.
        """
        return self._render(self._uniform(indices))

    def _uniform(self, indices: Sequence[int]) -> np.ndarray:
        """The random numbers of clips, (B, 13) in [0, 1)."""
        return np.stack([rng.random(UNIFORM) for rng in self.rngs(indices)])

    def _render(self, uniform: np.ndarray) -> DigitStoryBatch:
        scene = self.scenes[(uniform[:, 0] * len(self.scenes)).astype(np.int64)]  # (B, n, 2)
        digits, directions = scene[..., 0], scene[..., 1]
        count = digits.shape[1]
        glyphs = _glyphs(self.split, digits, uniform[:, 1 : 1 + count])
        velocity = _velocity(directions, uniform[:, 3 : 3 + count], self.num_frames)  # (B, n, 2)
        travel = velocity * (self.num_frames - 1)
        start = uniform[:, 5 : 5 + 2 * count].reshape(-1, count, 2) * (REACH - np.abs(travel)) + np.maximum(-travel, 0)
        position = start[:, None] + velocity[:, None] * np.arange(self.num_frames)[:, None, None]
        position = np.clip(position, 0, REACH)  # rounding may leave the last one a hair outside
        frames = paint_digits(glyphs, np.rint(position).astype(np.int64))
        captions = [story_caption(*each.T) for each in scene]
        questions = [
            choose_question(*each.T, random, self.num_directions)
            for each, random in zip(scene, uniform[:, 10:], strict=True)
        ]
        velocity = np.broadcast_to(velocity[:, None], position.shape).astype(np.float32)
        return DigitStoryBatch(frames, digits, directions, position.astype(np.float32), velocity, captions, questions)


def digit_stream(
    num_events: int = 12,
    event_frames: tuple[int, int] = (16, 48),
    split: str = "test",
    combinations: str = "all",
    num_directions: int = 4,
    clip_frames: int = 16,
    seed: int = 0,
) -> DigitStream:
    """A long video in which something else happens after every cut.

    Digits that leave on one side come back on the other, so that every caption is true for its whole event, however
    long it is. They are as fast as in clips of `clip_frames` frames.

    Args:
        num_events: with different captions, one after another.
        event_frames: smallest and largest length of an event, drawn uniformly.
        split, combinations, num_directions: as for `DigitStories`.
        clip_frames: length of the clips that a model was trained with.
        seed: of all.

    Returns:
        the video and its events.

    Raises:
        ValueError: no events, lengths that are not ordered or below 1, less than two `clip_frames`.

    Example:
        >>> stream = digit_stream(num_events=3, event_frames=(10, 20))
        >>> stream.frames.shape[1:], len(stream.events), stream.events[0].start
        ((64, 64, 3), 3, 0)
        >>> stream.events[0].stop == stream.events[1].start
        True
    """
    shortest, longest = event_frames
    if num_events < 1 or not 1 <= shortest <= longest:
        raise ValueError(f"a stream needs events of a frame or more, got {num_events} of {event_frames} frames")
    if clip_frames < 2:
        raise ValueError(f"nothing moves in less than two frames, got clip_frames={clip_frames}")
    rng = np.random.default_rng(seed)
    scenes, number = digit_scenes(combinations, num_directions), -1
    frames, events, start = [], [], 0
    for _ in range(num_events):
        # Any scene but the last one.
        number = (number + 1 + int(rng.integers(len(scenes) - (number >= 0)))) % len(scenes)
        digits, directions = scenes[number].T
        length = int(rng.integers(shortest, longest + 1))
        uniform = rng.random((4, 1, 2))
        glyphs = _glyphs(split, digits[None], uniform[0])
        velocity = _velocity(directions[None], uniform[1], clip_frames)
        corner = uniform[2:].reshape(1, 1, 2, 2) * REACH + velocity[:, None] * np.arange(length)[:, None, None]
        frames.append(_paint_wrapped(glyphs, corner)[0])
        caption = story_caption(digits, directions)
        events.append(DigitEvent(start, start + length, caption, tuple(digits.tolist()), tuple(directions.tolist())))
        start += length
    return DigitStream(np.repeat(np.concatenate(frames)[..., None], 3, axis=-1), events)


def _paint_wrapped(glyphs: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """uint8 (B, T, 64, 64): what leaves the canvas on one side comes back on the other."""
    corner = np.mod(np.rint(corner).astype(np.int64) + GLYPH, CANVAS + GLYPH)
    seen = slice(GLYPH, GLYPH + CANVAS)
    return paint_digits(glyphs, corner, CANVAS + 2 * GLYPH)[:, :, seen, seen]


__all__ = ["DigitEvent", "DigitStories", "DigitStoryBatch", "DigitStream", "digit_stream"]
