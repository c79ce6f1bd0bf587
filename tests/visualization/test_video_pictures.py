"""Pictures over time: one colour scale for all maps, curves with their event, errors below the frames they are of."""

import numpy as np
import pytest
import torch
from drawings import pixels_near
from PIL import Image

from hf_jepa.visualization.video import draw_surprise_curves, draw_surprise_strip, draw_video_pca


def test_one_colour_means_one_thing_at_every_resolution(tmp_path):
    """Tokens of two kinds: where a second map has only one of them, it has one of the two colours."""
    kinds = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    both = kinds[torch.arange(32) % 2].view(2, 4, 4, 4)
    single = kinds[torch.zeros(8, dtype=torch.long)].view(2, 2, 2, 4)
    frames = np.full((4, 32, 32), 0.5)
    first = draw_video_pca(frames, {"16": both, "8": single}, tmp_path / "a.png")
    second = draw_video_pca(
        frames, {"16": both, "8": kinds[torch.ones(8, dtype=torch.long)].view(2, 2, 2, 4)}, tmp_path / "b.png"
    )
    one, other = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (first, second))
    assert one.shape == other.shape
    last_row = slice(int(one.shape[0] * 0.72), int(one.shape[0] * 0.92))
    centre = slice(int(one.shape[1] * 0.35), int(one.shape[1] * 0.5))
    assert np.abs(one[last_row, centre] - other[last_row, centre]).max() > 60


def test_strips_have_a_column_per_moment(tmp_path):
    tokens = torch.randn(8, 4, 6, 8)
    frames = np.random.default_rng(0).integers(0, 255, (16, 32, 48, 3), dtype=np.uint8)
    wide = draw_video_pca(frames, {"a": tokens}, tmp_path / "wide.png", title="all moments")
    narrow = draw_video_pca(frames, {"a": tokens, "b": tokens[::2]}, tmp_path / "narrow.png", max_columns=3)
    assert Image.open(wide).width > 2 * Image.open(narrow).width
    with pytest.raises(ValueError, match="divisor"):
        draw_video_pca(frames[:15], {"a": tokens}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="expected"):
        draw_video_pca(frames, {}, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_curves_mark_the_event(tmp_path):
    errors = {"ordinary": torch.rand(6, 3), "with a jump": torch.rand(6, 3) + 1}
    plain = draw_surprise_curves(errors, [2, 4, 6], tmp_path / "plain.png")
    marked = draw_surprise_curves(errors, [2, 4, 6], tmp_path / "marked.png", event_frame=4)
    differs = (np.asarray(Image.open(plain)) != np.asarray(Image.open(marked))).any(axis=(0, 2))  # by column
    assert 0 < differs.sum() < 8 and abs(differs.nonzero()[0].mean() / len(differs) - 0.5) < 0.1
    assert pixels_near(plain, (46, 134, 171), 12) > 100 < pixels_near(plain, (209, 73, 91), 12)
    with pytest.raises(ValueError, match="do not fit 2 groups"):
        draw_surprise_curves(errors, [2, 4], tmp_path / "x.png")


def test_errors_share_one_scale(tmp_path):
    frames, small, large = np.zeros((6, 32, 32)), torch.full((2, 2, 2), 0.1), torch.full((2, 2, 2), 10.0)
    path = draw_surprise_strip(frames, {"small": small, "large": large}, [2, 4], tmp_path / "where.png")
    brightest = (252, 253, 191)  # the upper end of the colour map
    alone = draw_surprise_strip(frames, {"small": small}, [2, 4], tmp_path / "alone.png")
    assert pixels_near(path, brightest, 12) == pytest.approx(pixels_near(alone, brightest, 12), rel=0.1)
    for wrong in ({"frame": [2, 6]}, {"frame": [2, 3, 4]}):
        with pytest.raises(ValueError):
            draw_surprise_strip(frames, {"small": small}, wrong["frame"], tmp_path / "x.png")
