"""The facts of `model_cards/` agree with the code that recognises and sizes the released files."""

from pathlib import Path

import pytest
import torch
import yaml

from hf_jepa.registry import VARIANTS


CARDS = sorted((Path(__file__).resolve().parents[2] / "model_cards").glob("*.yaml"))


def facts(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.convertible])
def test_every_released_file_has_one_source_file(name):
    files = sorted(facts(path)["official_file"]["value"] for path in CARDS if facts(path)["variant"] == name)
    assert files == sorted(VARIANTS[name].layout.released)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_facts_hold_for_the_architecture(path):
    card = facts(path)
    assert card["name"] == path.stem and card["verified"] is False
    variant = VARIANTS[card["variant"]]
    assert card["weights_license"]["value"] == variant.weights_license
    fields = {key: value for key, value in card["architecture"].items() if key != "source"}
    config = variant.config_class().from_size(**fields)
    assert card["official_file"]["value"] in variant.layout.released_names(config)
    assert config.loss_type == card["pretraining"]["loss_type"]
    with torch.device("meta"):
        model = variant.model_class()(config)
    counted = card["trainable_parameters"]
    assert sum(p.numel() for p in model.context_encoder.parameters()) == counted["encoder"]
    assert sum(p.numel() for p in model.predictor.parameters()) == counted["predictor"]
