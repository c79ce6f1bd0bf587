"""Official V-JEPA 2.1 checkpoints: converted, written back exactly, refused when anything is wrong."""

from pathlib import Path

import pytest
import torch
from scripts import run_script

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.vjepa2.convert_vjepa2 import LAYOUT as V2
from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import SIZES, VJepa21Config
from hf_jepa.models.vjepa2_1.convert_vjepa2_1 import LAYOUT
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21ForPreTraining


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden/vjepa2_1"
HEADS = {"num_attention_heads": 2, "pred_num_attention_heads": 1}


def official(case: str = "pretrain_step_video") -> dict:
    return read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")


def test_the_architecture_is_read_off_the_tensors():
    config = LAYOUT.infer_config(official(), **HEADS)
    read = {
        "hidden_size": 24,
        "num_hidden_layers": 12,
        "intermediate_size": 48,
        "in_chans": 1,
        "tubelet_size": 2,
        "patch_size": 16,
        "level_indices": (2, 5, 8, 11),
        "pred_hidden_size": 16,
        "pred_num_hidden_layers": 4,
        "pred_num_mask_tokens": 4,
        "pred_num_levels": None,
        "teacher_hidden_size": None,
        "predict_context": True,
        "modality_embedding": True,
        "rope_layout": "interleaved",
        "rope_interpolation": True,
    }
    assert {name: getattr(config, name) for name in read} == read
    distilled = LAYOUT.infer_config(official("predictor_distilled"), **HEADS)
    assert (distilled.pred_num_levels, distilled.teacher_hidden_size, distilled.pred_output_size) == (1, 36, 36)


@pytest.mark.parametrize("case", ["encoder", "pretrain_step_video", "pretrain_step_image", "predictor_distilled"])
def test_round_trip_is_exact(case):
    checkpoint = official(case)
    config = LAYOUT.infer_config(checkpoint, **HEADS)
    if case == "predictor_distilled":
        config.official_target_key = "ema_encoder"
    again = LAYOUT.revert(LAYOUT.convert(checkpoint, config), config)
    assert again.keys() == {"encoder", "target_encoder", "ema_encoder", "predictor"} & checkpoint.keys()
    for entry, state in again.items():
        assert state.keys() == checkpoint[entry].keys()
        assert all(torch.equal(value, checkpoint[entry][key]) for key, value in state.items())


@pytest.mark.parametrize("target_key", [None, "ema_encoder", "encoder"])
def test_the_target_encoder_of_distilled_files(target_key):
    checkpoint = official("predictor_distilled")
    checkpoint["encoder"] = {key: value + 1 for key, value in checkpoint["encoder"].items()}
    state = LAYOUT.convert(checkpoint, LAYOUT.infer_config(checkpoint, **HEADS), target_key)
    expected = checkpoint[target_key or "ema_encoder"]["module.backbone.norms_block.3.weight"]
    assert torch.equal(state["vjepa2_1.encoder.layernorm.weight"], expected)
    first = checkpoint["encoder"]["module.backbone.norms_block.0.bias"]
    assert torch.equal(state["context_encoder.level_layernorms.0.bias"], first)


@pytest.mark.parametrize("size", list(SIZES))
def test_released_files_are_recognised_by_their_tensors(size):
    with torch.device("meta"):
        config = VJepa21Config.from_size(size, crop_size=384)
        released = LAYOUT.revert(VJepa21ForPreTraining(config).state_dict(), config)
    (name,) = LAYOUT.released_names(LAYOUT.infer_config(released))
    assert LAYOUT.infer_config(released, **LAYOUT.released[name].untold).to_dict() == config.to_dict()
    names = {
        "vit_base": "vjepa2_1_vitb_dist_vitG_384.pt",
        "vit_large": "vjepa2_1_vitl_dist_vitG_384.pt",
        "vit_giant": "vjepa2_1_vitg_384.pt",
        "vit_gigantic": "vjepa2_1_vitG_384.pt",
    }
    assert name == names[size]


