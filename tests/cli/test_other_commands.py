"""`train`, `convert` and `inspect` reach the programs behind them and pass their refusals on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_main import refused

from hf_jepa.cli.main import main


ROOT = Path(__file__).resolve().parents[2]
OFFICIAL = ROOT / "tests/fixtures/golden/ijepa/encoder_forward/checkpoint.pt"
RECIPE = ROOT / "training_scripts/configs/ijepa/tiny.yaml"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    assert main(["convert", str(OFFICIAL), "--output", str(folder), "--num-attention-heads", "4"]) == 0
    return folder


def test_inspect_shows_variant_sizes_and_keys(converted, capsys):
    assert main(["inspect", str(converted), "--keys"]) == 0
    text = capsys.readouterr().out
    heads = json.loads((converted / "config.json").read_text())["num_attention_heads"]
    assert heads == 4 and "I-JEPA" in text and "num_attention_heads 4" in text
    assert "ijepa.layernorm.weight" in text and "fingerprint agrees" in text
    assert main(["inspect", str(OFFICIAL)]) == 0
    assert "official I-JEPA checkpoint" in capsys.readouterr().out


def test_inspect_fails_where_weights_are_not_those_of_the_fingerprint(converted, tmp_path, capsys):
    for file in converted.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = next(tmp_path.glob("*.safetensors"))
    state = load_file(converted / weights.name)
    state["ijepa.layernorm.weight"] = state["ijepa.layernorm.weight"] * 2
    save_file(state, weights, metadata={"format": "pt"})
    assert main(["inspect", str(tmp_path)]) == 1
    assert "fingerprint differs" in capsys.readouterr().out


def spoiled(name: str, **fields):
    """Write other fields into a JSON file of a folder."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps(content))

    return spoil


def shortened(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "folder has no model*.safetensors"),
        (shortened, "folder/model.safetensors cannot be read"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "folder/config.json is not a config: it holds",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "folder/config.json is not a config: Expecting"),
        (spoiled("config.json", model_type=["ijepa"]), "folder is a model of type"),
        (spoiled("config.json", architectures=3), "folder/config.json: architectures is 3"),
        (spoiled("config.json", hidden_size="x"), "folder/config.json is no IJepaConfig: Field 'hidden_size'"),
        (spoiled("config.json", hidden_size=64), "folder: 35 weights are missing or not as in config.json"),
        (spoiled("config.json", num_hidden_layers=3), "folder: 16 weights are missing or not as in config.json"),
        (spoiled("fingerprint.json", mean="x"), "folder/fingerprint.json is not a fingerprint: mean is 'x'"),
        (
            spoiled("fingerprint.json", first_values=[1.0]),
            "folder/fingerprint.json is not a fingerprint: first_val",
        ),
        (lambda folder: (folder / "fingerprint.json").write_text("{"), "folder/fingerprint.json is not a fingerprint"),
    ],
)
def test_inspect_names_the_file_that_is_broken(converted, tmp_path, capsys, spoil, message):
    shutil.copytree(converted, tmp_path / "folder")
    spoil(tmp_path / "folder")
    assert f"{tmp_path}/{message}" in refused(["inspect", tmp_path / "folder"], capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["encoder"].pop("module.pos_embed"), "it has no tensor 'pos_embed'"),
        (lambda c: c["target_encoder"].pop("module.norm.bias"), "1 keys are missing: layernorm.bias"),
        (lambda c: c["encoder"].update({"module.patch_embed.proj.weight": torch.zeros(32, 3, 2, 4, 4)}), "of images"),
    ],
)
def test_inspect_refuses_official_files_that_do_not_fit(tmp_path, capsys, change, message):
    official = torch.load(OFFICIAL, weights_only=True)
    change(official)
    torch.save(official, tmp_path / "x.pth.tar")
    line = refused(["inspect", tmp_path / "x.pth.tar"], capsys)
    assert str(tmp_path / "x.pth.tar") in line and message in line


def test_inspect_says_what_a_fingerprint_covers_and_knows_keys_that_are_no_text(converted, tmp_path, capsys):
    assert main(["inspect", str(converted)]) == 0
    text = capsys.readouterr().out
    assert "all values are finite" in text and "(the target encoder, no other part)" in text
    torch.save(torch.load(OFFICIAL, weights_only=True) | {7: 1}, tmp_path / "x.pth.tar")
    assert main(["inspect", str(tmp_path / "x.pth.tar")]) == 0
    assert ", 7" in capsys.readouterr().out


def test_convert_and_back(converted, tmp_path):
    assert main(["convert", "--reverse", str(converted), "--output", str(tmp_path / "x.pth.tar")]) == 0
    assert (tmp_path / "x.pth.tar").stat().st_size > 0


def test_refusals_are_one_line(converted, tmp_path, capsys):
    text = tmp_path / "text.pth.tar"
    text.write_text("no checkpoint")
    assert "error:" in refused(["inspect", tmp_path / "none"], capsys)
    assert "error:" in refused(["inspect", text], capsys)
    assert "error:" in refused(["convert", text, "--output", tmp_path / "out"], capsys)
    assert "required" in refused(["convert", "--output", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


def test_train_runs_a_recipe_with_overrides(tmp_path):
    output = tmp_path / "run"
    overrides = ["--output_dir", output, "--max_steps", 2, "--per_device_train_batch_size", 4, "--use_cpu", "true"]
    assert main(["train", "ijepa", str(RECIPE), *map(str, overrides)]) == 0
    assert (output / "model.safetensors").is_file() and (output / "preprocessor_config.json").is_file()
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 2


def test_train_refuses_unknown_fields_and_missing_recipes(tmp_path, capsys):
    assert main(["train", "ijepa", str(tmp_path / "none.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "r.yaml").write_text("lerning_rate: 1\n")
    assert main(["train", "ijepa", str(tmp_path / "r.yaml")]) == 2
    assert "lerning_rate" in capsys.readouterr().err.splitlines()[-1]
