"""Official I-JEPA checkpoints, their fields and folders of ours: refused when anything is wrong."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scripts import run_script

from hf_jepa.cli.main import main
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.layers.position import sincos_2d
from hf_jepa.models.ijepa.convert_ijepa import LAYOUT
from hf_jepa.models.ijepa.modeling_ijepa import IJepaModel
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden/ijepa"
OFFICIAL = GOLDEN / "encoder_forward/checkpoint.pt"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A folder of ours."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(VARIANTS["ijepa"], OFFICIAL, folder, num_attention_heads=4)
    return folder


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
    for verified in (False, True):  # torch.load is not asked to trust what was looked through, either
        with pytest.raises(ConversionError, match="would have to execute"):
            read_torch_checkpoint(tmp_path / "bad2.pth.tar", verified=verified)
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
    done = run_script(ROOT / "conversion/convert_ijepa.py", "--checkpoint", OFFICIAL, "--output", tmp_path / "o")
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


@pytest.mark.parametrize("text", ["1: 2", "[1]", "hidden_size", "a: [", "save_pretrained: 1"])
def test_config_files_that_are_none_are_refused_in_one_line(tmp_path, capsys, text):
    (tmp_path / "fields.yaml").write_text(text)
    arguments = ["convert", str(OFFICIAL), "--output", str(tmp_path / "o"), "--config", str(tmp_path / "fields.yaml")]
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "option", [("--config", "f.yaml"), ("--num-attention-heads", "4"), ("--target-key", "encoder")], ids=lambda o: o[0]
)
def test_reverse_refuses_options_of_the_other_direction(converted, tmp_path, capsys, option):
    assert main(["convert", "--reverse", str(converted), "--output", str(tmp_path / "x"), *option]) == 2
    assert f"{option[0]} does not go with --reverse" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_the_official_layout_is_not_uploaded(converted, tmp_path, capsys):
    arguments = ["convert", "--reverse", str(converted), "--output", str(tmp_path / "x"), "--push-to-hub", "a/b"]
    assert main(arguments) == 2
    assert "--push-to-hub uploads converted checkpoints" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_checkpoint_of_another_model_type_is_refused(converted, tmp_path):
    shutil.copytree(converted, tmp_path / "ours")
    config = json.loads((converted / "config.json").read_text())
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
    state = load_file(converted / "model.safetensors")
    state["predictor.proj.bias"][0] = value
    shutil.copytree(converted, tmp_path / "ours")
    save_file(state, tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"NaN or infinity.*predictor\.proj\.bias"):
        revert_checkpoint(VARIANTS["ijepa"], tmp_path / "ours", tmp_path / "back.pth.tar")
    report, agrees = inspect_checkpoint(tmp_path / "ours")
    assert not agrees and "NaN or infinity in 1 tensors: predictor.proj.bias" in report


def test_an_encoder_alone_is_not_completed_with_random_weights(converted, tmp_path):
    IJepaModel.from_pretrained(converted).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ConversionError, match="missing"):
        revert_checkpoint(VARIANTS["ijepa"], tmp_path / "encoder", tmp_path / "back.pth.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
