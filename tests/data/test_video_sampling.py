"""Which frames make a clip: equal steps, right places, the official formulas index for index."""

import numpy as np
import pytest

from hf_jepa.data.video_readers import VideoError
from hf_jepa.data.video_sampling import ClipSampling, ShortVideoError, anticipation_indices, clip_indices


RATES = (5, 12.5, 15, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60, 120)


class EndAt:
    """A generator whose next integer is known."""

    def __init__(self, value):
        self.value = value

    def integers(self, low, high):
        assert low <= self.value < high
        return self.value


@pytest.mark.parametrize("video_fps", RATES)
def test_steps_are_constant_and_nearest_to_the_rate_asked_for(video_fps):
    for fps in (1, 2, 4, 8, 30):
        sampling = ClipSampling(8, fps=fps)
        step = sampling.stride(video_fps)
        wanted = video_fps / fps
        assert step >= 1 and all(abs(wanted - step) <= abs(wanted - other) for other in (step - 1, step + 1) if other)
        indices = clip_indices(2000, video_fps, sampling, np.random.default_rng(0))
        assert indices.shape == (1, 8) and indices.dtype == np.int64 and (np.diff(indices) == step).all()


def test_slow_videos_are_taken_frame_by_frame():
    assert ClipSampling(8, fps=4).stride(2.0) == 1
    with pytest.raises(VideoError, match="step of 0 frames for a video of 3 frames per second"):
        ClipSampling(8, fps=4, mode="official").stride(2.5)


def test_rates_halfway_are_rounded_up():
    assert ClipSampling(8, fps=4).stride(30) == 8 and ClipSampling(8, fps=4).stride(10) == 3  # 7.5 and 2.5


def test_duration_is_covered():
    assert ClipSampling(16, duration=4.0).stride(24) == 6
    assert ClipSampling(64, duration=1.0).stride(24) == 1


def test_the_rate_is_needed_only_where_it_matters():
    assert clip_indices(10, None, ClipSampling(4, frame_step=2)).tolist() == [[1, 3, 5, 7]]
    for sampling in (ClipSampling(4, fps=4), ClipSampling(4, duration=1.0)):
        with pytest.raises(VideoError, match="frame rate is not known"):
            clip_indices(10, None, sampling)


def test_random_clips_reach_every_place_equally():
    sampling = ClipSampling(4, frame_step=3)
    rng = np.random.default_rng(0)
    starts = [int(clip_indices(14, None, sampling, rng)[0, 0]) for _ in range(2000)]
    counts = np.bincount(starts)
    assert len(counts) == 5 and counts.min() > 330  # starts 0..4; the last clip ends with the last frame


def test_each_clip_lies_in_its_part():
    sampling = ClipSampling(4, frame_step=2, num_clips=3)
    rng = np.random.default_rng(0)
    for _ in range(100):
        clips = clip_indices(31, None, sampling, rng)
        for clip, (begin, end) in zip(clips, ((0, 10), (10, 20), (20, 31)), strict=True):
            assert begin <= clip[0] and clip[-1] < end
    assert clip_indices(30, None, sampling).tolist() == [[1, 3, 5, 7], [11, 13, 15, 17], [21, 23, 25, 27]]


def test_parts_that_are_too_short_are_covered():
    sampling = ClipSampling(8, frame_step=2, num_clips=4)  # a clip spans 15 frames, a part has 5
    rng = np.random.default_rng(0)
    for _ in range(100):
        clips = clip_indices(20, None, sampling, rng)
        assert clips.min() >= 0 and clips.max() < 20 and (np.diff(clips) == 2).all()
        for clip, begin in zip(clips, (0, 5, 10, 15), strict=True):
            assert clip[0] <= begin and clip[-1] >= begin + 4
    assert clip_indices(20, None, sampling)[:, 0].tolist() == [0, 2, 2, 5]


def test_short_videos_are_refused_or_padded():
    sampling = ClipSampling(4, frame_step=3)
    assert clip_indices(10, None, sampling).tolist() == [[0, 3, 6, 9]]
    with pytest.raises(ShortVideoError, match="9 frames, a clip of 4 x 3 needs 10"):
        clip_indices(9, None, sampling)
    padded = ClipSampling(4, frame_step=3, num_clips=2, short_videos="pad")
    assert clip_indices(5, None, padded, np.random.default_rng(0)).tolist() == [[0, 3, 4, 4]] * 2


