"""Exports are whole or absent, carry what belongs to a model, and say where something would not be the same."""

import json
from pathlib import Path

import pytest
import torch
from code_cache import code_cache  # noqa: F401
from hub_client import save_run
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_jepa.cli.main import main
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub import export
from hf_jepa.hub.export import auto_map, export_remote_code, nested_variants
from hf_jepa.hub.export_encoder import export_encoder, native_config
from hf_jepa.hub.fingerprint import compute_fingerprint
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.losses import draws
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


@pytest.fixture
def ijepa(tmp_path):
    return save_run("ijepa", tmp_path / "ijepa")


def change(folder: Path, file: str, **fields) -> None:
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(found | fields))


# --- with code --------------------------------------------------------------------------------------------------


def test_a_folder_with_code_has_what_belongs_to_the_model_and_nothing_else(ijepa, tmp_path):
    report = export_remote_code(ijepa, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    code = {name for name in names if name.endswith(".py")}
    kept = {"README.md", "config.json", "fingerprint.json", "model.safetensors", "preprocessor_config.json"}
    assert names - code == kept and "modeling_ijepa.py" in code and "image_processing_ijepa.py" not in code
    assert "left out: checkpoint-4, training_args.bin" in report
    for name in ("fingerprint.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (ijepa / name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (ijepa, tmp_path / "out"))
    assert after.pop("auto_map") == auto_map(VARIANTS["ijepa"]) and after == before
    assert inspect_checkpoint(tmp_path / "out")[1]


def test_the_card_says_how_the_code_is_loaded_and_its_snippet_runs(tmp_path, monkeypatch):
    export_remote_code(save_run("nepa", tmp_path / "nepa"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers" in card and "- custom_code" in card and "- nepa" in card
    assert "license: mit" in card and "Nothing was verified." in card
    snippet = card.split("## Without hf_jepa")[1].split("```")[1].removeprefix("python\n")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(snippet, namespace)
    assert type(namespace["model"]).__name__ == "NepaModel"


def test_code_is_used_where_it_is_trusted_and_the_stock_class_where_not(ijepa, tmp_path):
    export_remote_code(ijepa, tmp_path / "out")
    trusted = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(trusted).__module__.startswith("transformers_modules.out.")
    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(config) is type(trusted.config) is type(trusted).config_class
    assert type(AutoModel.from_pretrained(tmp_path / "out")).__module__.startswith("transformers.models.ijepa")
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path / "out")).__module__.startswith("hf_jepa.")


def test_copies_leave_the_operators_of_the_package_alone(tmp_path):
    """Of another version of the package they could compute something else."""
    written = export_remote_code(save_run("lejepa", tmp_path / "lejepa"), tmp_path / "out") and tmp_path / "out"
    own = str(draws.unit_directions._opoverload)
    text = (written / "losses_draws.py").read_text()
    (written / "losses_draws.py").write_text(text.replace("directions.norm(dim=0)", "(1 / 0)"))
    copied = get_class_from_dynamic_module("modeling_lejepa.LeJepaForPreTraining", str(written))
    model = copied.from_pretrained(written)
    with pytest.raises(ZeroDivisionError):
        model(torch.randn(4, 2, 3, 32, 32), step=0)
    assert draws.unit_directions(0, 0, 4, 2, torch.device("cpu")).shape == (4, 2)
    assert str(draws.unit_directions._opoverload) == own


def test_an_export_can_be_exported_again_and_foreign_code_is_kept_from_being_replaced(ijepa, tmp_path):
    export_remote_code(ijepa, tmp_path / "out")
    export_remote_code(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "out" / "config.json").read_bytes()
    change(ijepa, "config.json", auto_map={"AutoModel": "modeling_other.Other"})
    with pytest.raises(ValueError, match=r"already brings code of its own \(modeling_other.Other\)"):
        export_remote_code(ijepa, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_parts_of_a_config_that_transformers_does_not_know_are_found_at_any_depth():
    fields = {"model_type": "salt", "a": [{"b": {"model_type": "vjepa2_1"}}], "c": {"model_type": "vit"}}
    assert [variant.name for variant in nested_variants(fields)] == ["vjepa2_1"]


def test_an_export_is_whole_or_absent(ijepa, tmp_path, monkeypatch):
    with monkeypatch.context() as changes:
        changes.setattr(export, "_check_copy", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_remote_code(ijepa, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for write in (export_remote_code, export_encoder):
        with pytest.raises(FileExistsError, match="not an empty folder"):
            write(ijepa, tmp_path / "full")
    assert {path.name for path in tmp_path.iterdir()} == {"ijepa", "full"}


def damage(folder: Path) -> None:
    """Other weights than the fingerprint was taken of."""
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if key.endswith("layernorm.weight") and key.startswith("ijepa."))
    state[key][0] += 5
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("write", [export_remote_code, export_encoder])
def test_weights_that_are_not_those_of_the_fingerprint_are_not_exported(ijepa, tmp_path, write):
    damage(ijepa)
    with pytest.raises(ConversionError, match=r"the fingerprint of .*ijepa is not that of its weights: mean"):
        write(ijepa, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (ijepa / "fingerprint.json").unlink()
    write(ijepa, tmp_path / "out")
    assert inspect_checkpoint(tmp_path / "out")[1] and (tmp_path / "out" / "fingerprint.json").is_file()


def test_code_that_computes_something_else_is_not_handed_out(ijepa, tmp_path, monkeypatch):
    def wrong(modules, package):
        files = bundle(modules, package)
        files["layers_mlp.py"] = files["layers_mlp.py"].replace("self.fc2(", "0.999 * self.fc2(")
        return files

    bundle = export.bundle
    monkeypatch.setattr(export, "bundle", wrong)
    with pytest.raises(ConversionError, match="the copied code of IJepaModel computes"):
        export_remote_code(ijepa, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- encoders alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [None, "target", "context"])
@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.native])
def test_an_encoder_is_exported_to_the_stock_class(name, encoder, tmp_path):
    variant = VARIANTS[name]
    source = save_run(name, tmp_path / "source")
    report = export_encoder(source, tmp_path / "out", encoder)
    stock = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(stock).__module__.startswith("transformers.models.")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["architectures"] == [type(stock).__name__] and fields["model_type"] == stock.config.model_type
    assert not {"loss_type", "target_source", "auto_map"} & set(fields)
    model = variant.model_class().from_pretrained(source).eval()
    chosen = model.feature_encoder if encoder is None else getattr(model, f"{encoder}_encoder")
    other = model.context_encoder if chosen is model.target_encoder else model.target_encoder
    state, found = chosen.state_dict(), variant.encoder_of(stock).state_dict()
    assert all(torch.equal(value, found[key]) for key, value in state.items())
    assert not all(torch.equal(value, found[key]) for key, value in other.state_dict().items() if key in found)
    same = (tmp_path / "out" / "fingerprint.json").read_bytes() == (source / "fingerprint.json").read_bytes()
    assert same == (chosen is model.feature_encoder)
    which = "context" if chosen is model.context_encoder else "target"
    assert f"wrote the {which} encoder" in report and "training_args.bin" in report
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"holds the {which} encoder as a stock `{type(stock).__name__}`" in card


def test_files_are_in_the_layout_of_the_hub(ijepa, tmp_path):
    export_encoder(ijepa, tmp_path / "out")
    keys = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert "encoder.layer.0.attention.attention.query.weight" in keys
    assert not any(key.startswith(("predictor", "context_encoder", "ijepa")) for key in keys)


def test_the_predictor_of_a_native_base_model_comes_along_where_there_is_one(tmp_path):
    source = save_run("vjepa2", tmp_path / "source")
    export_encoder(source, tmp_path / "with")
    model = VARIANTS["vjepa2"].model_class().from_pretrained(source)
    stock = AutoModel.from_pretrained(tmp_path / "with")
    assert torch.equal(stock.predictor.proj.weight, model.predictor.proj.weight)
    state = load_file(source / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("vjepa2.predictor.")}
    save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    report = export_encoder(source, tmp_path / "without")
    assert "random in transformers: predictor" in report
    assert not any("predictor" in key for key in load_file(tmp_path / "without" / "model.safetensors"))


def test_an_encoder_that_is_not_there_is_not_made_up(ijepa, tmp_path):
    state = load_file(ijepa / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith("context_encoder.")}
    save_file(kept, ijepa / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match="holds no context encoder: 37 weights|holds no context encoder"):
        export_encoder(ijepa, tmp_path / "out", "context")
    export_encoder(ijepa, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nepa", r"transformers has no architecture of NEPA, only of I-JEPA, .*\(--remote-code\)"),
        ("cjepa", "transformers has no architecture of C-JEPA"),
        ("llm_jepa", "is its language model already: stock AutoModel"),
    ],
)
def test_architectures_that_are_not_native_are_refused(name, message, tmp_path):
    source = save_run(name, tmp_path / "source")
    with pytest.raises(ValueError, match=message):
        export_encoder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_layout": "interleaved", "num_attention_heads": 2},
        {"rope_interpolation": True, "rope_grid_size": 8},
        {"use_silu": True},
    ],
)
def test_what_the_stock_class_would_compute_otherwise_is_refused_by_field(fields, tmp_path):
    source = save_run("vjepa2", tmp_path / "source", **fields)
    name, value = next(iter(fields.items()))
    with pytest.raises(
        ConversionError, match=rf"VJEPA2Model of transformers computes something else.*{name}={value!r}"
    ):
        export_encoder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_that_the_stock_class_cannot_say_is_refused():
    config = VARIANTS["vjepa2"].config_class()(**(VARIANTS["vjepa2"].tiny | {"crop_size": [32, 48]}))
    with pytest.raises(ConversionError, match="VJEPA2Config of transformers refuses the config"):
        native_config(config)


