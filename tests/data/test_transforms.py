import math

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from hf_jepa.data.augmentations import RandomColorDistortion, RandomGaussianBlur, RandomHorizontalFlip
from hf_jepa.data.transforms import (
    Normalize,
    RandomResizedCrop,
    ResizeCenterCrop,
    evaluation_transform,
    pretraining_transform,
    sample_rng,
    to_tensor,
)


def crop_boxes(crop, width, height, draws=4000):
    return np.array([crop.box(width, height, sample_rng(0, 0, i)) for i in range(draws)])


def test_crop_statistics_on_a_square_image():
    left, top, w, h = crop_boxes(RandomResizedCrop(32), 400, 400).T
    assert (left >= 0).all() and (top >= 0).all() and (left + w <= 400).all() and (top + h <= 400).all()
    area, ratio = w * h / 400**2, w / h
    assert 0.295 < area.min() < 0.31 and 0.97 < area.max() <= 1.0
    assert 0.745 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.345
    assert abs(np.log(ratio).mean()) < 0.01  # uniform in log ratio: symmetric about 1
    # An area a fits with probability min(1, -log(a) / log(4/3)); the mean of a uniform a weighted by that is 0.589.
    assert abs(area.mean() - 0.589) < 0.01
    # Positions are inclusive on both sides and uniform: on average centred.
    assert abs(np.mean(left + w / 2) - 200) < 3 and abs(np.mean(top + h / 2) - 200) < 3
    assert (left + w == 400).any() and (left == 0).any()


def test_area_is_uniform_when_nothing_is_rejected():
    left, top, w, h = crop_boxes(RandomResizedCrop(32, scale=(0.1, 0.5)), 1000, 1000).T
    area = w * h / 1e6
    quartiles = np.quantile(area, [0.25, 0.5, 0.75])
    assert np.allclose(quartiles, [0.2, 0.3, 0.4], atol=0.015)
    assert (left + w <= 1000).all() and (top + h <= 1000).all()


def test_tiny_images_reach_both_ends():
    left, _, w, _ = crop_boxes(RandomResizedCrop(8, scale=(0.2, 0.3), ratio=(1.0, 1.0)), 4, 4, draws=200).T
    assert set(w) == {2} and set(left) == {0, 1, 2}


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(1000, 100, (433, 0, 133, 100)), (100, 1000, (0, 433, 100, 133)), (1, 1, (0, 0, 1, 1)), (3, 1, (1, 0, 1, 1))],
)
def test_fallback_is_the_centre_of_an_allowed_shape(width, height, box):
    crop = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    assert {crop.box(width, height, sample_rng(0, 0, i)) for i in range(20)} == {box}


def test_crop_is_cut_then_resized_with_antialiasing():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 255  # stripes finer than the result can show must average to grey
    crop = RandomResizedCrop((8, 16), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    result = np.asarray(crop(Image.fromarray(pixels), sample_rng(0, 0, 0)))
    assert result.shape == (8, 16, 3)
    assert result[1:-1].min() > 115 and result[1:-1].max() < 140

    image, crop = picture(0, 80, 90), RandomResizedCrop((24, 20))
    left, top, w, h = crop.box(90, 80, sample_rng(1, 2, 3))
    part = torch.tensor(np.asarray(image)[top : top + h, left : left + w]).permute(2, 0, 1)[None].double()
    reference = torch.nn.functional.interpolate(part, (24, 20), mode="bilinear", antialias=True)[0]
    result = torch.tensor(np.array(crop(image, sample_rng(1, 2, 3)))).permute(2, 0, 1)
    assert (reference - result).abs().max() < 1.01  # Pillow works in 8-bit fixed point


def test_randomness_is_a_function_of_seed_epoch_and_index():
    transform = pretraining_transform(16, horizontal_flip=True, color_distortion=1.0, gaussian_blur=True)
    image = picture(3)
    torch.manual_seed(0), np.random.seed(0)
    first = transform(image, sample_rng(5, 6, 7))
    torch.manual_seed(1), np.random.seed(1)
    assert torch.equal(first, transform(image, sample_rng(5, 6, 7)))
    for other in ((4, 6, 7), (5, 7, 7), (5, 6, 8), (6, 5, 7), (7, 6, 5)):
        assert not torch.equal(first, transform(image, sample_rng(*other))), other


@pytest.mark.parametrize("size", [32, (24, 40), (40, 24)])
@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (33, 33), (5, 300), (7, 3)])
def test_resize_center_crop_size_and_centre(size, shape):
    height, width = (size, size) if isinstance(size, int) else size
    ramp = np.linspace(0, 255, shape[1])[None, :, None] * np.ones((shape[0], 1, 3))
    result = np.asarray(ResizeCenterCrop(size, crop_pct=1.0)(Image.fromarray(ramp.astype(np.uint8)))).astype(float)
    assert result.shape == (height, width, 3)
    assert abs(result.mean() - 127.5) < 4  # the middle of the ramp is in the middle of the crop


