"""`examples/video_digits.py`, shortened: everything it promises is there, and its numbers are numbers."""

import json
import math
from importlib import import_module

import pytest
import torch
from PIL import Image

from hf_jepa import MovingDigits, VJepa2Model


@pytest.fixture(scope="module")
def examples():
    return import_module("video_digits"), import_module("digit_probes")


def test_probes_ask_for_what_is_known_of_the_clips(examples):
    """Features that are the answers themselves give a full score, whichever question they are for."""
    _, probes = examples
    clips = MovingDigits(40, num_frames=16).batch(range(40))
    answers = probes.wanted(clips)
    assert {name: tuple(numbers.shape) for name, numbers in answers.items()} == {
        "digits": (40, 10),
        "velocity": (80, 2),
        "position": (80, 4),
    }
    assert answers["digits"].sum(dim=1).eq(2).all()
    assert probes.digits_found(answers["digits"], answers["digits"]) == 1
    assert probes.digits_found(-answers["digits"], answers["digits"]) == 0
    moment = 2 * probes.MOMENTS[1]
    middle = clips.position[3, moment : moment + 2].mean(dim=0)
    torch.testing.assert_close(answers["position"][2 * 3 + 1], middle.flatten())
    raw = probes.describe(None, clips)
    assert raw["digits"].shape == (40, 16 * 64 * 64) and raw["velocity"].shape == (80, 2 * 64 * 64)
    frames = clips.pixel_values_videos[3, moment : moment + 2, 0]
    torch.testing.assert_close(raw["position"][2 * 3 + 1], frames.flatten())


def test_features_are_in_the_order_of_the_answers(examples):
    script, probes = examples
    encoder, clips = script.new_model(0).target_encoder, MovingDigits(4, num_frames=16).batch(range(4))
    told = probes.describe(encoder, clips)
    with torch.no_grad():
        grid = encoder.get_video_features(clips.pixel_values_videos[3:]).grid[0, probes.MOMENTS[1]]  # (4, 4, D)
    torch.testing.assert_close(told["position"][2 * 3 + 1], grid.flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told["velocity"][2 * 3 + 1, :96], grid.mean(dim=(0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_example_leaves_its_table_and_pictures(examples, tmp_path, capsys):
    pytest.importorskip("skvideo")
    script, probes = examples
    options = {"--steps": 6, "--clips": 48, "--draws": 2, "--sizes": 64, "--output-dir": tmp_path / "out"}
    script.main([str(word) for pair in options.items() for word in pair])
    printed = capsys.readouterr().out
    assert all(row in printed for row in script.ROWS) and "velocity R^2" in printed and "Prediction error" in printed
    for name in ("features", "surprise", "surprise_where", "training"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 200 and len(picture.convert("L").getcolors()) > 50
    results = json.loads((tmp_path / "out/results.json").read_text())
    scores = [draw for row in script.ROWS for draw in results["scores"][row]]
    assert len(scores) == 6 and all(math.isfinite(value) for draw in scores for value in draw.values())
    surprise = results["surprise"]
    assert surprise["frames"] == [2, 4, 6, 8, 10, 12, 14]
    before = surprise["frames"].index(probes.JUMP_FRAME)
    assert surprise["with a jump"][:before] == pytest.approx(surprise["without a jump"][:before], rel=1e-5)
    assert VJepa2Model.from_pretrained(tmp_path / "out/model").config.hidden_size == 96