def test_a_target_encoder_is_as_wide_as_everywhere_in_the_package(tmp_path):
    """float32, whatever is stored; nothing is rounded."""
    variant = VARIANTS["ijepa"]
    torch.manual_seed(0)
    model = variant.model_class(variant.base_model)(variant.config_class()(**variant.tiny)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    export_encoder(tmp_path / "source", tmp_path / "out")
    stock = AutoModel.from_pretrained(tmp_path / "out")
    assert stock.dtype == torch.float32
    assert torch.equal(stock.layers[0].mlp.fc1.weight, model.layers[0].mlp.fc1.weight.float())


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_does_both(ijepa, tmp_path, capsys):
    assert main(["export", str(ijepa), "--output", str(tmp_path / "code"), "--remote-code"]) == 0
    assert "files of code: configuration_ijepa.py" in capsys.readouterr().out
    arguments = ["--output", str(tmp_path / "encoder"), "--encoder-only", "--encoder", "context"]
    assert main(["export", str(ijepa), *arguments]) == 0
    assert "the context encoder" in capsys.readouterr().out
    assert type(AutoConfig.from_pretrained(tmp_path / "encoder")).__module__.startswith("transformers.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --remote-code --encoder-only --onnx --graph is required"),
        (["--remote-code", "--encoder-only"], "not allowed with"),
        (["--remote-code", "--encoder", "context"], "--encoder goes with --encoder-only"),
        (["--encoder-only", "--encoder", "both"], "invalid choice: 'both'"),
        (["--remote-code"], "is empty: name the folder of a checkpoint"),
    ],
)
def test_the_command_explains_what_is_wrong(arguments, message, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_fingerprint_of_the_other_encoder_is_its_own(ijepa, tmp_path):
    export_encoder(ijepa, tmp_path / "out", "context")
    model = VARIANTS["ijepa"].model_class().from_pretrained(ijepa)
    expected = compute_fingerprint(model.context_encoder)
    assert json.loads((tmp_path / "out" / "fingerprint.json").read_text()) == expected
    assert expected != compute_fingerprint(model.target_encoder)