def test_models_that_are_not_like_the_released_ones_come_back():
    odd = {"levels": [0, 2], "num_hidden_layers": 3, "pred_num_levels": 1, "predict_context": False}
    odd |= {"hidden_size": 24, "num_attention_heads": 2, "mlp_ratio": 2.0, "modality_embedding": False}
    odd |= {"pred_hidden_size": 16, "pred_num_attention_heads": 1, "patch_size": 14, "crop_size": 56}
    config = VJepa21Config(**odd, pred_num_hidden_layers=1, context_loss_weight=0.1)
    written = LAYOUT.revert(VJepa21ForPreTraining(config).state_dict(), config)
    lost = LAYOUT.fields_not_in_layout(config, written)
    assert lost == {
        "num_attention_heads": 2,
        "pred_num_attention_heads": 1,
        "crop_size": 56,
        "levels": [0, 2],
        "rope_grid_size": 16,
        "context_loss_weight": 0.1,
    }
    assert LAYOUT.infer_config(written, **lost).to_dict() == config.to_dict()


def test_files_of_v_jepa_2_are_told_apart():
    fields = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 12, "pred_num_hidden_layers": 1}
    fields |= {"pred_hidden_size": 16, "pred_num_attention_heads": 1}
    old = V2.config_class(**fields)
    checkpoint = V2.revert(V2.model_class(old).state_dict(), old)
    with pytest.raises(ConversionError, match="V-JEPA 2: convert the file as vjepa2"):
        LAYOUT.infer_config(checkpoint, **HEADS)
    with pytest.raises(ConversionError, match="V-JEPA 2.1: convert the file as vjepa2_1"):
        V2.infer_config(official(), **HEADS)


@pytest.mark.parametrize(
    ("entry", "key", "change", "message"),
    [
        ("encoder", "norms_block.1.bias", None, "level_layernorms.1.bias"),
        ("target_encoder", "patch_embed_img.proj.weight", None, "image_patch_embeddings.proj.weight"),
        ("encoder", "img_mod_embed", lambda x: x[..., :-1], "embeddings.modality.image"),
        ("predictor", "predictor_embed.0.weight", lambda x: x[:, :-1], "reads 95 features"),
        ("predictor", "predictor_proj.weight", lambda x: x[:-1], "predicts 95"),
        ("predictor", "mask_tokens.1", None, "mask_tokens"),
        ("predictor", "surprise", lambda x: torch.zeros(1), "surprise"),
    ],
)
def test_half_matching_files_are_refused(entry, key, change, message):
    checkpoint, full = official(), f"module.backbone.{key}"
    if change is None:
        del checkpoint[entry][full]
    else:
        checkpoint[entry][full] = change(checkpoint[entry].get(full))
    with pytest.raises(ConversionError, match=message):
        LAYOUT.convert(checkpoint, LAYOUT.infer_config(checkpoint, **HEADS))


def test_heads_and_levels_must_be_known():
    with pytest.raises(ConversionError, match="--num-attention-heads"):
        LAYOUT.infer_config(official())
    checkpoint = official()
    for entry in ("encoder", "target_encoder"):
        checkpoint[entry] = {k: v for k, v in checkpoint[entry].items() if "blocks.11." not in k}
    with pytest.raises(ConversionError, match="levels"):
        LAYOUT.infer_config(checkpoint, **HEADS)


def test_the_script_writes_a_checkpoint_that_loads(tmp_path):
    options = ["--checkpoint", GOLDEN / "predictor_distilled/checkpoint.pt", "--output", tmp_path / "model"]
    (tmp_path / "fields.yaml").write_text("pred_num_attention_heads: 1\ncrop_size: 64\nframes_per_clip: 4\n")
    options += ["--num-attention-heads", 2, "--config", tmp_path / "fields.yaml"]
    done = run_script(ROOT / "conversion/convert_vjepa2_1.py", *options)
    assert done.returncode == 0, done.stderr
    assert "ema_encoder" in done.stdout
    model = VJepa21ForPreTraining.from_pretrained(tmp_path / "model")
    expected = official("predictor_distilled")["ema_encoder"]["module.backbone.video_mod_embed"]
    assert torch.equal(model.target_encoder.embeddings.modality.video, expected)
