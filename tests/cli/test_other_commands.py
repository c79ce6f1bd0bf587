"""`train`, `convert` and `inspect` reach the programs behind them and pass their refusals on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_main import refused

from hf_jepa.cli.main import main
from hf_jepa.hub import inspect
from hf_jepa.models.ijepa import convert_ijepa
from hf_jepa.registry import VARIANTS, Variant


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


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.modality == "video"])
def test_inspect_of_video_models(name, tmp_path, capsys):
    variant = VARIANTS[name]
    variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{variant.title} ({variant.pretraining_model}), hidden_size 32")
    assert title.endswith("crop_size 32, patch_size 8, frames_per_clip 4, tubelet_size 2") and "image" not in title
    parts = {line.split()[0] for line in lines if " tensors " in line}
    inside = "" if name in ("vjepa", "salt") else f"{name}."
    target = f"{name}.encoder" if inside else name
    assert parts == {"teacher" if name == "salt" else "context_encoder", target, f"{inside}predictor"}


@pytest.mark.parametrize(
    ("name", "sizes"),
    {
        "lejepa": "hidden_size 32, num_hidden_layers 2, num_attention_heads 4, image_size 32, patch_size 8",
        "data2vec_text": "hidden_size 32, num_hidden_layers 2, num_attention_heads 4",
    }.items(),
)
def test_inspect_of_models_with_a_backbone_or_without_patches(name, sizes, tmp_path, capsys):
    variant = VARIANTS[name]
    variant.model_class()(variant.config_class()(**variant.tiny)).save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{variant.title} ({variant.pretraining_model}), {sizes}"


def test_inspect_says_what_the_tensors_of_an_official_video_file_tell(capsys):
    assert main(["inspect", str(OFFICIAL.parents[2] / "vjepa2/pretrain_step/checkpoint.pt")]) == 0
    title, told, *_ = capsys.readouterr().out.splitlines()
    assert title.startswith("official V-JEPA 2 checkpoint; also holds: opt")
    assert told.startswith(
        "hidden_size 40, num_hidden_layers 2, patch_size 8, tubelet_size 2; its tensors do not tell"
    )
    assert told.endswith("num_attention_heads, pred_num_attention_heads, crop_size, frames_per_clip")


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
    assert "all values are finite" in text and "(the encoder that gives features, no other part)" in text
    torch.save(torch.load(OFFICIAL, weights_only=True) | {7: 1}, tmp_path / "x.pth.tar")
    assert main(["inspect", str(tmp_path / "x.pth.tar")]) == 0
    assert ", 7" in capsys.readouterr().out


class Other(Variant):
    """A second variant, laid out as I-JEPA but for what `converter` holds."""

    converter: dict = {}
    convertible = True

    def module(self, kind: str):
        assert kind == "convert"
        return SimpleNamespace(LAYOUT=replace(convert_ijepa.LAYOUT, **self.converter))


@pytest.fixture
def other(monkeypatch):
    """Puts a second variant before I-JEPA, with these parts of its converter."""

    def put(**converter):
        ours = VARIANTS["ijepa"]
        variant = Other(**(vars(ours) | {"name": "other", "title": "Other-JEPA"}))
        monkeypatch.setattr(Other, "converter", converter)
        monkeypatch.setattr(inspect, "VARIANTS", {"other": variant, "ijepa": ours})

    return put


def refuse(*args, **kwargs):
    raise ValueError("no such blocks")


def test_the_variant_of_an_official_file_is_the_one_that_fits(other, converted, tmp_path, capsys):
    other(read=refuse)
    assert main(["inspect", str(OFFICIAL)]) == 0
    assert "official I-JEPA checkpoint" in capsys.readouterr().out
    assert main(["convert", str(OFFICIAL), "--output", str(tmp_path / "o"), "--num-attention-heads", "4"]) == 0
    assert json.loads((tmp_path / "o/config.json").read_text())["model_type"] == "ijepa"


def test_of_two_variants_that_fit_the_one_with_more_entries_is_meant(other, tmp_path, capsys):
    layout = convert_ijepa.LAYOUT
    other(entries=layout.entries | {"ema_encoder": layout.entries["target_encoder"]})
    official = torch.load(OFFICIAL, weights_only=True)
    torch.save(official | {"ema_encoder": official["target_encoder"]}, tmp_path / "x.pth.tar")
    assert inspect.variant_of_file(tmp_path / "x.pth.tar").name == "other"
    assert main(["inspect", str(tmp_path / "x.pth.tar")]) == 0
    title, *parts = capsys.readouterr().out.splitlines()
    assert title.startswith("official Other-JEPA checkpoint; also holds: opt") and "ema_encoder" not in title
    assert any(line.split()[0] == "ema_encoder" for line in parts)


def test_a_file_that_fits_two_variants_alike_is_converted_as_neither(other, tmp_path, capsys):
    other()
    assert main(["inspect", str(OFFICIAL)]) == 0
    assert "official Other-JEPA or I-JEPA checkpoint" in capsys.readouterr().out
    convert = ["convert", OFFICIAL, "--output", tmp_path / "o", "--num-attention-heads", "4"]
    assert "say which it is by --variant other or --variant ijepa" in refused(convert, capsys)
    assert not (tmp_path / "o").exists()
    assert main([*map(str, convert), "--variant", "ijepa"]) == 0


def test_a_file_that_fits_no_variant_is_refused_with_the_reason_of_each(other, tmp_path, capsys):
    other(read=refuse)
    official = torch.load(OFFICIAL, weights_only=True)
    torch.save({"encoder": official["encoder"]}, tmp_path / "part.pth.tar")
    line = refused(["convert", tmp_path / "part.pth.tar", "--output", tmp_path / "o"], capsys)
    assert "['encoder'], which no variant knows" in line and "I-JEPA has encoder, target_encoder, predictor" in line
    del official["encoder"]["module.pos_embed"]
    torch.save(official, tmp_path / "x.pth.tar")
    line = refused(["convert", tmp_path / "x.pth.tar", "--output", tmp_path / "o"], capsys)
    assert f"{tmp_path / 'x.pth.tar'}: as Other-JEPA: no such blocks; as I-JEPA: not an official I-JEPA" in line


def test_the_variant_to_return_to_is_that_of_the_folder(converted, tmp_path, capsys, monkeypatch):
    back = ["convert", "--reverse", converted, "--output", tmp_path / "x.pth.tar"]
    monkeypatch.setattr(Variant, "convertible", False)
    assert f"{converted} is a model of I-JEPA, which has no official layout" in refused(back, capsys)
    assert "is empty" in refused(["convert", "--reverse", tmp_path, "--output", tmp_path / "x"], capsys)
    assert list(tmp_path.iterdir()) == []


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


def test_train_needs_a_program_of_the_modality(monkeypatch, capsys):
    monkeypatch.setitem(VARIANTS, "ijepa", replace(VARIANTS["ijepa"], modality="smell"))
    line = refused(["train", "ijepa", str(RECIPE)], capsys)
    assert "invalid choice: 'ijepa'" in line


def test_train_refuses_unknown_fields_and_missing_recipes(tmp_path, capsys):
    assert main(["train", "ijepa", str(tmp_path / "none.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "r.yaml").write_text("lerning_rate: 1\n")
    assert main(["train", "ijepa", str(tmp_path / "r.yaml")]) == 2
    assert "lerning_rate" in capsys.readouterr().err.splitlines()[-1]
