"""`examples/compare_objectives.py`, shortened: fair settings for all objectives, kept runs, and what is written."""

import json
import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from hf_jepa.data.embedded import EmbeddedCrops, _pyramid
from hf_jepa.data.transforms import sample_rng
from hf_jepa.registry import VARIANTS
from hf_jepa.training import comparison, costs, objectives
from hf_jepa.training.comparison_data import NamedCrops, divide
from hf_jepa.training.pretrain_image import build_model, recipe_sections
from hf_jepa.training.recipe import parse_recipe
from hf_jepa.visualization.objectives import draw_objectives


OBJECTIVES = objectives.image_objectives()
SHORT = ["--steps", "2", "--batch-size", "4"]


@pytest.fixture(scope="module")
def script():
    return import_module("compare_objectives")


@pytest.fixture
def few_crops(monkeypatch):
    monkeypatch.setattr(comparison, "GALLERY_PER_PICTURE", 4)
    monkeypatch.setattr(comparison, "TEST_PER_PICTURE", 2)
    monkeypatch.setattr(comparison, "WEIGHT_DECAYS", (10.0,))


def test_all_objectives_for_images_take_part():
    images = {name for name, variant in VARIANTS.items() if variant.modality == "image"}
    assert set(OBJECTIVES) == images | set(objectives.OPTIONS)


def test_a_new_variant_takes_part_by_itself_or_is_refused_by_name():
    fits = replace(VARIANTS["lejepa"], title="New")
    found = objectives.image_objectives({"new": fits, "later": replace(fits, modality="video")})
    assert {name: objective.title for name, objective in found.items()} == {"new": "New"}
    other = replace(VARIANTS["nepa"], title="Other", inputs="views")
    with pytest.raises(ValueError, match=r"no settings that fit Other: .*backbone_config.*under 'nepa' to OWN"):
        objectives.image_objectives({"other": other})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_an_encoder_of_one_size_in_one_budget(name, tmp_path):
    objective = OBJECTIVES[name]
    variant = VARIANTS[objective.variant]
    recipe = comparison.Comparison(steps=50).recipe(objective, seed=2) | {"output_dir": str(tmp_path)}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    arguments, _, training = parse_recipe(recipe_sections(variant), [str(tmp_path / "recipe.yaml")])
    assert (training.max_steps, training.per_device_train_batch_size, training.seed) == (50, 64, 2)
    assert arguments.embedded_length == 50 * 64
    with torch.device("meta"):
        encoder = build_model(variant, arguments).feature_encoder
    layers = [module for key, module in encoder.named_modules() if costs._FIRST_LAYER.search(f".{key}")]
    assert len(layers) == 1  # whose input is counted
    config = getattr(encoder.config, "backbone_config", None) or encoder.config
    assert {field: getattr(config, field) for field in objectives.ENCODER} == objectives.ENCODER
    assert config.image_size == 48


def test_views_are_compared_by_the_very_encoder_of_ijepa(tmp_path):
    shapes = []
    for name in ("ijepa", "simsiam"):
        fields = comparison.Comparison().recipe(OBJECTIVES[name], seed=0)["model_config"]
        with torch.device("meta"):
            encoder = VARIANTS[name].model_class()(VARIANTS[name].config_class()(**fields)).feature_encoder
        state = getattr(encoder, "backbone", encoder).state_dict()
        shapes.append({key: tensor.shape for key, tensor in state.items()})
    assert shapes[0] == shapes[1]


def test_named_crops_are_those_of_the_objectives_with_their_pictures():
    named, plain = (kind(40, size=16, seed=3) for kind in (NamedCrops, EmbeddedCrops))
    for epoch in (0, 2):
        for crops in (named, plain):
            crops.set_epoch(epoch)
        for index, sample in enumerate(named.__getitems__(list(range(40)))):
            assert torch.equal(sample["pixel_values"], plain[index]["pixel_values"])
            uniform = sample_rng(3, epoch, index).random(4)[None, 1:]
            (expected,) = _pyramid(16).crop(np.array([sample["labels"]]), 0, uniform)
            assert torch.equal(sample["pixel_values"], expected)
        assert len({sample["labels"] for sample in named.__getitems__(list(range(40)))}) > 10


def test_features_that_are_the_answer_get_a_full_score(few_crops):
    labels = torch.arange(40) % 4
    answers = torch.nn.functional.one_hot(labels, 4).float().view(40, 4, 1, 1)
    data = [{"pixel_values": answers, "labels": labels}]
    found = comparison.judge(comparison._Pixels(), (data, data))
    assert found["knn"] == found["linear"] == 1 and found["rankme"] == pytest.approx(4, abs=1e-3)
    wrong = [{"pixel_values": answers, "labels": (labels + 1) % 4}]
    assert comparison.judge(comparison._Pixels(), (data, wrong))["knn"] == 0


def test_judging_the_start_leaves_training_possible(few_crops):
    """transformers caches relative positions for the process, by size; no other test has this one."""
    shared = comparison.Comparison(image_size=72)
    fields = shared.recipe(OBJECTIVES["data2vec_vision"], seed=0)["model_config"]
    assert 0 <= comparison._judge_start(OBJECTIVES["data2vec_vision"], fields, shared, seed=0) <= 1
    variant = VARIANTS["data2vec_vision"]
    model = variant.model_class()(variant.config_class()(**fields)).train()
    model(torch.randn(2, 3, 72, 72), bool_masked_pos=torch.arange(162).view(2, 81) % 2 == 0).loss.backward()


