"""The pictures of masks show what was masked."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.masking.masks import Masks
from hf_jepa.masking.multiblock import MultiBlockMaskSampler
from hf_jepa.masking.multiblock_official import OfficialMultiBlockMaskSampler
from hf_jepa.masking.statistics import measure_masks
from hf_jepa.visualization.masks import _fade, draw_mask_distribution, draw_masks, token_mask


def green_pixels(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int(((pixels[..., 1] > 200) & (pixels[..., 0] < 60) & (pixels[..., 2] < 60)).sum())


def test_only_kept_tokens_show_the_image(tmp_path):
    image = np.zeros((56, 56, 3), dtype=np.uint8)
    image[..., 1] = 255
    few = Masks([torch.tensor([[0, 1]])], [torch.tensor([[15]])])
    many = Masks([torch.arange(12)[None]], [torch.arange(4, 16)[None]])
    whole = Masks([torch.arange(16)[None]], [torch.arange(16)[None]])
    counts = []
    for name, masks in (("few", few), ("many", many), ("whole", whole)):
        path = draw_masks(image, masks, (4, 4), tmp_path / "new" / f"{name}.png")
        counts.append(green_pixels(path))
    plain = counts[2] / 3  # the image itself, a full context, a full target
    assert counts[0] / plain == pytest.approx(1 + 3 / 16, rel=0.15)
    assert counts[1] / plain == pytest.approx(1 + 24 / 16, rel=0.15)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["few.png", "many.png", "whole.png"]


def test_fading_follows_the_grid_when_the_image_is_no_multiple_of_it():
    kept = token_mask(torch.tensor([0, 5]), (2, 3))
    shown = _fade(np.zeros((5, 7, 3)), kept)[..., 0] == 0
    assert shown[:3, :3].all() and shown[3:, 5:].all() and shown.sum() == 3 * 3 + 2 * 2


@pytest.mark.parametrize("image", [None, np.full((4, 30, 60, 3), 0.5)])
def test_rows_are_limited_and_images_may_differ_per_sample(tmp_path, image):
    masks = MultiBlockMaskSampler((6, 12), min_keep=5)(torch.arange(4), step=0)
    one = Image.open(draw_masks(image, masks, (6, 12), tmp_path / "one.png", max_rows=1))
    three = Image.open(draw_masks(image, masks, (6, 12), tmp_path / "three.png", max_rows=3, title="three"))
    assert one.width == three.width and three.height > 1.8 * one.height


def test_refuses_what_does_not_fit(tmp_path):
    masks = MultiBlockMaskSampler(14)(torch.arange(2), step=0)
    with pytest.raises(ValueError, match="pass the masks' own grid_size"):
        draw_masks(None, masks, (7, 7), tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"shape \(3, 56, 56\)"):
        draw_masks(np.zeros((3, 56, 56)), masks, (14, 14), tmp_path / "x.png")
    with pytest.raises(ValueError, match="too small"):
        draw_masks(np.zeros((8, 8, 3)), masks, (14, 14), tmp_path / "x.png")
    with pytest.raises(ValueError, match="values run from"):
        draw_masks(np.full((56, 56, 3), 255.0), masks, (14, 14), tmp_path / "x.png")
    with pytest.raises(ValueError, match="nothing|no statistics"):
        draw_mask_distribution({}, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_distribution_has_a_row_per_sampler(tmp_path):
    samplers = {"official": OfficialMultiBlockMaskSampler(14), "corrected": MultiBlockMaskSampler(14)}
    statistics = {name: measure_masks(sampler, num_steps=3, batch_size=4) for name, sampler in samplers.items()}
    both = Image.open(draw_mask_distribution(statistics, tmp_path / "both.png"))
    one = Image.open(draw_mask_distribution({"corrected": statistics["corrected"]}, tmp_path / "one.png"))
    assert both.height == 2 * one.height and both.width == one.width
