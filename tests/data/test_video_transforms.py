"""One draw for the whole clip, official distributions, and numbers equal to torch's own resize."""

import numpy as np
import pytest
import torch
from pictures import picture
from torch.nn.functional import interpolate

from hf_jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, sample_rng
from hf_jepa.data.video_transforms import (
    ClipHorizontalFlip,
    ClipRandomResizedCrop,
    ClipResizeCenterCrop,
    ClipSpatialViews,
    clip_evaluation_transform,
    clip_pretraining_transform,
    frames_to_tensor,
    short_side_size,
)


MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))


def clip(seed=0, frames=4, height=40, width=60):
    return np.stack([np.asarray(picture(seed + i, height, width)) for i in range(frames)])


@pytest.mark.parametrize("antialias", [False, True])
def test_pretraining_is_crop_resize_flip_normalise(antialias):
    frames = clip()
    crop = ClipRandomResizedCrop((24, 16), antialias=antialias)
    flips = 0
    for i in range(10):
        rng = sample_rng(0, 1, i)
        left, top, w, h = crop.box(60, 40, rng)
        flip = rng.random() < 0.5
        part = torch.from_numpy(frames[:, top : top + h, left : left + w]).permute(0, 3, 1, 2).float()
        expected = interpolate(part, (24, 16), mode="bilinear", align_corners=False, antialias=antialias) / 255
        expected = (expected.flip(-1) if flip else expected).sub(MEAN).div(STD)
        result = clip_pretraining_transform((24, 16), antialias=antialias)(frames, sample_rng(0, 1, i))
        assert result.dtype == torch.float32 and torch.allclose(result, expected, atol=1e-6)
        flips += flip
    assert 0 < flips < 10


def test_official_pretraining_does_not_filter():
    """A picture of stripes, two pixels to one: without a filter the result is one of the two colours."""
    stripes = np.zeros((2, 32, 32, 3), np.uint8)
    stripes[:, :, 1::3] = 255
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    plain = ClipRandomResizedCrop(8, **whole)(frames_to_tensor(stripes), sample_rng(0, 0, 0))
    filtered = ClipRandomResizedCrop(8, **whole, antialias=True)(frames_to_tensor(stripes), sample_rng(0, 0, 0))
    assert plain.std() > 2 * filtered.std()


def test_crop_ranges_are_official():
    crop = ClipRandomResizedCrop(16)
    boxes = np.array([crop.box(400, 400, sample_rng(0, 0, i)) for i in range(2000)])
    area, ratio = boxes[:, 2] * boxes[:, 3] / 400**2, boxes[:, 2] / boxes[:, 3]
    assert 0.29 < area.min() < 0.31 and area.max() > 0.97
    assert 0.745 < ratio.min() < 0.77 and 1.33 < ratio.max() < 1.355


def test_all_frames_get_the_same_crop_and_flip():
    still = np.repeat(clip(frames=1), 5, axis=0)
    transform = clip_pretraining_transform(24)
    for i in range(8):
        result = transform(still, sample_rng(0, 0, i))
        assert torch.equal(result, result[:1].expand_as(result))


def test_flip_mirrors_half_of_the_clips():
    frames = torch.arange(6.0).view(1, 1, 1, 6)
    flipped = [bool(ClipHorizontalFlip()(frames, sample_rng(0, 0, i))[..., 0] == 5) for i in range(400)]
    assert 150 < sum(flipped) < 250
    no_flip = clip_pretraining_transform(8, scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=False)
    square = clip(height=8, width=8)
    results = [no_flip(square, sample_rng(0, 0, i)) for i in range(20)]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("size", [16, (16, 24)])
@pytest.mark.parametrize("shape", [(40, 60), (61, 40), (33, 33)])
def test_evaluation_is_short_side_and_centre(size, shape):
    height, width = (size, size) if isinstance(size, int) else size
    frames = clip(0, 2, *shape)
    short = int(max(height, width) * 256 / 224)
    resized = short_side_size(shape, short)
    assert min(resized) == short and max(resized) == int(short * max(shape) / min(shape))
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    pixels = interpolate(pixels, resized, mode="bilinear", align_corners=False, antialias=True)
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    expected = (pixels[..., top : top + height, left : left + width] / 255 - MEAN) / STD
    assert torch.allclose(clip_evaluation_transform(size)(frames), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_three_views_lie_along_the_long_side(shape):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    ramp = ramp[None, :] if shape[1] == 64 else ramp[:, None]
    frames = np.broadcast_to(ramp[None, :, :, None], (2, *shape, 3))
    views = ClipSpatialViews(40, views=3)(frames_to_tensor(frames.copy()))
    assert views.shape == (3, 2, 3, 40, 40)
    flat = views[:, 0, 0]
    lines = flat[:, 0] if shape[1] == 64 else flat[:, :, 0]
    for line, start in zip(lines, (0, 12, 24), strict=True):
        assert torch.equal(line, torch.from_numpy(ramp.ravel()[start : start + 40]).float())
    middle = ClipSpatialViews(40, views=1)(frames_to_tensor(frames.copy()))
    assert torch.equal(middle[0], views[1])
    assert clip_evaluation_transform(40, views=2)(frames.copy()).shape == (2, 2, 3, 40, 40)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: frames_to_tensor(np.zeros((2, 4, 4, 3), np.float32)), TypeError, "float32"),
        (lambda: frames_to_tensor(np.zeros((4, 4, 3), np.uint8)), ValueError, r"\(4, 4, 3\)"),
        (lambda: ClipResizeCenterCrop(8, crop_pct=1.2), ValueError, "1.2"),
        (lambda: ClipSpatialViews((8, 9)), ValueError, "squares"),
        (lambda: ClipSpatialViews(8, views=0), ValueError, "got 0"),
        (lambda: ClipRandomResizedCrop(8, scale=(0.5, 0.3)), ValueError, "0.5, 0.3"),
    ],
)
def test_wrong_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
