"""Official I-JEPA checkpoints: converted, loaded, written back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official_layouts import there_and_back
from safetensors.torch import load_file
from scripts import run_script
from transformers import AutoModel

from hf_jepa.cli.main import main
from hf_jepa.core.conversion import Release
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.fingerprint import differences
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining, IJepaModel
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden/ijepa"
OFFICIAL = GOLDEN / "encoder_forward/checkpoint.pt"
SCRIPT = ROOT / "conversion/convert_ijepa.py"
IO = load_file(GOLDEN / "encoder_forward/io.safetensors")


def run(*arguments) -> subprocess.CompletedProcess:
    return run_script(SCRIPT, *arguments)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    output = tmp_path_factory.mktemp("converted") / "model"
    done = run("--checkpoint", OFFICIAL, "--output", output, "--num-attention-heads", 4)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_script_writes_a_whole_checkpoint_and_a_report(converted):
    output, report = converted
    names = {path.name for path in output.iterdir()}
    assert names == {"README.md", "config.json", "fingerprint.json", "model.safetensors", "preprocessor_config.json"}
    assert "target_encoder: 29 tensors" in report and "not used: opt" in report
    card = (output / "README.md").read_text()
    assert "IJepaForPreTraining" in card
    assert "license:" not in card and "has not chosen a licence" in card  # nobody has released this file


def test_a_card_names_the_licence_of_released_files_and_the_folder_it_is_in(tmp_path, monkeypatch):
    tiny = Release({"hidden_size": 32, "num_hidden_layers": 2, "patch_size": 4, "image_size": 24})
    monkeypatch.setitem(LAYOUT.released, "tiny.pth.tar", tiny)
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    convert_checkpoint(VARIANTS["ijepa"], OFFICIAL, Path("."), "target_encoder", num_attention_heads=4)
    card = Path("README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "`tiny.pth.tar`" in card
    assert "\n# model\n" in card and 'from_pretrained("model")' in card


def test_outputs_equal_the_official_ones(converted):
    model = IJepaForPreTraining.from_pretrained(converted[0]).eval()
    with torch.no_grad():
        context = model.context_encoder(IO["images"]).last_hidden_state
        masked = model.context_encoder(IO["images"], context_mask=[IO["mask_0"], IO["mask_1"]]).last_hidden_state
        target = model.target_encoder(IO["images"]).last_hidden_state
    for found, name in ((context, ""), (masked, "_masked")):
        torch.testing.assert_close(found, IO[f"last_hidden_state{name}"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target, IO["target_last_hidden_state"], rtol=1e-4, atol=1e-5)


@pytest.mark.hub  # a process of its own
def test_stock_automodel_in_a_process_without_the_package_gives_the_target_encoder(converted, tmp_path):
    torch.save(IO["images"], tmp_path / "images.pt")
    code = (
        "import sys; sys.modules['hf_jepa'] = None\n"
        "import torch\nfrom transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(converted[0])!r}).eval()\n"
        f"images = torch.load({str(tmp_path / 'images.pt')!r}, weights_only=True)\n"
        f"torch.save(model(images).last_hidden_state.detach(), {str(tmp_path / 'out.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(found, IO["target_last_hidden_state"], rtol=1e-4, atol=1e-5)


def test_target_key_encoder_puts_the_context_encoder_where_users_look(tmp_path):
    convert_checkpoint(VARIANTS["ijepa"], OFFICIAL, tmp_path / "m", "encoder", num_attention_heads=4)
    found = AutoModel.from_pretrained(tmp_path / "m").eval()(IO["images"]).last_hidden_state
    torch.testing.assert_close(found, IO["last_hidden_state"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["encoder_forward", "pretrain_step", "pretrain_step_1enc_4pred"])
def test_round_trip_is_exact(case):
    official = read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")
    config = LAYOUT.infer_config(official, num_attention_heads=4)
    model = IJepaForPreTraining(config)
    model.load_state_dict(LAYOUT.convert(official, config))
    back = LAYOUT.revert(model.state_dict(), config)
    for entry, state in back.items():
        assert set(state) == set(official[entry])
        assert all(torch.equal(value, official[entry][key]) for key, value in state.items())


def test_script_writes_the_official_layout_back(converted, tmp_path):
    done = run("--reverse", converted[0], "--output", tmp_path / "back.pth.tar")
    assert done.returncode == 0, done.stderr
    back, official = (read_torch_checkpoint(path) for path in (tmp_path / "back.pth.tar", OFFICIAL))
    for entry in ("encoder", "target_encoder", "predictor"):
        assert all(torch.equal(back[entry][key], value) for key, value in official[entry].items())


def test_hub_layout_loads_without_a_missing_key(tmp_path):
    IJepaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=24, patch_size=4
    ).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((GOLDEN / "encoder_forward/hub_layout.safetensors").read_bytes())
    model, info = IJepaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(
        model.eval()(IO["images"]).last_hidden_state, IO["last_hidden_state"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("size", "patch", "image", "names"),
    [
        ("vit_huge", 14, 224, ("IN1K-vit.h.14-300e.pth.tar", "IN22K-vit.h.14-900e.pth.tar")),
        ("vit_huge", 16, 448, ("IN1K-vit.h.16-448px-300e.pth.tar",)),
        ("vit_giant", 16, 224, ("IN22K-vit.g.16-600e.pth.tar",)),
    ],
)
def test_released_architectures_are_recognised_and_every_key_has_one_place(size, patch, image, names):
    with torch.device("meta"):
        expected = IJepaConfig.from_size(size, patch_size=patch, image_size=image)
        model = IJepaForPreTraining(expected)
    official = LAYOUT.revert(model.state_dict(), expected)
    assert f"module.blocks.{expected.num_hidden_layers - 1}.attn.qkv.weight" in official["encoder"]
    config = LAYOUT.infer_config(official)
    assert LAYOUT.released_names(config) == names == LAYOUT.released_names(config, 7)
    for name in names:
        assert LAYOUT.released_names(config, file_name=name) == (name,)
        if (epoch := LAYOUT.released[name].epoch) is not None:
            assert LAYOUT.released_names(config, epoch) == (name,)
    assert config.num_attention_heads == 16 and config.pred_num_hidden_layers == expected.pred_num_hidden_layers
    assert config.image_size == image
    assert set(LAYOUT.convert(official, config)) == set(model.state_dict())


def test_config_file_overrides_what_was_inferred(tmp_path):
    fields = tmp_path / "fields.json"
    fields.write_text(json.dumps({"num_attention_heads": 8, "pred_num_attention_heads": 2}))
    done = run("--checkpoint", OFFICIAL, "--output", tmp_path / "o", "--config", fields)
    assert done.returncode == 0, done.stderr
    config = IJepaConfig.from_pretrained(tmp_path / "o")
    assert (config.num_attention_heads, config.pred_num_attention_heads) == (8, 2)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("patch_size: [4, 4]", "patch_size", [4, 4]),
        ("layer_norm_eps: 1e-5", "layer_norm_eps", 1e-5),
        ("hidden_dropout_prob: 1e-1", "hidden_dropout_prob", 0.1),
    ],
)
def test_config_fields_as_people_write_them_in_yaml(tmp_path, capsys, text, field, value):
    (tmp_path / "fields.yaml").write_text(text)
    options = ["--num-attention-heads", "4", "--config", str(tmp_path / "fields.yaml")]
    assert main(["convert", str(OFFICIAL), "--output", str(tmp_path / "o"), *options]) == 0, capsys.readouterr().err
    assert getattr(IJepaConfig.from_pretrained(tmp_path / "o"), field) == value


@pytest.mark.parametrize(
    "sizes", [{"image_size": [32, 48]}, {"image_size": [48, 16]}, {"image_size": [16, 24], "patch_size": [2, 4]}]
)
def test_grids_that_are_not_square_are_read_off_their_tables(sizes):
    config = IJepaConfig(**(VARIANTS["ijepa"].tiny | sizes))
    official = LAYOUT.revert(IJepaForPreTraining(config).state_dict(), config)
    for overrides in ({}, sizes):
        inferred = LAYOUT.infer_config(official, num_attention_heads=4, **overrides)
        assert inferred.grid_size == config.grid_size and inferred.image_size == config.image_size
        LAYOUT.convert(official, inferred)


@pytest.mark.parametrize(
    "fields",
    [
        {"pred_hidden_size": 28, "pred_mlp_ratio": 61 / 28},
        {"image_size": [32, 48], "num_attention_heads": 2},
        {"layer_norm_eps": 1e-5, "pred_num_attention_heads": 2, "hidden_act": "relu", "loss_type": "l1"},
        {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "qkv_bias": False},  # a named size
    ],
)
def test_there_and_back_with_the_fields_that_are_printed(tmp_path, fields):
    config, given = there_and_back(VARIANTS["ijepa"], fields, tmp_path)
    assert ("num_attention_heads" in given) == (config.hidden_size != 192)
    assert set(given) <= {*fields, "num_attention_heads"}


def test_16_bit_tensors_come_back_as_they_were(tmp_path):
    official = read_torch_checkpoint(OFFICIAL)
    entries = ("encoder", "target_encoder", "predictor")
    half = {entry: {key: value.bfloat16() for key, value in official[entry].items()} for entry in entries}
    torch.save(half, tmp_path / "half.pth.tar")
    convert_checkpoint(
        VARIANTS["ijepa"], tmp_path / "half.pth.tar", tmp_path / "m", "target_encoder", num_attention_heads=4
    )
    revert_checkpoint(VARIANTS["ijepa"], tmp_path / "m", tmp_path / "back.pth.tar")
    back = read_torch_checkpoint(tmp_path / "back.pth.tar")
    for entry, state in half.items():
        assert all(torch.equal(back[entry][k], v) and back[entry][k].dtype == v.dtype for k, v in state.items())


def test_the_card_names_the_repository_it_is_uploaded_to(tmp_path):
    convert_checkpoint(
        VARIANTS["ijepa"], OFFICIAL, tmp_path / "m", "target_encoder", repo="someone/model", num_attention_heads=4
    )
    assert 'from_pretrained("someone/model")' in (tmp_path / "m" / "README.md").read_text()


# --- fingerprints ---------------------------------------------------------------------------------------------------


def test_a_changed_weight_changes_the_fingerprint(converted):
    encoder = IJepaModel.from_pretrained(converted[0])
    assert differences(encoder, converted[0]) == []
    with torch.no_grad():
        encoder.layers[1].mlp.fc2.weight[0] += 0.5
    assert differences(encoder, converted[0])


def test_inspect_describes_both_layouts(converted):
    report, agrees = inspect_checkpoint(converted[0])
    assert agrees and "fingerprint agrees" in report and "28,192" in report
    report, agrees = inspect_checkpoint(OFFICIAL)
    assert agrees and "official I-JEPA" in report and "29 tensors" in report
