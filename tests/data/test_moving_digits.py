"""Moving digits: what is said about a clip is what it shows, splits share no digit, every clip is reproducible."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_jepa.data.moving_digits import GLYPH, MEAN, REACH, STD, MovingDigits, digit_images, glyph_numbers
from hf_jepa.data.videos import VideoCollator


def canvas(clips):
    return clips.pixel_values_videos[:, :, 0] * STD + MEAN  # (B, T, 64, 64) in [0, 1]


def test_pixels_are_the_digits_at_their_positions():
    clips = MovingDigits(50, channels=1, num_frames=6).batch(range(20))
    frames, (glyphs, classes) = canvas(clips), digit_images()
    assert clips.pixel_values_videos.shape == (20, 6, 1, 64, 64)
    for b in range(20):
        for t in range(6):
            seen, shapes = frames[b, t], []
            for k in range(2):
                top, left = clips.position[b, t, k].round().int().tolist()
                shapes.append((top, left, seen[top : top + GLYPH, left : left + GLYPH]))
            for (_, _, window), digit in zip(shapes, clips.digits[b].tolist(), strict=True):
                alike = [torch.from_numpy(glyphs[i]) for i in np.flatnonzero(classes == digit)]
                # One image of this class is in the window, where the other digit does not cover it.
                assert any((window >= glyph - 1e-5).all() for glyph in alike)
            outside = seen.clone()
            for top, left, _ in shapes:
                outside[top : top + GLYPH, left : left + GLYPH] = 0
            assert outside.abs().max() < 1e-5


def test_flight_is_straight_and_reflected():
    clips = MovingDigits(200, num_frames=40).batch(range(200))
    position, velocity = clips.position, clips.velocity
    assert position.min() >= 0 and position.max() <= REACH
    speed = velocity.norm(dim=-1)
    assert speed.min() > 2 - 1e-4 and speed.max() < 4 + 1e-4 and speed.std(dim=1).max() < 1e-5
    step = position[:, 1:] - position[:, :-1]
    straight = (velocity[:, 1:] == velocity[:, :-1]).all(-1)
    assert 0.6 < straight.float().mean() < 0.95
    assert torch.allclose(step[straight], velocity[:, :-1][straight], atol=1e-4)
    assert (step.abs() <= velocity[:, :-1].abs() + 1e-4).all()
    angle = torch.atan2(velocity[:, 0, :, 0], velocity[:, 0, :, 1]).flatten()
    assert torch.histc(angle, 4, -np.pi, np.pi).min() > 70  # all directions
    assert position[:, 0].mean().sub(REACH / 2).abs() < 2.5 and position[:, 0].std() > 12


def test_splits_share_no_digit_image():
    train, test = set(glyph_numbers("train")), set(glyph_numbers("test"))
    assert not train & test and len(train | test) == 1797
    classes = digit_images()[1]
    assert set(classes[sorted(test)]) == set(range(10))
    with pytest.raises(ValueError, match="split 'val'"):
        glyph_numbers("val")
    pair = (MovingDigits(20, split=split).batch(range(20)).pixel_values_videos for split in ("train", "test"))
    assert not torch.equal(*pair)


def test_classes_are_in_order_and_spread():
    digits = MovingDigits(2000, num_frames=1).batch(range(1000)).digits
    assert (digits[:, 0] <= digits[:, 1]).all() and torch.bincount(digits.flatten()).min() > 140


def test_clips_depend_on_seed_epoch_and_index_alone():
    clips, other = MovingDigits(50, num_frames=4), MovingDigits(50, num_frames=4, seed=1)
    one = clips[9]
    assert one["sample_index"] == 9 and one["pixel_values_videos"].shape == (4, 3, 64, 64)
    assert torch.equal(one["pixel_values_videos"], clips.__getitems__([3, 9])[1]["pixel_values_videos"])
    assert torch.equal(one["pixel_values_videos"], clips.batch([9]).pixel_values_videos[0])
    assert not torch.equal(one["pixel_values_videos"], other[9]["pixel_values_videos"])
    assert not torch.equal(one["pixel_values_videos"], clips[8]["pixel_values_videos"])
    clips.set_epoch(1)
    assert clips.epoch == 1 and not torch.equal(one["pixel_values_videos"], clips[9]["pixel_values_videos"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_clips(workers):
    dataset = MovingDigits(16, num_frames=4)
    batches = list(DataLoader(dataset, 8, num_workers=workers, collate_fn=VideoCollator()))
    found = torch.cat([batch["pixel_values_videos"] for batch in batches])
    assert torch.equal(found, dataset.batch(range(16)).pixel_values_videos)
    assert batches[1]["sample_index"].tolist() == list(range(8, 16)) and batches[0]["skipped"] == []


def test_pixels_are_standardised():
    pixels = MovingDigits(600).batch(range(600)).pixel_values_videos
    assert pixels.mean().abs() < 0.02 and (pixels.std() - 1).abs() < 0.02
    assert torch.equal(pixels[:, :, 0], pixels[:, :, 2])


def test_a_jump_changes_one_digit_from_its_frame_on():
    plain = MovingDigits(100, num_frames=20).batch(range(100))
    jump = MovingDigits(100, num_frames=20, jump_frame=8).batch(range(100))
    assert torch.equal(jump.digits, plain.digits)
    assert torch.equal(jump.pixel_values_videos[:, :8], plain.pixel_values_videos[:, :8])
    assert torch.equal(jump.position[:, :, 1], plain.position[:, :, 1])
    moved = (jump.position[:, 8, 0] - plain.position[:, 8, 0]).abs()
    assert torch.allclose(moved, torch.full_like(moved, REACH / 2), atol=1e-4)
    assert jump.position.min() >= 0 and jump.position.max() <= REACH
    assert torch.equal(jump.velocity[:, 8], plain.velocity[:, 8])
    step = jump.position[:, 9:] - jump.position[:, 8:-1]
    straight = (jump.velocity[:, 9:] == jump.velocity[:, 8:-1]).all(-1)
    assert torch.allclose(step[straight], jump.velocity[:, 8:-1][straight], atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 0}, "length=0"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"channels": 2}, "got 2"),
        ({"jump_frame": 0}, "1..15, got 0"),
        ({"jump_frame": 16}, "got 16"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_wrong_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        MovingDigits(**({"length": 10} | fields))
    with pytest.raises(IndexError, match="10 is out of range"):
        MovingDigits(10)[10]