OFFICIAL = [
    # num_frames, rate, sampling, end of the window that is drawn, indices of the official data set
    (100, None, {"frames_per_clip": 8, "frame_step": 4}, None, [[0, 4, 9, 13, 18, 22, 27, 31]]),
    (100, None, {"frames_per_clip": 8, "frame_step": 4}, 70, [[38, 42, 47, 51, 56, 60, 65, 69]]),
    (100, 29.97, {"frames_per_clip": 4, "fps": 4, "num_clips": 2}, None, [[0, 9, 18, 27], [50, 59, 68, 77]]),
    (200, 23.976, {"frames_per_clip": 8, "duration": 3.0}, None, [[0, 10, 20, 30, 41, 51, 61, 71]]),
    (20, None, {"frames_per_clip": 8, "frame_step": 4}, None, [[0, 5, 10, 15, 19, 19, 19, 19]]),
    (
        30,
        None,
        {"frames_per_clip": 8, "frame_step": 4, "num_clips": 2},
        None,
        [[0, 7, 14, 14, 14, 14, 14, 14], [15, 22, 29, 29, 29, 29, 29, 29]],
    ),
    (
        50,
        None,
        {"frames_per_clip": 8, "frame_step": 4, "num_clips": 3, "mode": "official_overlap"},
        None,
        [[0, 5, 10, 15, 20, 25, 30, 30], [9, 14, 19, 24, 29, 34, 39, 39], [18, 23, 28, 33, 38, 43, 48, 48]],
    ),
    (
        25,
        None,
        {"frames_per_clip": 8, "frame_step": 4, "num_clips": 3, "mode": "official_overlap"},
        None,
        [[0, 4, 9, 14, 19, 23, 23, 23]] * 3,
    ),
]


@pytest.mark.parametrize(("num_frames", "rate", "fields", "end", "expected"), OFFICIAL)
def test_official_formulas(num_frames, rate, fields, end, expected):
    sampling = ClipSampling(**({"mode": "official", "short_videos": "pad"} | fields))
    rng = None if end is None else EndAt(end)
    indices = clip_indices(num_frames, rate, sampling, rng)
    assert indices.dtype == np.int64 and indices.tolist() == expected


def test_official_refusals():
    sampling = {"frames_per_clip": 8, "frame_step": 4, "mode": "official"}
    with pytest.raises(ShortVideoError, match="31 frames, a clip of 8 x 4 needs 32"):
        clip_indices(31, None, ClipSampling(**sampling))
    for num_frames, fields in ((1, {"mode": "official_overlap"}), (2, {"num_clips": 3})):  # formula: index -1
        with pytest.raises(ShortVideoError, match=f"{num_frames} frames, too few for"):
            clip_indices(num_frames, None, ClipSampling(**(sampling | {"short_videos": "pad"} | fields)))
    ends = [int(clip_indices(40, None, ClipSampling(**sampling), np.random.default_rng(i))[0, -1]) for i in range(200)]
    assert set(ends) == set(range(31, 39))  # the last window is never drawn


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of fps, frame_step and duration, got none"),
        ({"fps": 4, "frame_step": 2}, "exactly one"),
        ({"fps": 0}, "fps must be positive, got 0"),
        ({"frame_step": 1.5}, "frame_step must be positive and whole, got 1.5"),
        ({"frame_step": 1, "frames_per_clip": 0}, "frames_per_clip must be positive"),
        ({"frame_step": 1, "num_clips": -1}, "num_clips"),
        ({"frame_step": 1, "short_videos": "loop"}, "'loop'"),
        ({"frame_step": 1, "mode": "linspace"}, "'linspace'"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        ClipSampling(**fields)


def test_anticipation_ends_a_second_before_the_action():
    start = anticipation_indices(600, 900, 60.0)
    assert len(start) == 32 and (np.diff(start) == 7).all() and start[-1] == 600 - 60 - 7
    official = anticipation_indices(600, 900, 60.0, anchor="official")
    assert official[-1] == 900 - 60 - 7  # after the action has begun
    # Both move towards the other end of the action.
    assert anticipation_indices(600, 900, 60.0, anticipation_point=0.25)[-1] == 600 + 75 - 67
    assert anticipation_indices(600, 900, 60.0, anticipation_point=0.25, anchor="official")[-1] == 900 - 75 - 67
    assert anticipation_indices(600, 900, 59.94, anticipation_time=0.25)[-1] == 600 - 14 - 7  # int(14.985)


def test_anticipation_before_the_video_is_its_first_frame():
    indices = anticipation_indices(100, 200, 60.0, frames_per_clip=8)
    assert indices.tolist() == [0, 0, 0, 5, 12, 19, 26, 33]
    assert (np.diff(anticipation_indices(100, 120, 5.0, frames_per_clip=4)) == 1).all()  # slower than 8 per second


def test_anticipation_refuses():
    with pytest.raises(ValueError, match="'end' is not one of"):
        anticipation_indices(1, 2, 30.0, anchor="end")
    with pytest.raises(ValueError, match="stops at frame 1, before its start at 2"):
        anticipation_indices(2, 1, 30.0)
    with pytest.raises(ValueError, match="got 1.5"):
        anticipation_indices(1, 2, 30.0, anticipation_point=1.5)
