"""Official V-JEPA 2-AC checkpoints: converted, loaded, written back; files of the neighbours are refused."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from official_layouts import there_and_back
from safetensors.torch import load_file
from scripts import run_script
from transformers import AutoModel

from hf_jepa.cli.main import main
from hf_jepa.core.configuration import model_fields
from hf_jepa.core.key_map import ConversionError
from hf_jepa.core.world_model import WorldState
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.inspect import inspect_checkpoint, variant_of_file
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.convert_vjepa2_ac import LAYOUT
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACForPreTraining, VJepa2ACModel
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden"
OFFICIAL = GOLDEN / "vjepa2_ac/train_step/checkpoint.pt"
VARIANT = VARIANTS["vjepa2_ac"]
HEADS = {"num_attention_heads": 2, "pred_num_attention_heads": 2}
UNTOLD = {"crop_size": 12, "frames_per_clip": 4}  # of the golden cases
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def official_file(path: Path, change=lambda official: None) -> Path:
    """The recorded file with what a run writes beside its networks, changed."""
    official = read_torch_checkpoint(OFFICIAL)
    official = {key: dict(value) if isinstance(value, dict) else value for key, value in official.items()}
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    official |= {"opt": optimizer.state_dict(), "scaler": {"scale": 65536.0, "growth_tracker": 7}}
    change(official)
    torch.save(official, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted")
    report = convert_checkpoint(VARIANT, official_file(path / "x.pt"), path / "model", **HEADS, **UNTOLD)
    assert "not used: opt (dict)" in report and "not used: scaler" in report
    return path / "model"


def test_converted_checkpoints_give_the_official_numbers(folder):
    io = load_file(OFFICIAL.with_name("io.safetensors"))
    model = VJepa2ACForPreTraining.from_pretrained(folder)
    out = model(io["clips"].transpose(1, 2), actions=io["actions"], states=io["states"])
    torch.testing.assert_close(out.context.flatten(1, 2), io["target_normalised"], **CLOSE)
    torch.testing.assert_close(out.loss, io["loss"], **CLOSE)
    planner = AutoModel.from_pretrained(folder)
    assert type(planner) is VJepa2ACModel
    state = WorldState(out.context[:, :1], poses=io["states"][:, :1])
    imagined = planner.unroll(state, io["actions"][:, None, :1])
    torch.testing.assert_close(imagined[:, 0, 0], io["z_tf"].unflatten(1, (3, -1))[:, 0], **CLOSE)


@pytest.mark.slow  # two processes
def test_the_script_converts_and_reports(tmp_path):
    (tmp_path / "fields.yaml").write_text(yaml.safe_dump(UNTOLD))
    options = ["--num-attention-heads", "2", "--pred-num-attention-heads", "2", "--config", tmp_path / "fields.yaml"]
    script = ROOT / "conversion/convert_vjepa2_ac.py"
    done = run_script(script, "--checkpoint", OFFICIAL, "--output", tmp_path / "model", *options)
    assert done.returncode == 0, done.stderr
    assert "predictor: 36 tensors" in done.stdout
    names = {path.name for path in (tmp_path / "model").iterdir()}
    names_of_files = {"README.md", "config.json", "fingerprint.json", "model.safetensors"}
    assert names == names_of_files | {"video_preprocessor_config.json"}
    back = run_script(script, "--reverse", tmp_path / "model", "--output", tmp_path / "back.pt")
    assert back.returncode == 0, back.stderr


def test_the_snippet_of_a_card_runs(folder, monkeypatch, capsys):
    card = (folder / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(folder.parent)
    exec(snippet, {})
    assert capsys.readouterr().out.count("[") > 2 and "states=torch.zeros(1, 1, 7)" in snippet


def test_frames_are_shown_whole(folder):
    fields = json.loads((folder / "video_preprocessor_config.json").read_text())
    assert fields["size"] == {"shortest_edge": 12} and fields["crop_size"] == {"height": 12, "width": 12}


def test_round_trip_is_exact_but_for_the_encoder_that_nothing_used(tmp_path, folder):
    revert_checkpoint(VARIANT, folder, tmp_path / "back.pt")
    official, back = read_torch_checkpoint(OFFICIAL), read_torch_checkpoint(tmp_path / "back.pt")
    assert set(back) == {"encoder", "target_encoder", "predictor"}
    for entry, source in (("encoder", "target_encoder"), ("target_encoder", "target_encoder"), ("predictor",) * 2):
        assert back[entry].keys() == official[source].keys()
        assert all(torch.equal(value, official[source][key]) for key, value in back[entry].items())
    key = "module.norm.weight"  # kept once
    assert back["encoder"][key].data_ptr() == back["target_encoder"][key].data_ptr()


@pytest.mark.parametrize("kept", ["encoder", "target_encoder"])
def test_one_encoder_is_enough_and_either_can_be_chosen(tmp_path, kept):
    other = {"encoder": "target_encoder", "target_encoder": "encoder"}[kept]
    alone = official_file(tmp_path / "alone.pt", lambda official: official.pop(other))
    convert_checkpoint(VARIANT, alone, tmp_path / "m", **HEADS, **UNTOLD)
    convert_checkpoint(VARIANT, OFFICIAL, tmp_path / "chosen", kept, **HEADS, **UNTOLD)
    expected = read_torch_checkpoint(OFFICIAL)[kept]["module.norm.bias"]
    for name in ("m", "chosen"):
        assert torch.equal(
            load_file(tmp_path / name / "model.safetensors")["vjepa2_ac.encoder.layernorm.bias"], expected
        )


def test_all_prefixes_of_the_official_loader_are_removed():
    official = read_torch_checkpoint(OFFICIAL)
    names = {"": "", "module.": "module.backbone.", "backbone.": "backbone.module."}
    expected = LAYOUT.convert(official, LAYOUT.infer_config(official, **HEADS, **UNTOLD))
    for prefix in names.values():
        other = {
            entry: {prefix + key.removeprefix("module."): value for key, value in official[entry].items()}
            for entry in ("encoder", "target_encoder", "predictor")
        }
        found = LAYOUT.convert(other, LAYOUT.infer_config(other, **HEADS, **UNTOLD))
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


FIELDS = [
    {},
    {"crop_size": [32, 48], "use_extrinsics": True},
    {"state_dim": 0, "action_dim": 4},
    {"state_dim": 2, "action_dim": 2, "state_update": "sum"},
    {"use_silu": True, "mlp_ratio": 4.0, "frames_per_clip": 8, "crop_size": 256},
    {"auto_steps": 3, "rollout_start": "first_release", "loss_exp": 2, "pred_mlp_ratio": 3.0, "context_frames": 2},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_there_and_back_with_the_fields_that_are_printed(tmp_path, fields):
    there_and_back(VARIANT, fields, tmp_path)


def test_inspect_and_convert_tell_the_variant_without_being_told(tmp_path, capsys):
    path = official_file(tmp_path / "x.pt")
    assert variant_of_file(path) is VARIANT
    report, agrees = inspect_checkpoint(path)
    assert agrees and "official V-JEPA 2-AC checkpoint" in report
    options = ["--num-attention-heads", "2", "--pred-num-attention-heads", "2"]
    fields = tmp_path / "fields.yaml"
    fields.write_text(yaml.safe_dump(UNTOLD))
    assert main(["convert", str(path), "--output", str(tmp_path / "m"), *options, "--config", str(fields)]) == 0
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "vjepa2_ac"
    assert "assumed (state them by --config): use_extrinsics False, state_update pose" in capsys.readouterr().out
    report, agrees = inspect_checkpoint(tmp_path / "m")
    assert agrees and "vjepa2_ac.predictor" in report and "fingerprint agrees" in report


def test_the_released_architecture_is_recognised_and_every_key_has_one_place():
    expected = VJepa2ACConfig.from_size("vit_giant")
    with torch.device("meta"):
        model = VJepa2ACForPreTraining(expected)
    official = LAYOUT.revert(model.state_dict(), expected)
    assert official["predictor"]["module.extrinsics_encoder.weight"].shape == (1024, 6)
    assert official["predictor"]["module.predictor_blocks.23.attn.qkv.weight"].shape == (3072, 1024)
    config = LAYOUT.infer_config(official)
    assert LAYOUT.released_names(config) == ("vjepa2-ac-vitg.pt",)
    fields = model_fields(VJepa2ACConfig)
    assert {name: getattr(config, name) for name in fields} == {name: getattr(expected, name) for name in fields}
    assert set(LAYOUT.convert(official, config)) == set(model.state_dict())
    assert LAYOUT.fields_not_in_layout(expected, official) == {}


def lost(entry: str, key: str):
    return lambda official: official[entry].pop(f"module.{key}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("predictor"), "missing: predictor"),
        (lambda c: (c.pop("encoder"), c.pop("target_encoder")), "missing: an encoder"),
        (lost("predictor", "action_encoder.weight"), "told no actions"),
        (lost("predictor", "extrinsics_encoder.bias"), "'predictor' does not fit.*extrinsics_encoder.bias"),
        (lost("predictor", "state_encoder.bias"), "'predictor' does not fit.*state_encoder.bias"),
        (lost("target_encoder", "norm.bias"), "'target_encoder' does not fit.*layernorm.bias"),
        (lambda c: c["predictor"].update({"module.mask_tokens.0": torch.zeros(1, 1, 32)}), "no place.*mask_tokens.0"),
        (lambda c: c["predictor"].update({"module.action_encoder.weight": torch.zeros(32, 4)}), "4 numbers to states"),
        (lambda c: c["encoder"].update({"module.img_mod_embed": torch.zeros(1, 1, 24)}), "V-JEPA 2.1"),
        (lambda c: c["encoder"].update({"backbone.norm.bias": torch.ones(24)}), "with and without"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_key(tmp_path, change, message):
    path = official_file(tmp_path / "x.pt", change)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(VARIANT, path, tmp_path / "out", **HEADS, **UNTOLD)
    assert not (tmp_path / "out").exists()


def test_each_refuses_the_files_of_the_other(tmp_path):
    plain = GOLDEN / "vjepa2/pretrain_step/checkpoint.pt"
    with pytest.raises(ConversionError, match="not an official V-JEPA 2-AC checkpoint.*told no actions"):
        convert_checkpoint(VARIANT, plain, tmp_path / "out", **HEADS)
    with pytest.raises(ConversionError, match="V-JEPA 2-AC.*convert the file as vjepa2_ac"):
        convert_checkpoint(VARIANTS["vjepa2"], OFFICIAL, tmp_path / "out", **HEADS)
