"""Official V-JEPA checkpoints: converted, loaded, written back; files of the neighbours are refused."""

from pathlib import Path

import pytest
import torch
from official_layouts import there_and_back
from safetensors.torch import load_file
from scripts import run_script
from transformers import AutoModel

from hf_jepa.core.configuration import model_fields
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.inspect import inspect_checkpoint, variant_of_file
from hf_jepa.layers.position import sincos_2d, sincos_3d
from hf_jepa.models.vjepa.configuration_vjepa import VJepaConfig
from hf_jepa.models.vjepa.convert_vjepa import LAYOUT
from hf_jepa.models.vjepa.modeling_vjepa import VJepaForPreTraining, VJepaModel
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden/vjepa"
OFFICIAL = GOLDEN / "pretrain_step/checkpoint.pt"
VARIANT = VARIANTS["vjepa"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def broken(change) -> dict:
    official = {key: dict(value) for key, value in read_torch_checkpoint(OFFICIAL).items() if isinstance(value, dict)}
    change(official)
    return official


# --- there ----------------------------------------------------------------------------------------------------------


def test_converted_checkpoints_give_the_official_numbers(tmp_path):
    convert_checkpoint(VARIANT, OFFICIAL, tmp_path / "m", num_attention_heads=4)
    model = VJepaForPreTraining.from_pretrained(tmp_path / "m").eval()
    io = load_file(GOLDEN / "pretrain_step/io.safetensors")
    masks = [[io[f"mask_{kind}_{i}"] for i in range(2)] for kind in ("enc", "pred")]
    with torch.no_grad():
        out = model(io["clips"].transpose(1, 2), *masks)
        target = AutoModel.from_pretrained(tmp_path / "m")(io["clips"].transpose(1, 2)).last_hidden_state
    for i in range(2):
        torch.testing.assert_close(out.predictions[i], io[f"pred_{i}"], **CLOSE)
        torch.testing.assert_close(out.targets[i], io[f"target_{i}"], **CLOSE)
    torch.testing.assert_close(target, io["target_raw"], **CLOSE)


def test_an_encoder_without_a_predictor(tmp_path):
    report = convert_checkpoint(VARIANT, GOLDEN / "encoder/checkpoint.pt", tmp_path / "m", num_attention_heads=4)
    assert "not in the file: predictor; predictor will start from a fresh initialisation" in report
    io = load_file(GOLDEN / "encoder/io.safetensors")
    model = VJepaModel.from_pretrained(tmp_path / "m").eval()
    with torch.no_grad():
        found = model(io["video"].transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(found, io["last_hidden_state"], **CLOSE)


def test_the_script_goes_both_ways(tmp_path):
    def run(*options):
        return run_script(ROOT / "conversion/convert_vjepa.py", *options)

    done = run("--checkpoint", OFFICIAL, "--output", tmp_path / "m", "--num-attention-heads", 4)
    assert done.returncode == 0, done.stderr
    assert "target_encoder: 29 tensors" in done.stdout and "not used: opt" in done.stdout
    assert {path.name for path in (tmp_path / "m").iterdir()} >= {"README.md", "config.json", "model.safetensors"}
    done = run("--reverse", tmp_path / "m", "--output", tmp_path / "back.pth.tar")
    assert done.returncode == 0, done.stderr
    official, again = read_torch_checkpoint(OFFICIAL), read_torch_checkpoint(tmp_path / "back.pth.tar")
    for entry in LAYOUT.entries:
        assert again[entry].keys() == official[entry].keys()
        assert all(torch.equal(again[entry][key], value) for key, value in official[entry].items())
    done = run("--checkpoint", OFFICIAL, "--output", tmp_path / "no")
    assert done.returncode == 2 and "give --num-attention-heads" in done.stderr and not (tmp_path / "no").exists()


def test_the_target_key_chooses_the_encoder_of_automodel(tmp_path):
    convert_checkpoint(VARIANT, OFFICIAL, tmp_path / "m", "encoder", num_attention_heads=4)
    official = read_torch_checkpoint(OFFICIAL)
    bias = AutoModel.from_pretrained(tmp_path / "m").layernorm.bias
    assert torch.equal(bias, official["encoder"]["module.backbone.norm.bias"])
    assert not torch.equal(bias, official["target_encoder"]["module.backbone.norm.bias"])


def test_the_variant_is_told_by_the_file():
    assert variant_of_file(OFFICIAL) is VARIANT
    report, agrees = inspect_checkpoint(OFFICIAL)
    assert agrees and "official V-JEPA checkpoint" in report


# --- and back -------------------------------------------------------------------------------------------------------


FIELDS = [
    {},
    {"crop_size": [24, 40], "frames_per_clip": 6, "pred_num_mask_tokens": 1},
    {"tubelet_size": 4, "uniform_power": False},
    {"mlp_ratio": 120 / 32 + 1e-9, "pred_mlp_ratio": 3.0, "pred_num_attention_heads": 4},
    {"qkv_bias": False, "layer_norm_eps": 1e-5, "position_resize": "recompute", "variance_weight": 0.1},
    {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "pred_num_attention_heads": 3},
    {"in_chans": 1, "frames_per_clip": 2, "crop_size": 16},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_there_and_back_with_the_fields_that_are_printed(tmp_path, fields):
    config, given = there_and_back(VARIANT, fields, tmp_path)
    assert ("num_attention_heads" in given) == ("num_attention_heads" not in fields)
    assert ("pred_num_attention_heads" in given) == (config.pred_num_attention_heads != config.num_attention_heads)
    assert not {"crop_size", "frames_per_clip", "uniform_power"} & set(given)  # the position table tells


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("grid", [(8, 14, 14), (1, 5, 7), (4, 1, 9), (3, 6, 1), (2, 9, 40), (16, 8, 8)])
@pytest.mark.parametrize(("dim", "uniform_power"), [(16, True), (32, True), (32, False), (1024, True)])
def test_a_grid_is_recognised_by_its_table(grid, dim, uniform_power, noise):
    torch.manual_seed(0)
    official = read_torch_checkpoint(GOLDEN / "encoder/checkpoint.pt")
    table = sincos_3d(dim, grid, uniform_power)
    weights = official["target_encoder"] | {
        "module.backbone.pos_embed": table + noise * torch.randn_like(table),
        "module.backbone.patch_embed.proj.weight": torch.zeros(dim, 3, 2, 8, 8),
    }
    config = LAYOUT.infer_config({"target_encoder": weights}, num_attention_heads=4)
    assert config.grid_size == grid and config.uniform_power == uniform_power


@pytest.mark.parametrize(
    ("size", "crop", "names"),
    [
        ("vit_large", 224, ("vitl16.pth.tar",)),
        ("vit_huge", 224, ("vith16.pth.tar",)),
        ("vit_huge", 384, ("vith16-384.pth.tar",)),
    ],
)
def test_released_architectures_are_recognised_and_every_key_has_one_place(size, crop, names):
    expected = VJepaConfig.from_size(size, crop_size=crop)
    with torch.device("meta"):
        model = VJepaForPreTraining(expected)
    official = LAYOUT.revert(model.state_dict(), expected)
    assert f"module.backbone.blocks.{expected.num_hidden_layers - 1}.attn.qkv.weight" in official["encoder"]
    assert "module.backbone.mask_tokens.1" in official["predictor"]
    config = LAYOUT.infer_config(official)
    assert LAYOUT.released_names(config) == names
    fields = model_fields(VJepaConfig)
    assert {name: getattr(config, name) for name in fields} == {name: getattr(expected, name) for name in fields}
    assert set(LAYOUT.convert(official, config)) == set(model.state_dict())
    assert LAYOUT.fields_not_in_layout(expected, official) == {}


# --- what must be refused -------------------------------------------------------------------------------------------


def replaced(entry: str, key: str, value: torch.Tensor):
    return lambda official: official[entry].update({f"module.backbone.{key}": value})


def ten_mask_tokens(official):  # as released V-JEPA 2 files have
    tokens = {f"module.backbone.mask_tokens.{i}": torch.zeros(1, 1, 28) for i in range(10)}
    official["predictor"].update(tokens)


def no_tables(official):  # as V-JEPA 2 files of native models have
    for state in official.values():
        for key in [key for key in state if "pos_embed" in key]:
            del state[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_tables, "no tensor 'pos_embed'"),
        (ten_mask_tokens, "10 mask tokens, as the released V-JEPA 2 checkpoints: convert it as vjepa2"),
        (replaced("encoder", "patch_embed.proj.weight", torch.zeros(32, 3, 8, 8)), "of clips.*shape"),
        (replaced("encoder", "patch_embed_img.proj.bias", torch.zeros(32)), "a tensor of V-JEPA 2.1"),
        (replaced("encoder", "pos_embed", torch.zeros(64)), r"shape \(64,\)"),
        (replaced("target_encoder", "pos_embed", torch.zeros(1, 64, 32)), "'target_encoder'.*any grid of clips"),
        (replaced("target_encoder", "pos_embed", sincos_2d(32, (8, 8))), "'target_encoder'.*any grid of clips"),
        (replaced("encoder", "pos_embed", sincos_3d(32, (1, 8, 8))), "table of a grid of 4x4x4.*gives 1x8x8"),
        (replaced("predictor", "predictor_pos_embed", sincos_3d(28, (2, 4, 8))), "'predictor'.*of 2x4x8"),
        (lambda c: c["predictor"].pop("module.backbone.predictor_pos_embed"), "'predictor'.*position_embeddings"),
        (lambda c: c["encoder"].pop("module.backbone.norm.bias"), "'encoder'.*layernorm.bias"),
        (replaced("encoder", "cls_token", torch.zeros(1)), "no place.*cls_token"),
        (replaced("encoder", "blocks.0.mlp.fc3.weight", torch.zeros(3)), "no place.*fc3"),
        (lambda c: c["predictor"].pop("module.backbone.mask_tokens.0"), "no tensor 'mask_tokens.0'"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_key(tmp_path, change, message):
    torch.save(broken(change), tmp_path / "x.pt")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(VARIANT, tmp_path / "x.pt", tmp_path / "out", num_attention_heads=4)
    assert not (tmp_path / "out").exists()


def test_ten_mask_tokens_are_taken_when_somebody_says_so():
    official = broken(ten_mask_tokens)
    config = LAYOUT.infer_config(official, num_attention_heads=4, pred_num_mask_tokens=10)
    assert LAYOUT.convert(official, config)["predictor.embeddings.mask_tokens"].shape == (10, 1, 1, 28)


def test_a_model_of_images_has_no_official_layout(tmp_path):
    config = VJepaConfig(**(VARIANT.tiny | {"frames_per_clip": 1, "tubelet_size": 1}))
    VJepaForPreTraining(config).save_pretrained(tmp_path / "m")
    with pytest.raises(ConversionError, match="not the sine-cosine table of any grid of clips"):
        revert_checkpoint(VARIANT, tmp_path / "m", tmp_path / "x.pt")
