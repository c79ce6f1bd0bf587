"""The augmentation of views beside a restatement that treats one view at a time, and what its results depend on."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.data.embedded import _pyramid, pictures
from hf_jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from hf_jepa.data.view_augmentation import ViewAugmentation
from hf_jepa.masking import counter_rng


SIZE = 9
SETTINGS = {
    "flip_probability": 0.5,
    "color_jitter": (0.4, 0.3, 0.2, 0.1),
    "color_jitter_probability": 0.7,
    "grayscale_probability": (0.2, 0.1, 0.5),
    "blur_probability": (1.0, 0.1, 0.5),
    "blur_sigma": (0.1, 2.0),
    "solarize_probability": (0.0, 0.2, 0.5),
}


def views(batch: int = 8, num_views: int = 3, size: int = SIZE) -> torch.Tensor:
    coarse = np.random.default_rng(0).integers(0, 256, (batch * num_views, 4, 4, 3), dtype=np.uint8)
    pixels = [np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC)) for x in coarse]
    return torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).reshape(batch, num_views, 3, size, size)


def per_view(value, view: int) -> float:
    return value[view] if isinstance(value, tuple) else value


def restated(pixels: np.ndarray, seed: int, epoch: int, sample: int, view: int) -> np.ndarray:
    """One view (3, H, W) in float64, by the recipe of torchvision's transforms in the order of the papers."""
    u = (counter_rng.hash_integers(seed, epoch, sample, view, np.arange(14)) >> np.uint64(40)) * 2.0**-24
    x = pixels.astype(np.float64) / 255

    def luma(x):
        return (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2])[None]

    def hue(x, turn):
        flat = [colorsys.rgb_to_hsv(*pixel) for pixel in x.reshape(3, -1).T]
        return np.array([colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in flat]).T.reshape(x.shape)

    if u[0] < SETTINGS["flip_probability"]:
        x = x[:, :, ::-1]
    if u[1] < SETTINGS["color_jitter_probability"]:
        b, c, s, h = SETTINGS["color_jitter"]
        factor = [1 - width + 2 * width * u[2 + i] for i, width in enumerate((b, c, s))]
        for step in np.argsort(u[6:10]):
            if step == 0:
                x = np.clip(factor[0] * x, 0, 1)
            elif step == 1:
                x = np.clip(factor[1] * x + (1 - factor[1]) * luma(x).mean(), 0, 1)
            elif step == 2:
                x = np.clip(factor[2] * x + (1 - factor[2]) * luma(x), 0, 1)
            else:
                x = hue(x, -h + 2 * h * u[5])
    if u[10] < per_view(SETTINGS["grayscale_probability"], view):
        x = np.repeat(luma(x), 3, axis=0)
    if u[11] < per_view(SETTINGS["blur_probability"], view):
        low, high = SETTINGS["blur_sigma"]
        kernel = np.exp(-(np.arange(-6, 7) ** 2) / (2 * (low + u[12] * (high - low)) ** 2))
        kernel = kernel / kernel.sum()
        padded = np.pad(x, ((0, 0), (6, 6), (6, 6)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (13, 13), axis=(1, 2))
        x = np.einsum("cyxij,i,j->cyx", windows, kernel, kernel)
    if u[13] < per_view(SETTINGS["solarize_probability"], view):
        x = np.where(x >= 128 / 255, 1 - x, x)
    return (x - np.array(IMAGENET_MEAN)[:, None, None]) / np.array(IMAGENET_STD)[:, None, None]


def test_every_view_is_what_the_restatement_gives():
    pixels, samples = views(24), torch.arange(24) * 7 + 3
    out = ViewAugmentation(**SETTINGS, seed=5)(pixels, samples, epoch=2)
    assert out.dtype == torch.float32 and out.shape == pixels.shape
    for i in range(24):
        for v in range(3):
            expected = restated(pixels[i, v].numpy(), 5, 2, int(samples[i]), v)
            # A value on the threshold of solarising may fall on either side of it.
            wrong = np.abs(out[i, v].double().numpy() - expected) > 2e-5
            assert wrong.mean() < 0.01, (i, v)


def test_results_depend_on_the_sample_and_not_on_its_batch():
    augment = ViewAugmentation(**SETTINGS)
    pixels, samples = views(), torch.arange(8)
    whole = augment(pixels, samples, 0)
    order = torch.tensor([5, 1, 6])
    torch.testing.assert_close(augment(pixels[order], samples[order], 0), whole[order], rtol=0, atol=1e-6)
    torch.manual_seed(1)
    assert torch.equal(augment(pixels, samples, 0), whole)
    for other in (augment(pixels, samples + 8, 0), augment(pixels, samples, 1)):
        assert (other != whole).flatten(2).any(-1).float().mean() > 0.9
    assert not torch.equal(ViewAugmentation(**SETTINGS, seed=1)(pixels, samples, 0), whole)


def test_groups_of_two_sizes_are_numbered_on():
    augment = ViewAugmentation(**SETTINGS)
    pixels, samples = views(), torch.arange(8)
    small = pixels[:, 2:, :, :4, :4]
    first, second = augment([pixels[:, :2], small], samples, 0)
    torch.testing.assert_close(first, augment(pixels, samples, 0)[:, :2], rtol=0, atol=1e-6)
    padded = pixels.clone()[..., :4, :4]
    torch.testing.assert_close(second, augment(padded, samples, 0)[:, 2:], rtol=0, atol=1e-6)


def test_nothing_is_read_from_the_device():  # a tensor on "meta" has no values to be read
    augment = ViewAugmentation(**SETTINGS).to("meta")
    groups = [views().to("meta")[:, :2], views(size=6).to("meta")[:, 2:]]
    out = augment(groups, torch.arange(8, device="meta"), 0)
    assert [tuple(x.shape) for x in out] == [(8, 2, 3, 9, 9), (8, 1, 3, 6, 6)]


def test_rates_of_the_decisions_are_the_probabilities_per_view():
    pixels = torch.zeros(2000, 2, 3, 1, 3)
    pixels[..., 0], pixels[..., 2] = 0.6, 0.9  # asymmetric, and bright enough to be solarised
    off = {"color_jitter": (0, 0, 0, 0), "grayscale_probability": 0, "mean": (0, 0, 0), "std": (1, 1, 1)}
    augment = ViewAugmentation(
        **off,
        flip_probability=0.5,
        blur_probability=(1.0, 0.1),
        blur_sigma=(1.0, 1.0),
        solarize_probability=(0.0, 0.2),
    )
    out = augment(pixels, torch.arange(2000), 0)[:, :, 0, 0]  # (2000, 2, 3)
    blurred, solarized = out[..., 1] > 0.1, out.amax(-1) < 0.55
    assert blurred[:, 0].all() and 0.07 < blurred[:, 1].float().mean() < 0.13
    assert not solarized[:, 0].any() and 0.17 < solarized[:, 1].float().mean() < 0.23
    plain = ViewAugmentation(**off, blur_probability=0, solarize_probability=0)(pixels, torch.arange(2000), 0)
    assert 0.46 < (plain[..., 0] > plain[..., 2]).float().mean() < 0.54


def test_all_orders_of_the_jitter_occur_and_what_is_off_changes_nothing():
    pixels, samples = views(400, 1, 4), torch.arange(400)
    quiet = {"flip_probability": 0, "grayscale_probability": 0, "blur_probability": 0, "solarize_probability": 0}
    raw = {"mean": (0.0,), "std": (1.0,)}
    untouched = ViewAugmentation(**quiet, **raw, color_jitter_probability=0)(pixels, samples, 0)
    assert torch.equal(untouched, pixels / 255)
    with_hue = ViewAugmentation(**quiet, **raw, color_jitter_probability=0.5)(pixels, samples, 0)
    kept = (with_hue == untouched).flatten(1).all(-1).float().mean()
    assert 0.43 < kept < 0.57
    # Without hue the others keep their order, so that a tiny shift of it changes nearly nothing.
    strong = {"color_jitter_probability": 1.0, **quiet, **raw}
    without, tiny = (
        ViewAugmentation(color_jitter=(0.8, 0.8, 0.8, hue), **strong)(pixels, samples, 0) for hue in (0.0, 1e-6)
    )
    torch.testing.assert_close(without, tiny, rtol=0, atol=5e-5)


def test_standardised_views_are_like_the_crops_that_judge_features():
    corner = np.asarray(pictures()[0].crop((0, 0, 48, 48)))
    off = dict.fromkeys(("flip_probability", "blur_probability", "solarize_probability", "grayscale_probability"), 0)
    augment = ViewAugmentation(**off, color_jitter=(0, 0, 0, 0), mean=None, std=None)
    out = augment(torch.tensor(corner).expand(1, 2, 3, 48, 48), torch.arange(1), 0)
    judged = _pyramid(48).crop(np.array([0]), 0, np.zeros((1, 3)))
    torch.testing.assert_close(out, judged[:, None].expand_as(out), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip_probability": 1.5}, "flip.*1.5"),
        ({"blur_probability": (0.5, -0.1)}, "blur.*-0.1"),
        ({"solarize_probability": ()}, "solarize"),
        ({"color_jitter": (0.4, 0.4, 0.2)}, "0.4, 0.4, 0.2"),
        ({"color_jitter": (0.4, 0.4, 0.2, 0.6)}, "0.6"),
        ({"blur_sigma": (2.0, 0.1)}, "2.0, 0.1"),
        ({"mean": None}, "mean=None"),
        ({"seed": -1}, "-1"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ViewAugmentation(**settings)


def test_wrong_batches_are_named():
    augment = ViewAugmentation(**SETTINGS)
    with pytest.raises(ValueError, match=r"3 probabilities of grey for 2 views"):
        augment(views(4, 2), torch.arange(4), 0)
    with pytest.raises(ValueError, match=r"\(4, 3, 9, 9\)"):
        augment(views(4, 1)[:, 0], torch.arange(4), 0)
    with pytest.raises(ValueError, match="5 indices"):
        augment(views(4), torch.arange(5), 0)
