"""The picture of views shows every view in its place and in its colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.visualization.views import draw_views


COLORS = [(200, 30, 40), (30, 160, 60), (40, 60, 210)]


def pixels_of(path, color) -> np.ndarray:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - color).max(-1) < 4)


def flat(color, size: int, batch: int = 3) -> torch.Tensor:
    return (torch.tensor(color) / 255).view(1, 1, 3, 1, 1).expand(batch, 1, 3, size, size)


def test_views_are_in_order_in_their_colours_and_sizes(tmp_path):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    groups = [torch.cat([flat(color, 32) for color in COLORS[:2]], 1), flat(COLORS[2], 16)]
    scaled = [(x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1) for x in groups]
    path = draw_views(scaled, tmp_path / "views.png", mean=mean, std=std, max_rows=2, title="views")
    found = [pixels_of(path, color) for color in COLORS]
    columns = [places[:, 1].mean() for places in found]
    assert columns == sorted(columns)
    areas = [len(places) for places in found]
    assert areas[0] == pytest.approx(areas[1], rel=0.1) and areas[2] == pytest.approx(areas[0] / 4, rel=0.2)
    raw = draw_views(groups, tmp_path / "raw.png", max_rows=2)
    assert len(pixels_of(raw, COLORS[0])) == pytest.approx(areas[0], rel=0.3)


def test_more_rows_and_images_make_a_larger_picture(tmp_path):
    views = torch.rand(4, 2, 3, 8, 8)
    images = [np.full((10, 12), 77, np.uint8)] * 4
    plain = draw_views((255 * views).to(torch.uint8), tmp_path / "plain.png", max_rows=2)
    more = draw_views(views, tmp_path / "more.png", images=images, max_rows=4)
    sizes = [Image.open(path).size for path in (plain, more)]
    assert sizes[1][0] > 1.3 * sizes[0][0] and sizes[1][1] > 1.7 * sizes[0][1]


def test_other_values_are_drawn_from_darkest_to_brightest(tmp_path):
    views = torch.randn(1, 1, 1, 4, 4).expand(1, 1, 3, 4, 4).clone()
    views[..., :2, :], views[..., 2:, :] = 7.0, -3.0
    path = draw_views(views, tmp_path / "views.png")
    white, black = pixels_of(path, (255, 255, 255)), pixels_of(path, (0, 0, 0))
    assert len(black) > 1000 and len(white) > 1000


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"\(4, 3, 8, 8\)"):
        draw_views(torch.rand(4, 3, 8, 8), tmp_path / "x.png")
    with pytest.raises(ValueError, match="2 images .* of 4"):
        draw_views(torch.rand(4, 2, 3, 8, 8), tmp_path / "x.png", images=[np.zeros((2, 2))] * 2)
    assert not (tmp_path / "x.png").exists()
