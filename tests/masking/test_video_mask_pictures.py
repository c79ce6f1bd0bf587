"""The pictures of masks of clips show what was masked."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.masking.masks import Masks
from hf_jepa.masking.multiblock3d import MultiBlock3dMaskSampler
from hf_jepa.masking.video_statistics import measure_video_masks
from hf_jepa.visualization.video_masks import draw_video_mask_distribution, draw_video_masks


GRID = (2, 4, 4)


def pixels_like(path, red, green, blue):
    """How many pixels have about this colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - (red, green, blue)).max(axis=-1) < 12).sum())


def tokens(*indices):
    return torch.tensor([indices])


def test_context_shows_the_clip_and_targets_are_tinted(tmp_path):
    clip = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    clip[:2, ..., 1] = 255  # the first token frame is green, the second blue
    clip[2:, ..., 2] = 255
    masks = Masks([tokens(0, 1, 2, 3, 4, 5, 6, 7)], [tokens(16, 17, 18, 19)])
    path = draw_video_masks(clip, masks, GRID, tmp_path / "new" / "masks.png")
    frame = pixels_like(path, 0, 0, 255)  # the second frame of the clip above; none of it is context
    assert pixels_like(path, 0, 255, 0) / frame == pytest.approx(1.5, rel=0.1)
    tinted = [255 * (0.62 * value + 0.38 / 3) for value in (0.82, 0.29, 0.36)]
    assert pixels_like(path, *tinted) / frame == pytest.approx(0.25, rel=0.15)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["masks.png"]


def test_samples_are_limited_and_long_clips_are_thinned_out(tmp_path):
    masks = MultiBlock3dMaskSampler((40, 6, 6))(torch.arange(3), step=0)
    one, two = (
        Image.open(draw_video_masks(None, masks, (40, 6, 6), tmp_path / f"{n}.png", max_samples=n)) for n in (1, 2)
    )
    assert one.width == two.width < 2600 and two.height > 1.6 * one.height


def test_refuses_what_does_not_fit(tmp_path):
    masks = Masks([tokens(0, 1)], [tokens(31)])
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match="a mask names token 31, but the grid has 16"):
        draw_video_masks(None, masks, (1, 4, 4), path)
    with pytest.raises(ValueError, match="masks of a clip are pairs, got 1 contexts and 2 targets.*draw_masks"):
        draw_video_masks(None, Masks([tokens(0)], [tokens(1), tokens(2)]), GRID, path)
    for shape in ((3, 8, 8, 3), (0, 8, 8, 3), (2, 3, 8, 8), (8, 8, 3)):
        with pytest.raises(ValueError, match="T = 1 or a multiple of 2 token frames"):
            draw_video_masks(np.zeros(shape), masks, GRID, path)
    with pytest.raises(ValueError, match="too small for a grid of 4 x 4"):
        draw_video_masks(np.zeros((2, 3, 8, 3)), masks, GRID, path)
    with pytest.raises(ValueError, match="values run from"):
        draw_video_masks(np.full((2, 8, 8, 3), 255.0), masks, GRID, path)
    with pytest.raises(ValueError, match="no statistics"):
        draw_video_mask_distribution({}, path)
    statistics = {
        str(grid): measure_video_masks(MultiBlock3dMaskSampler(grid), num_steps=1) for grid in (GRID, (4, 4, 4))
    }
    with pytest.raises(ValueError, match=r"statistics of different samplers: .*\(2, 2, 4, 4\), \(2, 4, 4, 4\)"):
        draw_video_mask_distribution(statistics, path)
    assert not path.exists()


def test_distribution_has_rows_per_sampler_and_columns_per_frame(tmp_path):
    def picture(grid, names):
        statistics = measure_video_masks(MultiBlock3dMaskSampler(grid), num_steps=2, batch_size=2)
        return Image.open(draw_video_mask_distribution(dict.fromkeys(names, statistics), tmp_path / "x.png"))

    one, two, long = picture((4, 4, 4), "a"), picture((4, 4, 4), "ab"), picture((8, 4, 4), "a")
    assert two.height > 1.7 * one.height and two.width == one.width < long.width
