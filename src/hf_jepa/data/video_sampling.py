"""Which frames of a video make a clip: pure functions of the video's length and rate, and of a random generator."""

import math
from dataclasses import dataclass

import numpy as np

from hf_jepa.data.video_readers import VideoError


class ShortVideoError(VideoError):
    """A video with fewer frames than a clip needs."""


@dataclass(frozen=True)
class ClipSampling:
    """How clips are taken from a video.

    The distance of two frames is given in exactly one of three ways. `fps` and `duration` are turned into the nearest
    whole number of frames, at least 1: frames of a clip are equally spaced, and a video that is slower than asked for
    is taken as it is.

    Args:
        frames_per_clip: T.
        fps: frames of the clip per second of the video.
        frame_step: distance in frames of the video.
        duration: seconds that the clip covers.
        num_clips: clips per video, one in each of as many equal parts.
        short_videos: "refuse" raises `ShortVideoError`, "pad" repeats the last frame.
        mode: "constant", as said above; "official" and "official_overlap", the formulas of the official V-JEPA code
            without and with `allow_clip_overlap` (see `official_clip_indices`).

    Raises:
        ValueError: not exactly one distance, or a number that is not positive.

    Example:
        >>> ClipSampling(frames_per_clip=16, fps=4).stride(video_fps=30)
        8
    """

    frames_per_clip: int = 16
    fps: float | None = None
    frame_step: int | None = None
    duration: float | None = None
    num_clips: int = 1
    short_videos: str = "refuse"
    mode: str = "constant"

    def __post_init__(self):
        distances = {"fps": self.fps, "frame_step": self.frame_step, "duration": self.duration}
        given = {name: value for name, value in distances.items() if value is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of fps, frame_step and duration, got {given or 'none'}")
        counts = {"frames_per_clip": self.frames_per_clip, "num_clips": self.num_clips}
        for name, value in (given | counts).items():
            whole = name not in ("fps", "duration")
            if not value > 0 or (whole and value != int(value)):
                raise ValueError(f"{name} must be positive{' and whole' if whole else ''}, got {value!r}")
        if self.short_videos not in ("refuse", "pad"):
            raise ValueError(f"short_videos {self.short_videos!r} is not one of refuse, pad")
        if self.mode not in ("constant", "official", "official_overlap"):
            raise ValueError(f"mode {self.mode!r} is not one of constant, official, official_overlap")

    def stride(self, video_fps: float | None) -> int:
        """Distance of two frames of a clip, in frames of a video of `video_fps` frames per second.

        Raises:
            VideoError: the rate is needed and not known; in official mode, the video is slower than asked for.
        """
        if self.frame_step is not None:
            return self.frame_step
        if video_fps is None:
            raise VideoError("the frame rate is not known: choose frames by frame_step, or say folder_fps")
        if self.mode == "constant":
            distance = video_fps / self.fps if self.fps else video_fps * self.duration / self.frames_per_clip
            return max(1, math.floor(distance + 0.5))
        video_fps = math.ceil(video_fps)
        step = int(video_fps // self.fps if self.fps else self.duration * video_fps / self.frames_per_clip)
        if step < 1:
            raise VideoError(
                f"the official rule gives a step of 0 frames for a video of {video_fps} frames per second"
            )
        return step


def clip_indices(
    num_frames: int, video_fps: float | None, sampling: ClipSampling, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The frames of the clips of one video.

    Every clip lies in its own part of the video where the part is long enough, else around it.

    Args:
        num_frames: of the video.
        video_fps: its frames per second, None if not known.
        sampling: how to sample; its `mode` may call for the official formulas.
        rng: draws the first frames, uniform over all places; None puts every clip in the middle of its part (official
            modes: at its start).

    Returns:
        int64 array (num_clips, frames_per_clip) of indices in 0..num_frames - 1.

    Raises:
        ShortVideoError: the video is shorter than a clip, and `short_videos` is "refuse".
        VideoError: see `ClipSampling.stride`.

    Example:
        >>> clip_indices(100, 30.0, ClipSampling(frames_per_clip=4, fps=4, num_clips=2)).tolist()
        [[12, 20, 28, 36], [62, 70, 78, 86]]
    """
    if sampling.mode != "constant":
        return official_clip_indices(num_frames, video_fps, sampling, rng)
    stride, length = sampling.stride(video_fps), sampling.frames_per_clip
    span = (length - 1) * stride + 1
    offsets = np.arange(length) * stride
    if num_frames < span:
        if sampling.short_videos == "refuse":
            raise ShortVideoError(f"the video has {num_frames} frames, a clip of {length} x {stride} needs {span}")
        return np.tile(np.minimum(offsets, num_frames - 1), (sampling.num_clips, 1))
    borders = np.arange(sampling.num_clips + 1) * num_frames // sampling.num_clips
    starts = []
    for begin, end in zip(borders[:-1], borders[1:], strict=True):
        # Where the part is too short for a clip, the clip covers the part instead of lying in it.
        low, high = sorted((int(begin), int(end) - span))
        low, high = max(low, 0), min(high, num_frames - span)
        starts.append((low + high) // 2 if rng is None else int(rng.integers(low, high + 1)))
    return np.array(starts)[:, None] + offsets


def official_clip_indices(
    num_frames: int, video_fps: float | None, sampling: ClipSampling, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The formulas of the official V-JEPA and V-JEPA 2 data sets, index for index.

    A window of frames_per_clip * step frames is spread by linspace over both of its ends, so that frames lie a little
    further apart than the step, and not equally far; the last frame of a window before the end of a part is never
    drawn. "refuse" is the official `filter_short_videos`.

    Args, returns and raises as `clip_indices`.

    Example:
        >>> sampling = ClipSampling(frames_per_clip=4, frame_step=4, mode="official")
        >>> official_clip_indices(100, None, sampling).tolist()
        [[0, 5, 10, 15]]
    """
    step, length = sampling.stride(video_fps), sampling.frames_per_clip
    window, part = length * step, num_frames // sampling.num_clips
    if sampling.short_videos == "refuse" and num_frames < window:
        raise ShortVideoError(f"the video has {num_frames} frames, a clip of {length} x {step} needs {window}")
    if part > window:
        clips = []
        for i in range(sampling.num_clips):
            end = window if rng is None else int(rng.integers(window, part))
            clips.append(_spread(end - window, end, length) + i * part)
        return np.stack(clips)
    overlap = sampling.mode == "official_overlap"
    last = min(window, num_frames) - 1 if overlap else part
    if last < 1:
        raise ShortVideoError(f"the video has {num_frames} frames, too few for {sampling.num_clips} clips")
    indices = np.concatenate([np.linspace(0, last, num=last // step), np.full(length - last // step, last)])
    indices = np.clip(indices, 0, last - 1).astype(np.int64)
    shift = part
    if overlap:
        shift = (num_frames - window) // (sampling.num_clips - 1) if num_frames > window else 0
    return indices + shift * np.arange(sampling.num_clips)[:, None]


def _spread(begin: int, end: int, length: int) -> np.ndarray:
    return np.clip(np.linspace(begin, end, num=length), begin, end - 1).astype(np.int64)


def uniform_indices(num_frames: int, frames_per_clip: int, short_videos: str = "refuse") -> np.ndarray:
    """Frames spread over a whole video: the first one of each of as many equal parts.

    As VL-JEPA samples (2512.10942, section 3.1: uniformly over the input), and the processors of transformers, so that
    a clip of training is the clip that a processor takes with `do_sample_frames=True`.

    Args:
        num_frames: of the video.
        frames_per_clip: T.
        short_videos: "refuse" raises `ShortVideoError`, "pad" repeats the last frame.

    Returns:
        int64 array (frames_per_clip,) of indices in 0..num_frames - 1.

    Raises:
        ShortVideoError: the video has fewer frames than a clip, and `short_videos` is "refuse".

    Example:
        >>> uniform_indices(10, 4).tolist(), uniform_indices(3, 4, short_videos="pad").tolist()
        ([0, 2, 5, 7], [0, 1, 2, 2])
    """
    if num_frames >= frames_per_clip:
        return (np.arange(frames_per_clip) * (num_frames / frames_per_clip)).astype(np.int64)
    if short_videos == "refuse":
        raise ShortVideoError(f"the video has {num_frames} frames, a clip needs {frames_per_clip}")
    return np.minimum(np.arange(frames_per_clip), num_frames - 1)


def anticipation_indices(
    start_frame: int,
    stop_frame: int,
    video_fps: float,
    frames_per_clip: int = 32,
    fps: float = 8,
    anticipation_time: float = 1.0,
    anticipation_point: float = 0.0,
    anchor: str = "start",
) -> np.ndarray:
    """The observed frames before an action, for anticipation on EPIC-Kitchens-100.

    The clip ends `anticipation_time` seconds before a moment of the action. With `anchor="start"` the moment moves
    from the action's start (point 0) to its stop (point 1), so that at point 0 nothing of the action is seen, as the
    benchmark demands. With `anchor="official"` it moves from the stop to the start, as in the official V-JEPA 2 code
    (2506.09985, section 5): at point 0, which its evaluation uses, the clip may show the action itself, and the
    published numbers are for that.

    Args:
        start_frame, stop_frame: of the action.
        video_fps: frames per second of the video.
        frames_per_clip: T.
        fps: frames of the clip per second; the stride is int(video_fps / fps), at least 1.
        anticipation_time: seconds; in training drawn from 0.25..1.75.
        anticipation_point: share of the way, 0..1; in training drawn from 0..0.25.
        anchor: "start" or "official".

    Returns:
        int64 array (frames_per_clip,); frames before the video's first one are its first one.

    Raises:
        ValueError: an anchor that is neither, a stop before the start, a point outside 0..1.

    Example:
        >>> anticipation_indices(600, 900, 60.0, frames_per_clip=4).tolist()
        [512, 519, 526, 533]
        >>> anticipation_indices(600, 900, 60.0, frames_per_clip=4, anchor="official").tolist()
        [812, 819, 826, 833]
    """
    if anchor not in ("start", "official"):
        raise ValueError(f"anchor {anchor!r} is not one of start, official")
    if stop_frame < start_frame:
        raise ValueError(f"the action stops at frame {stop_frame}, before its start at {start_frame}")
    if not 0 <= anticipation_point <= 1:
        raise ValueError(f"anticipation_point must be in 0..1, got {anticipation_point}")
    first, last = (start_frame, stop_frame) if anchor == "start" else (stop_frame, start_frame)
    moment = (1 - anticipation_point) * first + anticipation_point * last
    end = int(moment - int(anticipation_time * video_fps))
    stride = max(1, int(video_fps / fps))
    return np.maximum(end - stride * np.arange(frames_per_clip, 0, -1), 0)


__all__ = [
    "ClipSampling",
    "ShortVideoError",
    "anticipation_indices",
    "clip_indices",
    "official_clip_indices",
    "uniform_indices",
]