def test_raw_pixels_are_all_pixels():
    grey = torch.randn(2, 1, 4, 4)
    pixels = comparison._Pixels()
    assert torch.equal(pixels(grey.expand(-1, 3, -1, -1)).last_hidden_state, grey.view(2, 1, 16))
    assert pixels(torch.randn(2, 3, 4, 4)).last_hidden_state.shape == (2, 1, 48)


def test_the_example_keeps_runs_and_notices_changed_settings(script, few_crops, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    options = [*SHORT, "--seeds", "1", "--output-dir", str(out), "--objectives"]
    script.main([*options, "ijepa", "lejepa"])
    printed = capfd.readouterr().out
    results = json.loads((out / "results.json").read_text())
    rows = results["rows"]
    assert set(rows) == {"raw pixels", "untrained encoder", "I-JEPA", "LeJEPA", "supervised (labels)"}
    assert all(math.isfinite(value) for (row,) in rows.values() for value in row.values() if value != "healthy")
    assert results["verdict"] in printed and "first_loss" not in printed
    table = (out / "table.md").read_text()
    assert all(f"| {name} | " in table and name in printed for name in rows)
    with Image.open(out / "objectives.png") as picture:
        assert min(picture.size) > 200 and len(picture.convert("L").getcolors()) > 50
    # 6 x 6 patches: the supervised encoder reads them once, LeJEPA in two views, I-JEPA all and those it sees.
    tokens = {name: row["tokens_per_image"] for name, (row,) in rows.items() if "tokens_per_image" in row}
    assert (tokens["supervised (labels)"], tokens["LeJEPA"]) == (36, 72) and 36 < tokens["I-JEPA"] < 72
    weights = 4 * rows["I-JEPA"][0]["trained_parameters"] / 2**20
    assert rows["I-JEPA"][0]["memory_mib"] > 4 * weights  # with gradients, two averages, and the target encoder

    def refuse(*args, **kwargs):
        raise AssertionError("a finished run was repeated")

    for name in ("train_objective", "train_supervised", "judge_baseline"):
        monkeypatch.setattr(comparison, name, refuse)
    script.main([*options, "lejepa"])
    assert json.loads((out / "results.json").read_text())["rows"]["LeJEPA"] == rows["LeJEPA"]
    monkeypatch.setitem(objectives.SCHEDULE, "weight_decay", 0.5)
    with pytest.raises(AssertionError, match="repeated"):
        script.main([*options, "lejepa"])
    assert "weight_decay 0.05, now 0.5" in capfd.readouterr().out


def test_images_of_a_folder_are_divided_and_compared(script, tmp_path, monkeypatch):
    monkeypatch.setitem(objectives.SCHEDULE, "learning_rate", 1e-12)
    rng = np.random.default_rng(0)
    for label, level in (("cats", 60), ("dogs", 180)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            pixels = rng.normal(level, 30, (24, 30, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    options = ["--seeds", "1", "--output-dir", str(tmp_path / "out"), "--objectives", "simsiam"]
    script.main([*SHORT, *options, "--dataset", str(tmp_path / "photos")])
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert rows["supervised (labels)"][0]["knn"] > 0.5  # brightness tells the classes apart
    (row,) = rows["SimSiam"]
    assert row["knn"] == row["knn_before"]  # of the very weights that training began with
    counts = [len(list((tmp_path / "out/divided" / split).glob("*/*.png"))) for split in ("train", "test")]
    assert counts == [32, 8]
    assert divide(tmp_path / "out/divided", tmp_path / "again") == tmp_path / "out/divided"


def test_the_sentence_is_honest(script):
    def rows(first, second):
        trained = {"A": first, "B": second}
        found = {name: [{"knn": value, "knn_before": 0.4} for value in values] for name, values in trained.items()}
        return {"raw pixels": [{"knn": 0.1}, {"knn": 0.9}]} | found

    sentence = script.verdict(rows([0.6, 0.7], [0.41, 0.5]))
    assert "A (0.650 ± 0.071) is ahead of B (0.455 ± 0.064); its worst seed is above" in sentence
    assert "in every seed: none." in sentence
    sentence = script.verdict(rows([0.6, 0.7], [0.35, 0.65]))
    assert "neither is first" in sentence and "own untrained encoder in every seed: B." in sentence
    assert "one seed says nothing" in script.verdict(rows([0.6], [0.5]))


def test_validation_keeps_away_from_the_test_halves(few_crops):
    shared = comparison.Comparison(validate=True, image_size=16)
    gallery, test = shared.labelled(seed=0)
    assert test.pixels.shape == (36, 3, 16, 16)
    halves = [comparison.LabelledCrops(split, 2, 16, seed) for split, seed in (("train", 1000), ("test", 0))]
    assert torch.equal(test.pixels, halves[0].pixels)
    assert torch.equal(replace(shared, validate=False).labelled(0)[1].pixels, halves[1].pixels)
    with pytest.raises(ValueError, match="embedded"):
        comparison.Comparison(dataset="photos", validate=True)


def test_a_picture_needs_results(tmp_path):
    with pytest.raises(ValueError, match="'I-JEPA' has no result"):
        draw_objectives({"I-JEPA": []}, tmp_path / "x.png")
