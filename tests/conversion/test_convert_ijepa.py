"""Official I-JEPA checkpoints: converted, loaded, written back; refused when anything is wrong."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scripts import run_script
from transformers import AutoModel

from hf_jepa.cli.main import main
from hf_jepa.core.configuration import model_fields
from hf_jepa.core.conversion import Release
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.fingerprint import differences
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.layers.position import sincos_2d
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


# --- what must be refused -------------------------------------------------------------------------------------------


class Hostile:
    """A pickle that would create a file when loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile(path: Path, trace: Path) -> None:
    with path.open("wb") as file:
        pickle.dump({"encoder": Hostile(trace)}, file, protocol=2)


def test_hostile_pickle_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "was-run"
    hostile(tmp_path / "bad.pth.tar", trace)
    with pytest.raises(ConversionError, match="would have to execute"):
        read_torch_checkpoint(tmp_path / "bad.pth.tar")
    with (tmp_path / "bad1.pth.tar").open("wb") as file:
        file.write(f"cposix\nsystem\n(S'touch {trace}'\ntR.".encode())  # a pickle of os.system
    with pytest.raises(ConversionError, match="would have to execute"):
        read_torch_checkpoint(tmp_path / "bad1.pth.tar")
    torch.save({"encoder": Hostile(trace)}, tmp_path / "bad2.pth.tar")
    with pytest.raises(ConversionError, match="would have to execute"):
        read_torch_checkpoint(tmp_path / "bad2.pth.tar")
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, share):
    content = OFFICIAL.read_bytes()
    (tmp_path / "cut.pth.tar").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConversionError, match=r"cut\.pth\.tar"):
        read_torch_checkpoint(tmp_path / "cut.pth.tar")


def broken(change) -> dict:
    official = {key: dict(value) for key, value in read_torch_checkpoint(OFFICIAL).items() if isinstance(value, dict)}
    change(official)
    return official


def five_dimensions_and_no_table(official):
    official["encoder"]["module.patch_embed.proj.weight"] = torch.zeros(32, 3, 2, 4, 4)
    del official["encoder"]["module.pos_embed"]


