"""`train`, `convert` and `inspect` reach the programs behind them and pass their refusals on."""

import json
from pathlib import Path

import pytest
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
