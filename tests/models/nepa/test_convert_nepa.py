"""The Hub's layout: read as it is, converted strictly, and written back."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from hf_jepa.core.key_map import ConversionError
from hf_jepa.models.nepa.configuration_nepa import NepaConfig
from hf_jepa.models.nepa.convert_nepa import LAYOUT, hub_entries, hub_state, layout_of
from hf_jepa.models.nepa.modeling_nepa import NepaForImageClassification, NepaForPreTraining


ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/fixtures/golden/nepa"
CASES = ["pretrain_step", "pretrain_swiglu", "classifier", "classifier_last_token"]


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "conversion/convert_nepa.py"))


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_the_hub_loads_as_it_is_and_is_written_back(case, tmp_path):
    auto, ours = (
        (AutoModelForPreTraining, NepaForPreTraining)
        if case.startswith("pretrain")
        else (AutoModelForImageClassification, NepaForImageClassification)
    )
    model, info = auto.from_pretrained(GOLDEN / case, output_loading_info=True)
    assert type(model) is ours and not info["missing_keys"] and not info["unexpected_keys"]
    official, config = load_file(GOLDEN / case / "model.safetensors"), NepaConfig.from_pretrained(GOLDEN / case)
    entries = hub_entries(official)
    assert same(model.state_dict(), layout_of(entries).convert(entries, config))
    assert same(hub_state(layout_of(entries).revert(model.state_dict(), config)), official)
    model.save_pretrained(tmp_path, save_original_format=True)
    assert same(load_file(tmp_path / "model.safetensors"), official)
    encoder, info = AutoModel.from_pretrained(GOLDEN / case, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert same(encoder.state_dict(), model.nepa.state_dict())


@pytest.mark.parametrize("case", CASES)
def test_the_script_converts_both_ways(script, case, tmp_path):
    script["convert"](GOLDEN / case, tmp_path / "ours")
    files = {"README.md", "config.json", "fingerprint.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == files
    assert any(key.startswith("nepa.layers.0.") for key in load_file(tmp_path / "ours/model.safetensors"))
    script["revert"](tmp_path / "ours", tmp_path / "back")
    assert same(load_file(tmp_path / "back/model.safetensors"), load_file(GOLDEN / case / "model.safetensors"))
    back, official = (NepaConfig.from_pretrained(folder) for folder in (tmp_path / "back", GOLDEN / case))
    assert back.architectures == official.architectures
    assert all(getattr(back, name) == getattr(official, name) for name in NepaConfig.__annotations__)


def test_the_average_over_training(script, tmp_path):
    source = tmp_path / "nepa"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((GOLDEN / "pretrain_step" / name).read_bytes())
    average = {key: value + 1.0 for key, value in load_file(source / "model.safetensors").items()}
    torch.save(average, source / "pytorch_model_ema.bin")
    report = script["convert"](source, tmp_path / "ours", ema=True)
    assert "41 tensors" in report and "pytorch_model_ema.bin" in (tmp_path / "ours/README.md").read_text()
    found = load_file(tmp_path / "ours/model.safetensors")
    assert same(hub_state(LAYOUT.revert(found, NepaConfig.from_pretrained(tmp_path / "ours"))), average)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("vit_nepa.layernorm.bias"), r"1 keys are missing: layernorm.bias"),
        (lambda s: s.update({"vit_nepa.encoder.layer.0.norm.weight": torch.ones(2)}), "no place in this architecture"),
        (lambda s: s.update({"decoder.weight": torch.ones(2)}), "1 keys are not its: decoder.weight"),
        (lambda s: s.update({"vit_nepa.embeddings.cls_token": torch.ones(1, 1, 8)}), "1 shapes differ"),
    ],
)
def test_other_files_are_refused_and_leave_nothing(script, change, message, tmp_path):
    source = tmp_path / "nepa"
    source.mkdir()
    (source / "config.json").write_bytes((GOLDEN / "pretrain_step/config.json").read_bytes())
    state = load_file(GOLDEN / "pretrain_step/model.safetensors")
    change(state)
    save_file(state, source / "model.safetensors")
    with pytest.raises(ConversionError, match=message):
        script["convert"](source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("case", ["pretrain_step", "pretrain_swiglu"])
def test_architecture_read_off_the_tensors(case):
    config = NepaConfig.from_pretrained(GOLDEN / case)
    untold = {name: getattr(config, name) for name in (*LAYOUT.untold, "num_attention_heads")}
    found = LAYOUT.infer_config(hub_entries(load_file(GOLDEN / case / "model.safetensors")), **untold)
    training = {"pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"}
    for name in NepaConfig.__annotations__.keys() - training:
        assert getattr(found, name) == getattr(config, name), name


def test_released_models_are_recognised():
    for size in ("base", "large"):
        config = NepaConfig.from_size(f"vit_{size}")
        assert LAYOUT.released_names(config) == (f"SixAILab/nepa-{size}-patch14-224",)
