"""Cards say what is known, in a form that the Hub reads and a snippet that runs."""

import re

import pytest
from huggingface_hub import ModelCard

from hf_jepa.hub.cards import build_card
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForVideoClassification
from hf_jepa.registry import VARIANTS


CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": 8,
}
SIZES = [32, (16, 32)]


def card(config, repo, license="cc-by-nc-4.0", **options):
    facts = {"Seen": "nothing"}
    return build_card(VARIANTS["ijepa"], config, "my model", facts, license, "Not verified.", repo, **options)


@pytest.mark.parametrize("image_size", SIZES)
def test_the_snippet_of_a_card_runs(image_size, tmp_path):
    config = IJepaConfig(**CONFIG, image_size=image_size, pred_hidden_size=16, pred_num_hidden_layers=1)
    IJepaForPreTraining(config).save_pretrained(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", str(card(config, str(tmp_path))), flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    assert names["feature"].shape == (1, 32)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.modality == "video"])
def test_the_snippet_of_a_card_of_videos_runs(name, tmp_path):
    variant = VARIANTS[name]
    config = variant.config_class()(**variant.tiny)
    variant.model_class()(config).save_pretrained(tmp_path)
    text = str(build_card(variant, config, "my model", {}, "mit", "Not verified.", str(tmp_path)))
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    assert names["feature"].shape == (1, 32)
    assert type(names["model"]).__name__ == ("VJEPA2Model" if name == "vjepa2" else variant.base_model)
    assert "pipeline_tag: feature-extraction" in text


def test_the_snippet_of_a_video_classifier_runs(tmp_path, capsys):
    fields = {"num_labels": 3, "pooler_num_attention_heads": 2, "num_pooler_layers": 1}
    config = VJepa2Config(**(VARIANTS["vjepa2"].tiny | fields))
    VJepa2ForVideoClassification(config).save_pretrained(tmp_path)
    options = {"repo": str(tmp_path), "task": "video-classification"}
    text = str(build_card(VARIANTS["vjepa2"], config, "my model", {}, "mit", "Not verified.", **options))
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(snippet, {})
    assert "indices" in capsys.readouterr().out and "pipeline_tag: video-classification" in text


def test_metadata_is_what_the_hub_reads(tmp_path):
    config = IJepaConfig(**CONFIG, image_size=32)
    card(config, "someone/model", base_model="a/b", datasets=["c/d"]).save(tmp_path / "README.md")
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.license == "cc-by-nc-4.0"
    assert found.data.library_name == "transformers"
    assert found.data.base_model == "a/b" and found.data.datasets == ["c/d"]
    assert found.data.tags == ["hf_jepa", "jepa", "ijepa"]
    assert "- **Seen**: nothing" in found.text and "Not verified." in found.text
    assert 'from_pretrained("someone/model")' in found.text


def test_a_licence_that_was_not_chosen_is_not_invented():
    text = str(card(IJepaConfig(**CONFIG, image_size=32), "x", license=None))
    assert "license:" not in text and "has not chosen a licence" in text