def module_table(dim: int, grid_size: tuple[int, int]) -> dict:
    return {"module.predictor_pos_embed": sincos_2d(dim, grid_size)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("predictor"), "missing: predictor"),
        (lambda c: c["encoder"].pop("module.norm.bias"), "layernorm.bias"),
        (lambda c: c["encoder"].pop("module.blocks.1.attn.qkv.bias"), "layers.1.attention.q_proj.bias"),
        (lambda c: c["encoder"].pop("module.pos_embed"), "pos_embed"),
        (lambda c: c["encoder"].update({"module.cls_token": torch.zeros(1)}), "cls_token"),
        (lambda c: c["target_encoder"].update({"module.norm.bias": torch.zeros(5)}), r"\(5,\) instead of \(32,\)"),
        (lambda c: c.update(encoder={"a": 3}), "not a state dict"),
        (lambda c: c["encoder"].update({"module.blocks.3000000.norm1.bias": torch.zeros(32)}), "does not fit"),
        (lambda c: c["encoder"].update({"module.pos_embed": torch.zeros(36)}), r"of images.*\(36,\)"),
        (lambda c: c["encoder"].update({"module.patch_embed.proj.weight": torch.zeros(32, 3, 2, 4, 4)}), "of images"),
        (lambda c: c["encoder"].update({"norm.bias": torch.ones(32)}), "with and without 'module.'"),
        (lambda c: c["encoder"].update({3: torch.ones(32)}), "no place in this architecture: 3"),
        (five_dimensions_and_no_table, "no tensor 'pos_embed'|of images"),
        (lambda c: c["predictor"].update({"module.predictor_embed.weight": torch.tensor(1.0)}), "of images"),
        (lambda c: c["predictor"].update({"module.predictor_embed.weight": torch.zeros(0, 32)}), "not a dense tensor"),
        (lambda c: c["target_encoder"].update({"module.blocks.1.attn.qkv.weight": torch.tensor(1.0)}), "not split"),
        (lambda c: c["encoder"].update({"module.norm.bias": torch.zeros(32).to_sparse()}), "norm.bias.*not a dense"),
        (lambda c: c["encoder"].update({"module.norm.bias": torch.zeros(32).long()}), "norm.bias.*int64"),
        (
            lambda c: c["target_encoder"]["module.pos_embed"].mul_(-1),
            "pos_embed of entry 'target_encoder'.*no.*any grid",
        ),
        (
            lambda c: c["target_encoder"]["module.pos_embed"].add_(0.3),
            "pos_embed of entry 'target_encoder'.*no.*any grid",
        ),
        (lambda c: c["predictor"].update(module_table(16, (4, 9))), "'predictor' is the table of a grid of 4x9.*6x6"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_key(tmp_path, change, message):
    torch.save(broken(change), tmp_path / "x.pth.tar")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(
            VARIANTS["ijepa"], tmp_path / "x.pth.tar", tmp_path / "out", "target_encoder", num_attention_heads=4
        )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.tmp").exists()


def test_script_explains_in_one_line(tmp_path):
    done = run("--checkpoint", OFFICIAL, "--output", tmp_path / "o")
    assert done.returncode == 2 and "give --num-attention-heads" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("checkpoint", "output", "target_key", "message"),
    [
        ("no.pth.tar", "o", "target_encoder", "does not exist"),
        (OFFICIAL, "o", "t", "'t'"),
        (OFFICIAL, GOLDEN, "target_encoder", "not an empty folder"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, checkpoint, output, target_key, message):
    with pytest.raises((ConversionError, OSError), match=message):
        convert_checkpoint(
            VARIANTS["ijepa"], tmp_path / checkpoint, tmp_path / output, target_key, num_attention_heads=4
        )
    assert not any(tmp_path.iterdir())


def test_config_file_overrides_what_was_inferred(tmp_path):
    fields = tmp_path / "fields.json"
    fields.write_text(json.dumps({"num_attention_heads": 8, "pred_num_attention_heads": 2}))
    done = run("--checkpoint", OFFICIAL, "--output", tmp_path / "o", "--config", fields)
    assert done.returncode == 0, done.stderr
    config = IJepaConfig.from_pretrained(tmp_path / "o")
    assert (config.num_attention_heads, config.pred_num_attention_heads) == (8, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_heads": 4}, "has no field.*num_heads"),
        ({"num_attention_heads": 5}, "multiple of its 5 attention heads"),
        ({"pred_num_attention_heads": 0}, "its 0 attention heads"),
        ({"hidden_act": "nope"}, "hidden_act='nope' is not one of gelu"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small', expected a number"),
        ({"pred_mlp_ratio": -1.0}, "pred_mlp_ratio -1.0"),
        ({"pred_mlp_ratio": "1e99"}, r"pred_mlp_ratio 1e\+99"),
        ({"image_size": [8]}, r"image_size \[8\] is neither"),
        ({"patch_size": [4, 4, 4]}, r"patch_size \[4, 4, 4\] is neither"),
        ({"grid_size": [6, 6]}, "has no field.*grid_size"),
        ({"save_pretrained": 1}, "has no field.*save_pretrained"),
        ({"model_type": "vit"}, "has no field.*model_type"),
        ({"return_dict": False}, "has no field.*return_dict"),
        ({"image_size": [16, 36]}, "table of a grid of 6x6.*4x9"),
        ({"image_size": [28, 28]}, "table of a grid of 6x6.*7x7"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        LAYOUT.infer_config(read_torch_checkpoint(OFFICIAL), **({"num_attention_heads": 4} | overrides))


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


@pytest.mark.parametrize("text", ["1: 2", "[1]", "hidden_size", "a: [", "save_pretrained: 1"])
def test_config_files_that_are_none_are_refused_in_one_line(tmp_path, capsys, text):
    (tmp_path / "fields.yaml").write_text(text)
    arguments = ["convert", str(OFFICIAL), "--output", str(tmp_path / "o"), "--config", str(tmp_path / "fields.yaml")]
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err and not (tmp_path / "o").exists()


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
    config = IJepaConfig(**(VARIANTS["ijepa"].tiny | fields))
    model = IJepaForPreTraining(config)
    model.save_pretrained(tmp_path / "ours")
    report = revert_checkpoint(VARIANTS["ijepa"], tmp_path / "ours", tmp_path / "official.pth.tar")
    printed = re.search(r"again by --config.*?(\{.*\})", report)
    given = yaml.safe_load(printed[1]) if printed else {}
    assert ("num_attention_heads" in given) == (config.hidden_size != 192)
    assert set(given) <= {*fields, "num_attention_heads"}
    convert_checkpoint(VARIANTS["ijepa"], tmp_path / "official.pth.tar", tmp_path / "back", "target_encoder", **given)
    found = IJepaForPreTraining.from_pretrained(tmp_path / "back")
    assert all(getattr(found.config, name) == getattr(config, name) for name in model_fields(IJepaConfig))
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize(
    "option", [("--config", "f.yaml"), ("--num-attention-heads", "4"), ("--target-key", "encoder")], ids=lambda o: o[0]
)
def test_reverse_refuses_options_of_the_other_direction(converted, tmp_path, capsys, option):
    assert main(["convert", "--reverse", str(converted[0]), "--output", str(tmp_path / "x"), *option]) == 2
    assert f"{option[0]} does not go with --reverse" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_the_official_layout_is_not_uploaded(converted, tmp_path, capsys):
    arguments = ["convert", "--reverse", str(converted[0]), "--output", str(tmp_path / "x"), "--push-to-hub", "a/b"]
    assert main(arguments) == 2
    assert "--push-to-hub uploads converted checkpoints" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_checkpoint_of_another_model_type_is_refused(converted, tmp_path):
    shutil.copytree(converted[0], tmp_path / "ours")
    config = json.loads((converted[0] / "config.json").read_text())
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ConversionError, match=r"config\.json is of a model of type 'vit', expected 'ijepa'"):
        revert_checkpoint(VARIANTS["ijepa"], tmp_path / "ours", tmp_path / "back.pth.tar")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_tensors_that_are_not_finite_are_refused_by_key_in_both_directions(converted, tmp_path, value):
    official = broken(lambda c: c["predictor"]["module.predictor_proj.bias"].__setitem__(0, value))
    torch.save(official, tmp_path / "x.pth.tar")
    with pytest.raises(ConversionError, match=r"NaN or infinity.*predictor\.proj\.bias"):
        convert_checkpoint(
            VARIANTS["ijepa"], tmp_path / "x.pth.tar", tmp_path / "out", "target_encoder", num_attention_heads=4
        )
    report, agrees = inspect_checkpoint(tmp_path / "x.pth.tar")
    assert not agrees and "NaN or infinity in 1 tensors: predictor.predictor_proj.bias" in report
    state = load_file(converted[0] / "model.safetensors")
    state["predictor.proj.bias"][0] = value
    shutil.copytree(converted[0], tmp_path / "ours")
    save_file(state, tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"NaN or infinity.*predictor\.proj\.bias"):
        revert_checkpoint(VARIANTS["ijepa"], tmp_path / "ours", tmp_path / "back.pth.tar")
    report, agrees = inspect_checkpoint(tmp_path / "ours")
    assert not agrees and "NaN or infinity in 1 tensors: predictor.proj.bias" in report


def test_16_bit_tensors_come_back_as_they_were(tmp_path):
    half = {e: {k: v.bfloat16() for k, v in state.items()} for e, state in broken(lambda c: c.pop("opt")).items()}
    torch.save(half, tmp_path / "half.pth.tar")
    convert_checkpoint(
        VARIANTS["ijepa"], tmp_path / "half.pth.tar", tmp_path / "m", "target_encoder", num_attention_heads=4
    )
    revert_checkpoint(VARIANTS["ijepa"], tmp_path / "m", tmp_path / "back.pth.tar")
    back = read_torch_checkpoint(tmp_path / "back.pth.tar")
    for entry, state in half.items():
        assert all(torch.equal(back[entry][k], v) and back[entry][k].dtype == v.dtype for k, v in state.items())


def test_an_encoder_alone_is_not_completed_with_random_weights(converted, tmp_path):
    IJepaModel.from_pretrained(converted[0]).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConversionError, match="missing"):
        revert_checkpoint(VARIANTS["ijepa"], tmp_path / "encoder", tmp_path / "back.pth.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


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


# --- memory ---------------------------------------------------------------------------------------------------------


# ru_maxrss would not do: it survives exec, so a child starts with the peak of the process that started it.
PEAK = "next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) * 1024"
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")


def peak_of_child(code: str) -> int:
    """Bytes that Python code prints in its last line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def write_official(size: str, path: Path) -> int:
    """A file in official layout with random numbers; returns its size in bytes."""
    config = IJepaConfig.from_size(size, patch_size=14)
    with torch.device("meta"):
        official = LAYOUT.revert(IJepaForPreTraining(config).state_dict(), config)
    for state in official.values():
        state |= {k: torch.randn(v.shape) * 0.02 for k, v in state.items() if not k.endswith("pos_embed")}
    torch.save(official, path)
    return path.stat().st_size


@on_linux
@pytest.mark.slow
def test_writing_shards_does_not_collect_the_whole_file_in_memory(tmp_path):
    size = write_official("vit_small", tmp_path / "small.pth.tar")
    code = f"""
from pathlib import Path
from hf_jepa.hub.files import read_torch_checkpoint, save_weights
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
read = lambda: read_torch_checkpoint({str(tmp_path / "small.pth.tar")!r}, verified=True)
config = LAYOUT.infer_config(read())
LAYOUT.convert(read(), config)
before = {PEAK}
save_weights(lambda: LAYOUT.convert(read(), config), Path({str(tmp_path)!r}), shard_bytes=20 * 2**20)
print({PEAK} - before)
"""
    assert peak_of_child(code) < 0.6 * size


@on_linux
@pytest.mark.slow
def test_conversion_needs_less_than_1_3_times_the_file_in_memory(tmp_path):
    """A vit_huge file: two encoders of 630M parameters and a predictor, 5.1 GB."""
    size = write_official("vit_huge", tmp_path / "huge.pth.tar")
    arguments = [str(SCRIPT), "--checkpoint", str(tmp_path / "huge.pth.tar"), "--output", str(tmp_path / "out")]
    code = f"""
import runpy, sys
sys.argv = {arguments!r}
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
print({PEAK})
"""
    assert peak_of_child(code) < 1.3 * size
