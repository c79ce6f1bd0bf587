"""`examples/eb_jepa_images.py` and `eb_jepa_video.py`: what they compare is what they say."""

import json
from importlib import import_module

import pytest
import torch
from PIL import Image

from hf_jepa.data.moving_digits import GLYPH, MovingDigits
from hf_jepa.losses.bcs import bcs_loss


@pytest.fixture(scope="module")
def examples():
    return import_module("eb_jepa_images"), import_module("eb_jepa_video")


def test_lejepa_as_bcs_is_bcs(examples):
    images, _ = examples
    model = images.new_model("BCS", 4, 0).train()
    out = model(torch.randn(6, 2, 3, 32, 32), step=3)
    expected = bcs_loss(*out.predictions, step=3)
    torch.testing.assert_close(4 * out.loss, expected.loss)
    torch.testing.assert_close(4 * out.prediction_loss, expected.invariance)


def test_both_objectives_start_from_one_encoder(examples):
    images, _ = examples
    first, second = (images.new_model(name, 4, 0).feature_encoder for name in ("VICReg", "BCS"))
    names = dict(first.backbone.named_parameters())
    assert all(torch.equal(p, names[name]) for name, p in second.backbone.named_parameters())


def test_digits_of_training_and_test_are_different_ones(examples):
    images, _ = examples
    train, test = (images.rows("digits", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    assert train[0]["image"].shape == (16, 16, 3) and train[0]["image"].max() > 200
    seen = {row["image"].tobytes() for row in train}
    assert not [row for row in test if row["image"].tobytes() in seen]


def test_cells_are_where_the_digits_are(examples):
    _, video = examples
    clips = MovingDigits(6, num_frames=10, channels=1).batch(range(6))
    cells = video.cells(clips)
    assert cells.shape == (6, 10, 8, 8) and set(cells.flatten().tolist()) == {0.0, 1.0}
    for clip, time, digit in ((0, 0, 0), (3, 7, 1)):
        row, column = ((clips.position[clip, time, digit] + GLYPH / 2) / 8).long()
        assert cells[clip, time, row, column] == 1
    assert cells.sum(dim=(2, 3)).max() == 2
    assert video.precision(cells, cells) == [1.0] * 10
    assert max(video.precision(torch.zeros_like(cells), cells)) < 0.05  # the share of cells with a digit


def test_maps_are_of_the_frames_after_those_seen(examples):
    _, video = examples
    clips = MovingDigits(3, num_frames=10, channels=1).batch(range(3))
    model = video.new_model(4, 0).eval().eb_jepa
    found = video.maps(model, clips)
    own, predicted, last = (found[row] for row in video.ROWS)
    assert own.shape == predicted.shape == last.shape == (3, 8, 4, 32, 32)
    with torch.no_grad():
        latents = model.encode(video.halved(clips.pixel_values_videos)).latents
        torch.testing.assert_close(own, latents[:, 2:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[:, 5], latents[:, 1], rtol=1e-4, atol=1e-5)
        first = model.predictor(latents[:, :2])[:, 0]
        torch.testing.assert_close(predicted[:, 0], first, rtol=1e-4, atol=1e-5)


def test_a_head_finds_what_is_there(examples):
    _, video = examples
    generator = torch.Generator().manual_seed(0)
    wanted = (torch.rand(20, 4, 8, 8, generator=generator) < 0.05).float()
    latents = wanted.repeat_interleave(2, 2).repeat_interleave(2, 3).unsqueeze(2)  # (20, 4, 1, 16, 16)
    head = video.fit_head(latents, wanted, steps=60)
    assert min(video.precision(video.detected(head, latents), wanted)) > 0.95


@pytest.mark.slow
def test_the_examples_leave_their_tables_and_pictures(examples, tmp_path, capsys):
    images, video = examples
    images.main(["--output-dir", str(tmp_path / "a"), "--steps", "4", "--batch-size", "16", "--width", "4"])
    found = json.loads((tmp_path / "a/results.json").read_text())
    assert list(found["linear_probe"]) == ["raw pixels", "untrained", "VICReg", "BCS"]
    assert all(0 < share <= 1 for share in found["linear_probe"].values())
    assert {name: len(curve) for name, curve in found["online_knn"].items()} == {"VICReg": 4, "BCS": 4}
    assert "linear probe" in capsys.readouterr().out
    fields = ["--steps", "2", "--batch-size", "2", "--width", "4", "--clips", "8"]
    video.main(["--output-dir", str(tmp_path / "b"), *fields])
    found = json.loads((tmp_path / "b/results.json").read_text())["average_precision"]
    assert list(found) == ["untrained", "trained"] and list(found["trained"]) == list(video.ROWS)
    assert "last frame seen (trained)" in capsys.readouterr().out
    for picture in ("a/vicreg.png", "a/bcs.png", "b/training.png", "b/digits.png"):
        assert Image.open(tmp_path / picture).size[0] > 100
    assert (tmp_path / "b/model/model.safetensors").is_file()
