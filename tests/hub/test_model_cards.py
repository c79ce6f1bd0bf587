"""The facts of `model_cards/` agree with the code that recognises and sizes the released files."""

from pathlib import Path

import pytest
import torch
import yaml

from hf_jepa.core.probe_conversion import Probe
from hf_jepa.registry import VARIANTS


FILES = sorted((Path(__file__).resolve().parents[2] / "model_cards").glob("*.yaml"))


def facts(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


CARDS = [path for path in FILES if "probe" not in facts(path)]
PROBES = [path for path in FILES if "probe" in facts(path)]


def named(cards: list[Path], variant: str) -> list[str]:
    return sorted(facts(path)["official_file"]["value"] for path in cards if facts(path)["variant"] == variant)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.convertible])
def test_every_released_file_has_one_source_file(name):
    variant = VARIANTS[name]
    assert named(CARDS, name) == sorted(variant.layout.released)
    assert named(PROBES, name) == sorted(variant.probes.released if variant.probes else ())


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
    if model.config.target_source != "input_embedding":  # which has no predictor
        assert sum(p.numel() for p in model.predictor.parameters()) == counted["predictor"]


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_facts_of_probes_are_those_of_the_converter(path):
    card = facts(path)
    assert card["name"] == path.stem and card["verified"] is False
    variant = VARIANTS[card["variant"]]
    assert card["weights_license"]["value"] == variant.weights_license
    assert "the published score" in card["not_verified"] and card["published"]["source"] == "readme"
    probe, shown, encoder = card["probe"], card["evaluation"], card["encoder"]
    assert encoder["value"] in variant.layout.released
    config = variant.config_class()(
        **variant.module("configuration").SIZES[encoder["size"]], crop_size=encoder["crop_size"]
    )
    layout, file = variant.probes, card["official_file"]["value"]
    counts = {"num_labels": probe["num_classes"]} if probe["num_classes"] else {}
    known, protocol = layout.protocol(Path(file), Probe({}, probe["task"], counts, config.hidden_size, []), config)
    assert known == file and (protocol.data, protocol.num_classes) == (probe["data"], probe["num_classes"])
    assert list(protocol.layers or ()) == (probe["layers"] or [])
    for name in ("frames", "sampling", "segments", "views"):
        assert getattr(protocol, name) == shown[name]
    assert (layout.num_attention_heads or config.num_attention_heads) == probe["num_attention_heads"]
    assert probe["task"] in layout.models
