"""The facts of `model_cards/` agree with the code that recognises and sizes the released files."""

from pathlib import Path

import pytest
import torch
import yaml

from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.convert_ijepa import RELEASED, released_names
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS


CARDS = sorted((Path(__file__).resolve().parents[2] / "model_cards").glob("*.yaml"))


def facts(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_released_file_has_one_source_file():
    files = sorted(facts(path)["official_file"]["value"] for path in CARDS)
    assert files == sorted(name for names in RELEASED.values() for name in names)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_facts_hold_for_the_architecture(path):
    card = facts(path)
    assert card["name"] == path.stem and card["verified"] is False
    assert card["weights_license"]["value"] == VARIANTS[card["variant"]].weights_license
    config = IJepaConfig.from_size(**{key: value for key, value in card["architecture"].items() if key != "source"})
    assert card["official_file"]["value"] in released_names(config)
    assert config.loss_type == card["pretraining"]["loss_type"]
    with torch.device("meta"):
        model = IJepaForPreTraining(config)
    counted = card["trainable_parameters"]
    assert sum(p.numel() for p in model.context_encoder.parameters()) == counted["encoder"]
    assert sum(p.numel() for p in model.predictor.parameters()) == counted["predictor"]
