"""Official V-JEPA 2 checkpoints: converted, loaded, written back; files of the neighbours are refused."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from official_layouts import there_and_back
from safetensors.torch import load_file
from scripts import run_script
from transformers import AutoModel, VJEPA2Model

from hf_jepa.cli.main import main
from hf_jepa.core.configuration import model_fields
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.fingerprint import differences
from hf_jepa.hub.inspect import inspect_checkpoint, variant_of_file
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.convert_vjepa2 import LAYOUT
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForPreTraining, VJepa2Model
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden/vjepa2"
OFFICIAL = GOLDEN / "pretrain_step/checkpoint.pt"
WHOLE = ("encoder", "encoder_masked", "pretrain_step", "action_anticipation")
VARIANT = VARIANTS["vjepa2"]
HEADS = {"num_attention_heads": 2, "pred_num_attention_heads": 2}
UNTOLD = {"crop_size": 32, "frames_per_clip": 8}  # of the golden cases
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def tensors(case: str) -> dict[str, torch.Tensor]:
    """The recorded tensors of a case, clips in our order of axes."""
    io = load_file(GOLDEN / case / "io.safetensors")
    return {name: value.transpose(1, 2) if value.ndim == 5 else value for name, value in io.items()}


@pytest.fixture(scope="module", params=["encoder", "encoder_masked"])
def converted(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "model"
    file = GOLDEN / request.param / "checkpoint.pt"
    report = convert_checkpoint(VARIANT, file, output, **HEADS, **UNTOLD)
    return request.param, output, report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(VARIANT, OFFICIAL, output, **HEADS, **UNTOLD)
    return output


def broken(change) -> dict:
    official = {key: dict(value) for key, value in read_torch_checkpoint(OFFICIAL).items() if isinstance(value, dict)}
    change(official)
    return official


# --- there ----------------------------------------------------------------------------------------------------------


def test_converted_checkpoints_give_the_official_numbers(converted):
    case, output, _ = converted
    model, io = VJepa2ForPreTraining.from_pretrained(output).eval(), tensors(case)
    with torch.no_grad():
        if case == "encoder":
            for name in ("", "_other_size", "_nonsquare"):
                for encoder in (model.context_encoder, model.target_encoder):
                    found = encoder(io[f"video{name}"]).last_hidden_state
                    torch.testing.assert_close(found, io[f"last_hidden_state{name}"], **CLOSE)
            return
        for index in range(4):
            found = model.vjepa2(io["video"], io["mask_enc"], io["mask_pred"], mask_index=index)
            torch.testing.assert_close(found.last_hidden_state, io["encoder_masked"], **CLOSE)
            expected = io[f"predictor_out_mask_index_{index}"]
            torch.testing.assert_close(found.predictor_output.last_hidden_state, expected, **CLOSE)


def test_the_script_converts_and_reports(tmp_path):
    (tmp_path / "fields.yaml").write_text(yaml.safe_dump(UNTOLD))
    options = ["--num-attention-heads", "2", "--pred-num-attention-heads", "2", "--config", tmp_path / "fields.yaml"]
    script = ROOT / "conversion/convert_vjepa2.py"
    done = run_script(script, "--checkpoint", OFFICIAL, "--output", tmp_path / "model", *options)
    assert done.returncode == 0, done.stderr
    assert "target_encoder: 28 tensors" in done.stdout and "not used: opt" in done.stdout
    names = {path.name for path in (tmp_path / "model").iterdir()}
    names_of_files = {"README.md", "config.json", "fingerprint.json", "model.safetensors"}
    assert names == names_of_files | {"video_preprocessor_config.json"}
    card = (tmp_path / "model/README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "skip_predictor" in snippet and "pipeline_tag: feature-extraction" in card
    back = run_script(script, "--reverse", tmp_path / "model", "--output", tmp_path / "back.pt")
    assert back.returncode == 0, back.stderr
    official, again = read_torch_checkpoint(OFFICIAL), read_torch_checkpoint(tmp_path / "back.pt")
    for entry in LAYOUT.entries:
        assert again[entry].keys() == official[entry].keys()
        assert all(torch.equal(again[entry][key], value) for key, value in official[entry].items())


def test_the_snippet_of_a_card_runs(folder, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(folder.parent)
    names: dict = {}
    exec(snippet, names)
    assert names["feature"].shape == (1, 40)


@pytest.mark.parametrize("key", [None, "target_encoder", "encoder"])
def test_the_target_key_chooses_the_encoder_of_automodel_and_is_remembered(tmp_path, key):
    convert_checkpoint(VARIANT, OFFICIAL, tmp_path / "m", key, **HEADS, **UNTOLD)
    found = AutoModel.from_pretrained(tmp_path / "m")
    assert type(found) is VJEPA2Model
    official = read_torch_checkpoint(OFFICIAL)[key or "target_encoder"]
    assert torch.equal(found.encoder.layernorm.bias, official["module.backbone.norm.bias"])
    query = official["module.backbone.blocks.1.attn.qkv.weight"][:40]
    assert torch.equal(found.encoder.layer[1].attention.query.weight, query)
    for config in (found.config, VJepa2Config.from_pretrained(tmp_path / "m")):
        assert config.official_target_key == (key or "target_encoder")
    other = read_torch_checkpoint(OFFICIAL)["encoder" if key != "encoder" else "target_encoder"]
    assert not torch.equal(other["module.backbone.norm.bias"], official["module.backbone.norm.bias"])


def test_inspect_and_convert_tell_the_variant_without_being_told(tmp_path, capsys):
    assert variant_of_file(OFFICIAL) is VARIANT
    report, agrees = inspect_checkpoint(OFFICIAL)
    assert agrees and "official V-JEPA 2 checkpoint" in report and "28 tensors" in report
    options = ["--num-attention-heads", "2", "--pred-num-attention-heads", "2"]
    assert main(["convert", str(OFFICIAL), "--output", str(tmp_path / "m"), *options]) == 0
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "vjepa2"
    assert "assumed (state them by --config): crop_size 256, frames_per_clip 64" in capsys.readouterr().out


def test_a_changed_weight_changes_the_fingerprint(folder):
    encoder = VARIANT.encoder_of(VJepa2Model.from_pretrained(folder))
    assert differences(encoder, folder) == []
    with torch.no_grad():
        encoder.layer[1].mlp.fc2.weight[0] += 0.5
    assert differences(encoder, folder)


# --- and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*WHOLE, "encoder_swiglu"])
def test_round_trip_is_exact(case):
    official = read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")
    heads = {name: value for name, value in HEADS.items() if "predictor" in official or name[:4] != "pred"}
    config = LAYOUT.infer_config(official, **heads)
    back = LAYOUT.revert(LAYOUT.convert(official, config), config)
    assert set(back) == set(official) & set(LAYOUT.entries)
    for entry, state in back.items():
        assert state.keys() == official[entry].keys()
        assert all(torch.equal(value, official[entry][key]) for key, value in state.items())


FIELDS = [
    {},
    {"crop_size": [32, 48], "pred_num_mask_tokens": 1},
    {"frames_per_clip": 64, "crop_size": 256, "tubelet_size": 4},
    {"mlp_ratio": 120 / 32 + 1e-9, "pred_mlp_ratio": 3.0},
    {"use_silu": True},
    {"use_silu": True, "wide_silu": False},
    {"use_silu": True, "wide_silu": False, "mlp_ratio": 4.0},
    {"qkv_bias": False, "rope_layout": "interleaved", "rope_interpolation": True, "layer_norm_eps": 1e-5},
    {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3},  # a named size
    {"pred_hidden_size": 384, "pred_num_attention_heads": 12, "in_chans": 1},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_there_and_back_with_the_fields_that_are_printed(tmp_path, fields):
    config, given = there_and_back(VARIANT, fields, tmp_path)
    assert ("num_attention_heads" in given) == ("num_attention_heads" not in fields)
    assert ("crop_size" in given) == (config.crop_size != 256)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("width", "ratio"), [(40, 4.0), (40, 3.3), (56, 2.0), (88, 48 / 11)])
def test_every_width_of_a_gated_network_is_met(width, ratio, wide):
    fields = {"hidden_size": width, "num_attention_heads": 2, "mlp_ratio": ratio}
    config = VJepa2Config(**(VARIANT.tiny | fields | {"use_silu": True, "wide_silu": wide}))
    with torch.device("meta"):
        official = LAYOUT.revert(VJepa2ForPreTraining(config).state_dict(), config)
    found = LAYOUT.infer_config(official, **HEADS)
    assert found.use_silu and found.intermediate_size == config.intermediate_size
    gate = LAYOUT.convert(official, found)["context_encoder.layer.0.mlp.fc3.weight"]
    assert gate.shape[1] == config.intermediate_size


@pytest.mark.parametrize(
    ("entries", "key", "parts", "notes"),
    [
        (("target_encoder",), None, {"vjepa2.encoder"}, ("encoder; context_encoder", "predictor; vjepa2.predictor")),
        (("encoder",), "encoder", {"vjepa2.encoder", "context_encoder"}, ("predictor; vjepa2.predictor",)),
        (("target_encoder", "predictor"), None, {"vjepa2.encoder", "vjepa2.predictor"}, ("encoder; context_encoder",)),
    ],
)
def test_a_file_without_some_entries_says_what_starts_anew(tmp_path, entries, key, parts, notes):
    official = read_torch_checkpoint(OFFICIAL)
    torch.save({entry: official[entry] for entry in entries}, tmp_path / "part.pt")
    report = convert_checkpoint(VARIANT, tmp_path / "part.pt", tmp_path / "m", key, **HEADS, **UNTOLD)
    assert [line.split("not in the file: ")[1].split(" will")[0] for line in report.splitlines() if "not in t" in line]
    assert all(f"not in the file: {note} will start" in report for note in notes)
    assert report.count("not in the file") == len(notes)
    stored = load_file(tmp_path / "m/model.safetensors")
    assert all(any(name.startswith(f"{part}.") for part in parts) for name in stored)
    assert inspect_checkpoint(tmp_path / "m")[1]
    model = VJepa2ForPreTraining.from_pretrained(tmp_path / "m")
    copied = dict(zip(model.context_encoder.state_dict(), model.target_encoder.state_dict().values(), strict=True))
    assert all(torch.equal(value, copied[name]) for name, value in model.context_encoder.state_dict().items())
    revert_checkpoint(VARIANT, tmp_path / "m", tmp_path / "back.pt")
    back = read_torch_checkpoint(tmp_path / "back.pt")
    assert set(back) == set(entries) | {"target_encoder"}
    for entry in entries:
        assert all(torch.equal(back[entry][name], value) for name, value in official[entry].items())


def test_prefixes_in_any_order_are_removed():
    official = broken(lambda c: None)
    plain = {
        entry: {key.removeprefix("module.backbone."): v for key, v in state.items()}
        for entry, state in official.items()
    }
    odd = {entry: {f"backbone.module.{key}": v for key, v in state.items()} for entry, state in plain.items()}
    config = LAYOUT.infer_config(official, **HEADS)
    expected = LAYOUT.convert(official, config)
    for other in (plain, odd):
        found = LAYOUT.convert(other, LAYOUT.infer_config(other, **HEADS))
        assert all(found[key] is value or torch.equal(found[key], value) for key, value in expected.items())


# --- released files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "names"),
    [("vit_large", ("vitl.pt",)), ("vit_huge", ("vith.pt",)), ("vit_giant", ("vitg.pt", "vitg-384.pt"))],
)
def test_released_architectures_are_recognised_and_every_key_has_one_place(size, names):
    expected = VJepa2Config.from_size(size)
    with torch.device("meta"):
        model = VJepa2ForPreTraining(expected)
    official = LAYOUT.revert(model.state_dict(), expected)
    assert f"module.backbone.blocks.{expected.num_hidden_layers - 1}.attn.qkv.weight" in official["encoder"]
    assert "module.backbone.mask_tokens.9" in official["predictor"]
    config = LAYOUT.infer_config(official)
    assert LAYOUT.released_names(config) == names
    assert all(LAYOUT.released_names(config, file_name=name) == (name,) for name in names)
    fields = model_fields(VJepa2Config)
    assert {name: getattr(config, name) for name in fields} == {name: getattr(expected, name) for name in fields}
    assert set(LAYOUT.convert(official, config)) == set(model.state_dict())
    assert LAYOUT.fields_not_in_layout(expected, official) == {}


def test_the_name_of_a_released_file_tells_what_its_tensors_do_not(tmp_path, monkeypatch):
    architecture = {"hidden_size": 40, "num_hidden_layers": 2, "pred_num_mask_tokens": 4}
    for name, crop in (("small.pt", 32), ("large.pt", 48)):
        release = type(LAYOUT.released["vitl.pt"])(architecture, {"crop_size": crop, "frames_per_clip": 8})
        monkeypatch.setitem(LAYOUT.released, name, release)
    for name, crop, note in (
        ("large.pt", 48, "as of large.pt: crop_size 48, frames_per_clip 8"),
        ("other.pt", 256, "assumed (state them by --config): crop_size 256, frames_per_clip 64"),
    ):
        (tmp_path / name).write_bytes(OFFICIAL.read_bytes())
        report = convert_checkpoint(VARIANT, tmp_path / name, tmp_path / f"{name}.m", **HEADS)
        assert note in report
        config = VJepa2Config.from_pretrained(tmp_path / f"{name}.m")
        assert config.crop_size == crop
        card = (tmp_path / f"{name}.m/README.md").read_text()
        assert "license: mit" in card
    report = convert_checkpoint(VARIANT, tmp_path / "large.pt", tmp_path / "again", crop_size=64, **HEADS)
    assert "as of large.pt: frames_per_clip 8" in report
    assert VJepa2Config.from_pretrained(tmp_path / "again").crop_size == 64


# --- what must be refused -------------------------------------------------------------------------------------------


def renamed(prefix: str):
    def change(official):
        for entry in ("encoder", "target_encoder", "predictor"):
            state = official[entry]
            official[entry] = {key.replace("module.backbone.", prefix): value for key, value in state.items()}

    return change


def image_tokenizer(official):  # as V-JEPA 2.1 has
    official["target_encoder"]["module.backbone.patch_embed_img.proj.bias"] = torch.zeros(40)


def actions(official):  # as V-JEPA 2-AC has
    predictor = official["predictor"]
    for key in [key for key in predictor if "mask_tokens" in key]:
        del predictor[key]
    predictor["module.backbone.action_encoder.weight"] = torch.zeros(32, 7)


def tables(official):  # as V-JEPA 1 has
    for entry in ("encoder", "target_encoder"):
        official[entry]["module.backbone.pos_embed"] = torch.zeros(1, 64, 40)
    official["predictor"]["module.backbone.predictor_pos_embed"] = torch.zeros(1, 64, 32)


def half_a_predictor(official):
    official["predictor"] = {k: v for k, v in official["predictor"].items() if "predictor_blocks.1" not in k}
    official["predictor"]["module.backbone.predictor_blocks.1.norm1.bias"] = torch.zeros(32)


def no_encoder(official):
    del official["encoder"], official["target_encoder"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_encoder, "found .*'predictor'.*missing: an encoder"),
        (renamed("model."), "no tensor 'patch_embed.proj.weight'.*model.patch_embed"),
        (image_tokenizer, "patch_embed_img.proj.bias of entry 'target_encoder' is a tensor of V-JEPA 2.1"),
        (actions, "action_encoder.weight of entry 'predictor' is a tensor of V-JEPA 2-AC"),
        (tables, "predictor.predictor_pos_embed, as a V-JEPA 1 checkpoint does"),
        (half_a_predictor, "entry 'predictor' does not fit.*keys are missing: layer.1"),
        (lambda c: c["target_encoder"].pop("module.backbone.norm.bias"), "'target_encoder'.*layernorm.bias"),
        (lambda c: c["encoder"].update({"module.backbone.cls_token": torch.zeros(1)}), "no place.*cls_token"),
        (lambda c: c["encoder"].update({"norm.bias": torch.ones(40)}), "with and without 'module.backbone.'"),
        (lambda c: c["encoder"].update({"module.norm.bias": torch.ones(40)}), "with and without"),
        (
            lambda c: c["encoder"].update({"module.backbone.patch_embed.proj.weight": torch.zeros(40, 3, 8, 8)}),
            "shape",
        ),
        (lambda c: c["predictor"].pop("module.backbone.mask_tokens.2"), r"numbered \[0, 1, 3\].*2 is missing"),
        (lambda c: c["predictor"].pop("module.backbone.mask_tokens.0"), "no tensor 'mask_tokens.0'"),
        (lambda c: c["predictor"].update({"module.backbone.mask_tokens.1": torch.zeros(1, 1, 8)}), "differ in shape"),
        (lambda c: c["predictor"].update({"module.backbone.mask_tokens.x": torch.zeros(1, 1, 32)}), "mask_tokens.x"),
        (lambda c: c.update(encoder={"a": 3}), "not a state dict"),
        (lambda c: c["encoder"].update({"module.backbone.blocks.3000000.norm1.bias": torch.zeros(40)}), "not fit"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_key(tmp_path, change, message):
    torch.save(broken(change), tmp_path / "x.pt")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(VARIANT, tmp_path / "x.pt", tmp_path / "out", **HEADS, **UNTOLD)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [image_tokenizer, actions, tables, renamed("model."), half_a_predictor])
def test_inspect_refuses_them_too(tmp_path, change):
    torch.save(broken(change), tmp_path / "x.pt")
    with pytest.raises(ConversionError, match=r"x\.pt"):
        inspect_checkpoint(tmp_path / "x.pt")


def test_position_tables_of_a_rotary_model_are_left_out_when_somebody_says_so(tmp_path):
    torch.save(broken(tables), tmp_path / "x.pt")
    report = convert_checkpoint(VARIANT, tmp_path / "x.pt", tmp_path / "m", rope_layout="tiled", **HEADS, **UNTOLD)
    for key in ("encoder.pos_embed", "target_encoder.pos_embed", "predictor.predictor_pos_embed"):
        assert f"not used: {key}" in report
    stored = load_file(tmp_path / "m/model.safetensors")
    assert not any("pos" in key for key in stored)


def test_position_tables_in_a_released_architecture_are_left_out(monkeypatch):
    release = type(LAYOUT.released["vitl.pt"])({"hidden_size": 40, "pred_num_mask_tokens": 4})
    monkeypatch.setitem(LAYOUT.released, "tiny.pt", release)
    official = broken(tables)
    assert "context_encoder.layernorm.bias" in LAYOUT.convert(official, LAYOUT.infer_config(official, **HEADS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "hidden_size 40 and num_hidden_layers 2 are no named size.*give --num-attention-heads"),
        ({"num_attention_heads": 2}, "pred_hidden_size 32 are no named size.*give --pred-num-attention-heads"),
        (HEADS | {"num_attention_heads": 3}, "multiple of its 3 attention heads"),
        (HEADS | {"crop_size": 30}, "crop_size 30 does not divide"),
        (HEADS | {"tubelet_size": 3, "frames_per_clip": 6}, "shapes differ"),
        (HEADS | {"pred_num_hidden_layers": 4}, "keys are missing"),  # users: a config says 24 layers, the file has 12
        (HEADS | {"rope_layout": "other"}, "rope_layout='other'"),
        (HEADS | {"num_heads": 2}, "has no field.*num_heads"),
    ],
)
def test_what_is_not_known_must_be_given_and_must_fit(given, message):
    official = read_torch_checkpoint(OFFICIAL)
    with pytest.raises(ValueError, match=message):
        LAYOUT.convert(official, LAYOUT.infer_config(official, **given))


def test_without_a_crop_size_that_divides_one_must_be_given(tmp_path):
    config = VJepa2Config(**(VARIANT.tiny | {"patch_size": 12, "crop_size": 24}))
    official = LAYOUT.revert(VJepa2ForPreTraining(config).state_dict(), config)
    with pytest.raises(ConversionError, match=r"crop_size 256 does not divide.*leave no trace.*--config"):
        LAYOUT.infer_config(official, **HEADS)
    assert LAYOUT.infer_config(official, crop_size=24, **HEADS).grid_size[1] == 2


@pytest.mark.parametrize(
    ("entries", "key", "message"),
    [
        (("encoder",), None, "no entry 'target_encoder'.*give --target-key encoder"),
        (("target_encoder",), "encoder", "no entry 'encoder'.*give --target-key target_encoder"),
        (("encoder", "target_encoder"), "predictor", "'predictor' is not one of encoder, target_encoder"),
    ],
)
def test_a_target_that_is_not_there_is_refused(tmp_path, entries, key, message):
    official = read_torch_checkpoint(OFFICIAL)
    torch.save({entry: official[entry] for entry in entries}, tmp_path / "part.pt")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(VARIANT, tmp_path / "part.pt", tmp_path / "m", key, **HEADS, **UNTOLD)


def test_half_a_checkpoint_of_ours_has_no_way_back(folder, tmp_path):
    official = read_torch_checkpoint(OFFICIAL)
    config = LAYOUT.infer_config(official, **HEADS)
    state = LAYOUT.convert(official, config)
    for lost in ("vjepa2.encoder.layernorm.bias", "vjepa2.predictor.proj.bias", "context_encoder.layernorm.bias"):
        with pytest.raises(ConversionError, match=f"1 keys are missing: {lost}"):
            LAYOUT.revert({key: value for key, value in state.items() if key != lost}, config)
    VJepa2Model.from_pretrained(folder).save_pretrained(tmp_path / "native")
    with pytest.raises(ConversionError, match="missing.*unexpected"):
        revert_checkpoint(VARIANT, tmp_path / "native", tmp_path / "back.pt")
