"""Golden cases of V-JEPA 2.1, loaded into our models."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.core.key_map import KeyMap, Rename, Split
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.vjepa2_1.configuration_vjepa2_1 import VJepa21Config
from hf_jepa.models.vjepa2_1.modeling_vjepa2_1 import VJepa21ForPreTraining


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/vjepa2_1"
FIELDS = {
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_ratio": "mlp_ratio",
    "img_size": "crop_size",
    "patch_size": "patch_size",
    "num_frames": "frames_per_clip",
    "tubelet_size": "tubelet_size",
    "in_chans": "in_chans",
    "pred_embed_dim": "pred_hidden_size",
    "pred_depth": "pred_num_hidden_layers",
    "pred_num_heads": "pred_num_attention_heads",
    "num_mask_tokens": "pred_num_mask_tokens",
    "n_output_distillation": "pred_num_levels",
    "teacher_embed_dim": "teacher_hidden_size",
    "lambda_value": "context_loss_weight",
    "weight_distance_loss": "context_loss_distance",
}


def _layers(official: str) -> tuple[Rename | Split, ...]:
    block, layer = f"{official}.{{i}}", "layer.{i}"
    return (
        Split(f"{block}.attn.qkv.*", tuple(f"{layer}.attention.{part}.*" for part in ("query", "key", "value"))),
        Rename(f"{block}.attn.proj.*", f"{layer}.attention.proj.*"),
        *(Rename(f"{block}.{part}.*", f"{layer}.{part}.*") for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")),
    )


MODALITIES = (
    Rename("video_mod_embed", "embeddings.modality.video"),
    Rename("img_mod_embed", "embeddings.modality.image"),
)
ENCODER = KeyMap(
    (
        *MODALITIES,
        Rename("patch_embed.proj.*", "embeddings.patch_embeddings.proj.*"),
        Rename("patch_embed_img.proj.*", "embeddings.image_patch_embeddings.proj.*"),
        *_layers("blocks"),
        Rename("norms_block.3.*", "layernorm.*"),
        Rename("norms_block.{i}.*", "level_layernorms.{i}.*"),
    )
)
PREDICTOR = KeyMap(
    (
        *MODALITIES,
        Rename("predictor_embed.*", "embeddings.predictor_embeddings.*"),
        Rename("mask_tokens", "embeddings.mask_tokens"),
        *_layers("predictor_blocks"),
        Rename("predictor_norm.*", "layernorm.*"),
        Rename("predictor_proj.*", "proj.*"),
        Rename("predictor_proj_context.*", "proj_context.*"),
    )
)


def from_official(key_map: KeyMap, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {key.removeprefix("module.backbone."): value for key, value in state.items()}
    tokens = [state.pop(key) for key in sorted(state) if key.startswith("mask_tokens.")]
    return key_map.to_ours(state | ({"mask_tokens": torch.stack(tokens)} if tokens else {}))


def named(model: VJepa21ForPreTraining, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values by our parameter names (gradients, weights) by official names."""
    parts = {
        "encoder": (ENCODER, "context_encoder."),
        "target_encoder": (ENCODER, "vjepa2_1.encoder."),
        "predictor": (PREDICTOR, "vjepa2_1.predictor."),
    }
    found = {}
    for entry, (key_map, prefix) in parts.items():
        holder = {n: torch.zeros_like(p) for n, p in model.state_dict().items() if n.startswith(prefix)}
        holder |= {name: value for name, value in values.items() if name.startswith(prefix)}
        official = key_map.to_official({name.removeprefix(prefix): value for name, value in holder.items()})
        tokens = official.pop("mask_tokens", ())
        official |= {f"mask_tokens.{i}": token for i, token in enumerate(tokens)}
        found |= {f"{entry}.{key}": value for key, value in official.items()}
    return found


def load(case: str) -> SimpleNamespace:
    """A golden case: its model, its numbers, its settings."""
    settings = json.loads((GOLDEN / case / "config.json").read_text(encoding="utf-8"))
    official = read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")
    config = VJepa21Config(**{ours: settings[name] for name, ours in FIELDS.items() if name in settings})
    model = VJepa21ForPreTraining(config)
    model.context_encoder.load_state_dict(from_official(ENCODER, official["encoder"]))
    target = official["target_encoder" if "target_encoder" in official else "ema_encoder"]
    model.target_encoder.load_state_dict(from_official(ENCODER, target))
    if "predictor" in official:
        model.predictor.load_state_dict(from_official(PREDICTOR, official["predictor"]))
    io = load_file(GOLDEN / case / "io.safetensors")
    for name in ("video", "image", "clips", "video_other_size"):
        if name in io:
            io[name] = io[name].transpose(1, 2)  # (B, C, T, H, W), ours is (B, T, C, H, W)
    return SimpleNamespace(model=model.eval(), io=io, settings=settings)


@pytest.fixture(scope="session")
def golden():
    """Gives a golden case by its name."""
    return load


@pytest.fixture(scope="session")
def official_names():
    return named
