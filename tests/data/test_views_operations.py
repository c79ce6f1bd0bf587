"""Operations on batches of pixels beside Pillow's, beside colorsys, and the random numbers beside those of numpy."""

import colorsys

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from hf_jepa.data.device_rng import hash_integers, uniform
from hf_jepa.data.pixel_operations import enhance, gaussian_blur, shift_hue, solarize, to_grey
from hf_jepa.masking import counter_rng


def noisy(seed: int) -> Image.Image:
    """Smooth colours with noise: also dark, bright and saturated pixels."""
    noise = np.random.default_rng(seed).integers(-60, 61, (40, 60, 3))
    return Image.fromarray((np.asarray(picture(seed)).astype(int) + noise).clip(0, 255).astype(np.uint8))


IMAGES = [noisy(seed) for seed in range(4)]
PIXELS = torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in IMAGES]) / 255  # (4, 3, 40, 60)


def strengths(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def steps_of_8_bits(ours: torch.Tensor, theirs: list[Image.Image]) -> torch.Tensor:
    """Distance from Pillow's results in 1 / 255."""
    other = torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in theirs])
    return (255 * ours - other).abs()


@pytest.mark.parametrize(
    ("kind", "enhancer"), enumerate([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color])
)
def test_enhancing_is_that_of_pillow(kind, enhancer):
    factors = (0.0, 0.6, 1.0, 1.8)
    ours = enhance(PIXELS, torch.full((4, 1, 1, 1), kind), strengths(*factors))
    theirs = [enhancer(image).enhance(factor) for image, factor in zip(IMAGES, factors, strict=True)]
    assert steps_of_8_bits(ours, theirs).max() <= 1.6  # Pillow rounds grey and mean, then cuts off
    assert torch.equal(ours[2], PIXELS[2]) and ours.min() >= 0 and ours.max() <= 1


def test_kinds_may_differ_within_a_batch():
    kinds = torch.tensor([2, 0, 1, 3]).view(-1, 1, 1, 1)
    mixed = enhance(PIXELS, kinds, strengths(0.5, 0.7, 1.3, 1.0))
    for i, factor in enumerate((0.5, 0.7, 1.3)):
        assert torch.equal(mixed[i], enhance(PIXELS[i], kinds[i], torch.tensor(factor).view(1, 1, 1)))
    assert torch.equal(mixed[3], PIXELS[3])


def test_grey_is_that_of_pillow():
    assert (
        steps_of_8_bits(to_grey(PIXELS).expand(-1, 3, -1, -1), [i.convert("L").convert("RGB") for i in IMAGES]).max()
        < 1
    )


def test_hue_is_that_of_colorsys():
    pixels = PIXELS[:, :, :8, :8].clone()
    pixels[0, :, 0, :3] = torch.tensor([[0.0, 1.0, 0.5]] * 3)  # black, white, grey
    pixels[0, :, 0, 3:6] = torch.eye(3)
    turns = (0.0, -0.5, 0.13, 0.4)
    ours = shift_hue(pixels, strengths(*turns)).double().numpy()
    for i, turn in enumerate(turns):
        for y in range(8):
            for x in range(8):
                h, s, v = colorsys.rgb_to_hsv(*pixels[i, :, y, x].double().tolist())
                expected = colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)
                np.testing.assert_allclose(ours[i, :, y, x], expected, atol=2e-6)


def test_blur_is_a_gaussian_with_repeated_edges():
    sigmas, radius = (0.1, 0.7, 1.3, 2.0), 6
    ours = gaussian_blur(PIXELS, strengths(*sigmas), radius).double().numpy()
    for i, sigma in enumerate(sigmas):
        axis = np.arange(-radius, radius + 1)
        kernel = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * sigma**2))  # in two dimensions at once
        kernel /= kernel.sum()
        padded = np.pad(PIXELS[i].double().numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=(1, 2))
        np.testing.assert_allclose(ours[i], np.einsum("cyxij,ij->cyx", windows, kernel), atol=2e-6)
    assert torch.equal(gaussian_blur(PIXELS[2], torch.full((1, 1, 1), 1.3), radius), torch.tensor(ours[2]).float())


def test_blur_is_nearly_that_of_pillow():  # which takes three box blurs
    ours = gaussian_blur(PIXELS, strengths(1.0, 1.0, 2.0, 2.0), 6)
    theirs = [i.filter(ImageFilter.GaussianBlur(sigma)) for i, sigma in zip(IMAGES, (1, 1, 2, 2), strict=True)]
    distance = steps_of_8_bits(ours, theirs)
    assert distance.mean() < 1 and distance.max() < 10
    assert steps_of_8_bits(PIXELS, theirs).mean() > 15


def test_solarizing_is_that_of_pillow():
    levels = torch.arange(256).expand(3, 1, 256)
    theirs = ImageOps.solarize(Image.fromarray(levels.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert steps_of_8_bits(solarize(levels / 255)[None], [theirs]).max() < 1e-4


@pytest.mark.parametrize("keys", [(0,), (7, 3, np.arange(9)), (2**40, 0, np.arange(5)[:, None], np.arange(3))])
def test_random_bits_are_those_of_numpy(keys):
    expected = counter_rng.hash_integers(*keys)
    tensors = [torch.from_numpy(key) if isinstance(key, np.ndarray) else key for key in keys]
    assert (hash_integers(*tensors).numpy().astype(np.uint64) == expected).all()
    numbers = uniform(*tensors).double().numpy()
    assert (np.abs(numbers - counter_rng.uniform(*keys)) < 2.0**-24).all() and (numbers < 1).all()


def test_random_numbers_need_integers():
    with pytest.raises(TypeError, match="torch.float32"):
        uniform(0, torch.zeros(3))
