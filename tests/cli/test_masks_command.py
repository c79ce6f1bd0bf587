"""`hf-jepa masks` draws what was asked for, and refuses what cannot be drawn."""

import numpy as np
import pytest
from clips import write_video
from PIL import Image
from test_main import refused

from hf_jepa.cli.main import main


def draw(path, *argv) -> Image.Image:
    assert main(["masks", *map(str, argv), "--output", str(path)]) == 0
    return Image.open(path).convert("RGB")


@pytest.mark.parametrize("mode", ["corrected", "official"])
def test_same_seed_same_picture_other_seed_another(tmp_path, photo, mode):
    first, again, other = (
        draw(tmp_path / f"{i}.png", photo, "--mode", mode, "--samples", 1, "--seed", seed)
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


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "notes.txt").write_text("no frame")
    for i in range(9):
        Image.new("RGB", (60, 50), (20 * i, 90, 200 - 20 * i)).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize("mode", ["corrected", "official"])
@pytest.mark.parametrize("kind", [[], ["--random-tube", 0.8]])
def test_same_seed_same_picture_of_a_clip(tmp_path, frames, mode, kind):
    arguments = [frames, "--frames", 4, "--image-size", 64, "--patch-size", 8, "--samples", 1, "--mode", mode, *kind]
    first, again, other = (
        draw(tmp_path / f"{i}.png", *arguments, "--seed", seed) for i, seed in enumerate((0, 0, 2**40 + 1))
    )
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_frames_masks_and_samples_change_the_picture_of_a_clip(tmp_path, frames, photo):
    small = ["--image-size", 64, "--patch-size", 8]
    pairs = ["--mask", 3, 0.2, "--temporal-scale", 0.5, 0.5]
    drawn = {
        "short": draw(tmp_path / "1.png", frames, "--frames", 8, "--samples", 1, *small),
        "four": draw(tmp_path / "2.png", frames, "--frames", 8, "--tubelet-size", 1, "--samples", 1, *small),
        "two samples": draw(tmp_path / "3.png", frames, "--frames", 8, "--samples", 2, *small),
        "one pair": draw(tmp_path / "4.png", frames, "--frames", 8, "--samples", 1, *pairs, *small),
        "photo": draw(tmp_path / "5.png", photo, "--frames", 8, "--samples", 1, *small),
        "blank": draw(tmp_path / "6.png", "--frames", 8, "--samples", 1, *small),
    }
    assert drawn["four"].width > 1.5 * drawn["short"].width
    assert drawn["two samples"].height > drawn["short"].height > drawn["one pair"].height
    assert drawn["blank"].height < drawn["short"].height == drawn["photo"].height
    assert drawn["photo"].tobytes() != drawn["short"].tobytes()


def test_a_video_is_drawn_as_its_frames_are(tmp_path):
    shades = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(12)]
    (tmp_path / "frames").mkdir()
    for i, pixels in enumerate(shades):
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{i}.png")  # 10.png comes after 9.png
    video = write_video(tmp_path / "clip.mp4", shades, codec="libx264rgb", pix_fmt="rgb24", qp="0")
    small = ["--frames", 4, "--image-size", 64, "--patch-size", 8, "--samples", 1]
    first, second = (np.asarray(draw(tmp_path / "x.png", path, *small), int) for path in (video, tmp_path / "frames"))
    assert np.abs(first - second).max() <= 1
    assert len(np.unique(first[..., 0])) > 6, "every frame has its own shade"


def test_distribution_of_clips_differs_between_the_modes(tmp_path):
    small = ["--frames", 4, "--image-size", 96, "--distribution"]
    pictures = [draw(tmp_path / f"{mode}.png", *small, "--mode", mode) for mode in ("corrected", "official")]
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_refusals_of_clips_name_the_value(tmp_path, capsys, frames):
    output = ["--output", tmp_path / "x.png"]
    assert "is a folder: add --frames" in refused(["masks", frames, *output], capsys)
    assert "clip: it has 9 frames, but a clip needs --frames 10" in refused(
        ["masks", frames, "--frames", 10, *output], capsys
    )
    assert "15 frames does not divide into tubelets of 2" in refused(["masks", "--frames", 15, *output], capsys)
    assert "0 frames does not divide" in refused(["masks", "--frames", 0, *output], capsys)
    assert "no such file or folder" in refused(["masks", tmp_path / "none", "--frames", 2, *output], capsys)
    video = write_video(tmp_path / "short.mp4", 3)
    assert "short.mp4 is a video: add --frames" in refused(["masks", video, *output], capsys)
    assert "it has 3 frames" in refused(["masks", video, "--frames", 4, *output], capsys)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert "cannot draw over" in refused(["masks", tmp_path / "broken.mp4", "--frames", 4, *output], capsys)
    assert "--mask says nothing about masks of images" in refused(["masks", "--mask", 8, 0.15, *output], capsys)
    assert "--min-keep says nothing about masks of clips" in refused(
        ["masks", "--frames", 16, "--min-keep", 4, *output], capsys
    )
    assert "whole number of blocks" in refused(["masks", "--frames", 16, "--mask", 1.5, 0.1, *output], capsys)
    assert "drop --mask" in refused(["masks", "--frames", 16, "--mask", 8, 0.1, "--random-tube", 0.9, *output], capsys)
    assert "ratio 1.0 keeps 0" in refused(["masks", "--frames", 16, "--random-tube", 1, *output], capsys)
    assert not (tmp_path / "x.png").exists()
