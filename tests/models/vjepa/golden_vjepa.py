"""The recorded official models, brought to our names without the converter."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.vjepa.configuration_vjepa import VJepaConfig
from hf_jepa.models.vjepa.modeling_vjepa import VJepaForPreTraining


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/vjepa"
PARTS = {"encoder": "context_encoder", "target_encoder": "vjepa", "predictor": "predictor"}
NAMES = (
    (r"module\.backbone\.", ""),
    (r"predictor_pos_embed", "embeddings.position_embeddings"),
    (r"predictor_embed", "embeddings.predictor_embeddings"),
    (r"predictor_blocks", "layer"),
    (r"predictor_norm", "layernorm"),
    (r"predictor_proj", "proj"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"patch_embed\.", "embeddings.patch_embeddings."),
    (r"^blocks", "layer"),
    (r"^norm\.", "layernorm."),
    (r"\.attn\.", ".attention."),
)


def to_ours(entry: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Official tensors of an entry of the checkpoint (all of them or some) under the names of our model."""
    found, mask_tokens = {}, {}
    for key, value in state.items():
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        if "qkv" in key:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            found |= {key.replace("qkv", name): part for name, part in parts}
        elif key.startswith("mask_tokens"):
            mask_tokens[key] = value
        else:
            found[key] = value
    if mask_tokens:
        found["embeddings.mask_tokens"] = torch.stack([mask_tokens[key] for key in sorted(mask_tokens)])
    return {f"{PARTS[entry]}.{key}": value for key, value in found.items()}


def recorded(case: str, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors `<prefix>.<entry>.<official name>` of a case under our names."""
    io, found = load_file(GOLDEN / case / "io.safetensors"), {}
    for entry in PARTS:
        start = f"{prefix}.{entry}."
        found |= to_ours(entry, {k.removeprefix(start): v for k, v in io.items() if k.startswith(start)})
    return found


def load(case: str, **fields) -> tuple[VJepaForPreTraining, dict[str, torch.Tensor], dict]:
    """The model of a case, its recorded tensors and its settings."""
    settings = json.loads((GOLDEN / case / "config.json").read_text())
    official = read_torch_checkpoint(GOLDEN / case / "checkpoint.pt")
    config = VJepaConfig(
        crop_size=settings["img_size"],
        patch_size=settings["patch_size"],
        frames_per_clip=settings["num_frames"],
        tubelet_size=settings["tubelet_size"],
        hidden_size=settings["embed_dim"],
        num_hidden_layers=settings["depth"],
        num_attention_heads=settings["num_heads"],
        mlp_ratio=settings["mlp_ratio"],
        uniform_power=settings["uniform_power"],
        pred_hidden_size=settings.get("pred_embed_dim", 24),
        pred_num_hidden_layers=settings.get("pred_depth", 1),
        pred_num_mask_tokens=settings.get("num_mask_tokens", 2),
        **fields,
    )
    torch.manual_seed(0)
    model = VJepaForPreTraining(config)
    state = model.state_dict()
    expected = {key for key in state if "predictor" in official or not key.startswith("predictor.")}
    converted = {}
    for entry in PARTS:
        converted |= to_ours(entry, official.get(entry, {}))
    assert set(converted) == expected
    model.load_state_dict(state | converted)
    return model, load_file(GOLDEN / case / "io.safetensors"), settings