def test_crop_pct_decides_how_much_is_cut():
    assert ResizeCenterCrop(224).short_side == 256
    assert ResizeCenterCrop((224, 112), crop_pct=1.0).short_side == 224


def test_evaluation_transform_normalises_with_imagenet_statistics():
    white = evaluation_transform(8)(Image.new("RGB", (20, 10), "white"))
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(white, expected.view(3, 1, 1).expand(3, 8, 8))
    assert to_tensor(picture(0)).shape == (3, 40, 60) and Normalize()(torch.zeros(3, 2, 2)).dtype == torch.float32


def test_flip_blur_and_colour_rates():
    image = picture(1)
    count = {"flip": 0, "blur": 0, "same": 0, "grey": 0}
    flip, blur, colour = RandomHorizontalFlip(), RandomGaussianBlur(), RandomColorDistortion(0.5)
    mirrored = np.asarray(image)[:, ::-1]
    for i in range(1000):
        rng = sample_rng(0, 1, i)
        count["flip"] += np.array_equal(flip(image, rng), mirrored)
        count["blur"] += blur(image, rng) is not image
        result = np.asarray(colour(image, rng)).astype(int)
        count["grey"] += bool((result[..., 0] == result[..., 1]).all() and (result[..., 1] == result[..., 2]).all())
        count["same"] += np.array_equal(result, np.asarray(image))
    assert 440 < count["flip"] < 560 and 440 < count["blur"] < 560
    assert 150 < count["grey"] < 250  # p = 0.2
    assert 110 < count["same"] < 210  # neither jittered (0.2) nor grey (0.8)


def test_hue_turns_the_colour_circle():
    from hf_jepa.data.augmentations import _shift_hue

    red = Image.new("RGB", (2, 2), (255, 0, 0))
    r, g, b = _shift_hue(red, 1 / 3).getpixel((0, 0))
    assert g > 240 and r < 15 and b < 15
    r, g, b = _shift_hue(red, -1 / 3).getpixel((0, 0))
    assert b > 240 and r < 15 and g < 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(0), "got 0"),
        (lambda: RandomResizedCrop((8, 8, 8)), "height, width"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.3)), "0.5, 0.3"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.3)), "1.3"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), "ratio"),
        (lambda: ResizeCenterCrop(8, crop_pct=1.5), "1.5"),
        (lambda: RandomColorDistortion(3.0), "3.0"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_default_transform_only_crops():
    """A crop that is the whole image leaves it as it is: no flip, colour or blur by default."""
    image = picture(2, 32, 32)
    transform = pretraining_transform(32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    for i in range(10):
        assert torch.equal(transform(image, sample_rng(0, 0, i)), Normalize()(to_tensor(image)))
    assert math.isclose(float(to_tensor(image).max()), np.asarray(image).max() / 255, rel_tol=1e-6)
