"""`hf-jepa masks` draws what was asked for, and refuses what cannot be drawn."""

import pytest
from PIL import Image
from test_main import refused

from hf_jepa.cli.main import main


def draw(path, *argv) -> Image.Image:
    assert main(["masks", *map(str, argv), "--output", str(path)]) == 0
    return Image.open(path).convert("RGB")


@pytest.mark.parametrize("mode", ["corrected", "official"])
def test_same_seed_same_picture_other_seed_another(tmp_path, photo, mode):
    first, again, other = (
        draw(tmp_path / f"{i}.png", photo, "--mode", mode, "--samples", 2, "--seed", seed)
        for i, seed in enumerate((0, 0, 1))
    )
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_grid_samples_and_image_change_the_picture(tmp_path, photo):
    few = draw(tmp_path / "few.png", photo, "--samples", 1, "--image-size", 96, 192, "--patch-size", 16)
    more = draw(tmp_path / "more.png", photo, "--samples", 3, "--image-size", 96, 192, "--patch-size", 16)
    blank = draw(tmp_path / "blank.png", "--samples", 1, "--image-size", 96, 192, "--patch-size", 16)
    assert few.width == more.width and more.height > 1.8 * few.height
    assert blank.tobytes() != few.tobytes()


def test_distribution_differs_between_the_modes(tmp_path):
    pictures = [draw(tmp_path / f"{mode}.png", "--distribution", "--mode", mode) for mode in ("corrected", "official")]
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_refusals_name_the_value(tmp_path, capsys):
    output = ["--output", tmp_path / "x.png"]
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    assert "no such image" in refused(["masks", tmp_path / "none.jpg", *output], capsys)
    assert f"cannot read {text} as an image" in refused(["masks", text, *output], capsys)
    assert "patches of 15" in refused(["masks", "--patch-size", 15, *output], capsys)
    assert "--samples must be at least 1" in refused(["masks", "--samples", 0, *output], capsys)
    assert "--step must be in [0, 2^63), got -1" in refused(["masks", "--step", -1, *output], capsys)
    assert "--seed must be in [0, 2^63)" in refused(["masks", "--seed", 2**64, *output], capsys)
    assert "got 3 numbers" in refused(["masks", "--image-size", 32, 32, 32, *output], capsys)
    assert "min_keep=10" in refused(["masks", "--image-size", 64, *output], capsys)
    assert "context_scale" in refused(["masks", "--context-scale", "0.9", "0.1", *output], capsys)
    assert not (tmp_path / "x.png").exists()
