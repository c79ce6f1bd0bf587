"""Official LeWorldModel checkpoints <-> ours: the key table, and an architecture read off tensors.

A released folder has `weights.pt`, one plain state dict, and a `config.json`, which `config_tree_lewm.py` reads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_jepa.core.conversion import Entry, OfficialLayout, State, count, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, Split, some
from hf_jepa.models.lewm.config_tree_lewm import ENCODER_FIELDS, HEAD_DIM, VIT_SIZES
from hf_jepa.models.lewm.configuration_lewm import PUBLISHED_ENCODER, LeWorldModelConfig
from hf_jepa.models.lewm.modeling_lewm import LeWorldModelForPreTraining


# The ViT of transformers is saved under the names that it had until version 5; files of later ones have those of now.
BLOCK, LATER_BLOCK, LAYER = "encoder.encoder.layer.{i}", "encoder.layers.{i}", "encoder.layers.{i}"
VIT_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
PREDICTOR_BLOCK, PREDICTOR_LAYER = "predictor.transformer.layers.{i}", "predictor.layers.{i}"
PREDICTOR_NAMES = {
    "attn.norm": "attention.norm",
    "attn.to_out.0": "attention.o_proj",
    "mlp.net.0": "mlp.norm",
    "mlp.net.1": "mlp.fc1",
    "mlp.net.4": "mlp.fc2",
    "adaLN_modulation.1": "modulation",
}
KEYS = KeyMap(
    (
        *(Rename(f"{BLOCK}.{official}.*", f"{LAYER}.{ours}.*") for official, ours in VIT_NAMES.items()),
        Rename(f"{LATER_BLOCK}.*", f"{LAYER}.*"),
        Rename("encoder.embeddings.*", "encoder.embeddings.*"),
        Rename("encoder.layernorm.*", "encoder.layernorm.*"),
        Rename("projector.net.*", "projector.*"),
        Rename("pred_proj.net.*", "prediction_projector.*"),
        Rename("action_encoder.patch_embed.*", "action_encoder.smoothing.*"),
        Rename("action_encoder.embed.0.*", "action_encoder.fc1.*"),
        Rename("action_encoder.embed.2.*", "action_encoder.fc2.*"),
        Rename("predictor.pos_embedding", "predictor.position_embeddings"),
        Rename("predictor.transformer.norm.*", "predictor.layernorm.*"),
        Split(
            f"{PREDICTOR_BLOCK}.attn.to_qkv.weight",
            tuple(f"{PREDICTOR_LAYER}.attention.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")),
        ),
        *(
            Rename(f"{PREDICTOR_BLOCK}.{official}.*", f"{PREDICTOR_LAYER}.{ours}.*")
            for official, ours in PREDICTOR_NAMES.items()
        ),
    )
)
PARTS = ("encoder", "predictor", "action_encoder", "projector", "pred_proj")
PUBLISHED_INNER = (192, 1024)  # width of the predictor and of its attention


@dataclass(frozen=True)
class _WeightsFile(OfficialLayout):
    """A layout whose files are one flat state dict, which is taken for its only entry."""

    def present(self, checkpoint: object) -> list[str]:
        return super().present(_as_entry(checkpoint))

    def parts(self, checkpoint: object) -> dict[str, dict[str, torch.Tensor]]:
        if (entry := _as_entry(checkpoint)) is None:
            found = type(checkpoint).__name__
            if isinstance(checkpoint, Mapping):
                found = some(sorted(map(str, checkpoint)))
            raise ConversionError(
                f"not an official {self.title}: expected one state dict with keys of {', '.join(PARTS)}, found {found}"
            )
        state = entry["target_encoder"]
        if any(key.startswith("encoder.layers.") for key in state) and any(
            key.startswith("encoder.encoder.") for key in state
        ):
            raise ConversionError(f"not an official {self.title}: its encoder has names of two versions of ViT")
        return super().parts(entry)

    def fits(self, checkpoint: object) -> None:
        known = ("backbone_config", "pred_num_attention_heads", "pred_head_dim")  # one head suits every width
        read = _read(self.parts(checkpoint)["target_encoder"], None)
        self.convert(checkpoint, self.infer_config(checkpoint, **{name: read[name] for name in known}))

    def fields_not_in_layout(self, config: PreTrainedConfig, official: object) -> dict[str, Any]:
        default = self.config_class()
        lost = {name: getattr(config, name) for name in (*self.untold, "pred_num_attention_heads", "pred_head_dim")}
        lost = {name: value for name, value in lost.items() if value != getattr(default, name)}
        encoder = {name: getattr(config.backbone_config, name) for name in ENCODER_FIELDS}
        if encoder != {name: getattr(default.backbone_config, name) for name in ENCODER_FIELDS}:
            lost["backbone_config"] = {"model_type": "vit"} | encoder
        return lost

    def unused(self, checkpoint: Mapping) -> list[str]:
        return []

    def revert(self, state: State, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
        """Our tensors -> the flat state dict of a `weights.pt`."""
        if config.backbone_config.model_type != "vit":
            raise ConversionError(
                f"the encoder is of type {config.backbone_config.model_type!r}, official files have a 'vit'"
            )
        return super().revert(state, config)["target_encoder"]


def _as_entry(checkpoint: object) -> dict[str, Mapping] | None:
    """A flat state dict as the entry of a layout, which it may be already; None where it is something else."""
    state = checkpoint
    if isinstance(checkpoint, Mapping) and checkpoint.keys() == {"target_encoder"}:
        state = checkpoint["target_encoder"]
    if not isinstance(state, Mapping) or "predictor.pos_embedding" not in state:
        return None
    if any(str(key).split(".")[0] not in PARTS for key in state):
        return None
    return {"target_encoder": state}


def _read(state: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell; frames are taken to be square."""
    block = BLOCK if any(key.startswith("encoder.encoder.") for key in state) else LATER_BLOCK
    first = block.replace("{i}", "0")
    query, fc1 = ("attention.attention.query", "intermediate.dense")
    if block == LATER_BLOCK:
        query, fc1 = VIT_NAMES[query], VIT_NAMES[fc1]
    width, channels, patch, _ = sizes(
        state, "encoder.embeddings.patch_embeddings.projection.weight", "width channels height width"
    )
    _, positions, _ = sizes(state, "encoder.embeddings.position_embeddings", "one positions width")
    hidden, _ = sizes(state, f"{first}.{fc1}.weight", "hidden width")
    _, window, size = sizes(state, "predictor.pos_embedding", "one frames width")
    start = PREDICTOR_BLOCK.replace("{i}", "0")
    qkv, _ = sizes(state, f"{start}.attn.to_qkv.weight", "queries_keys_values width")
    mlp, _ = sizes(state, f"{start}.mlp.net.1.weight", "hidden width")
    proj, _ = sizes(state, "projector.net.0.weight", "hidden width")
    smoothed, action_dim, _ = sizes(state, "action_encoder.patch_embed.weight", "smoothed actions one")
    action_hidden, _ = sizes(state, "action_encoder.embed.0.weight", "hidden smoothed")
    known = {sizes_[0]: sizes_[2] for sizes_ in VIT_SIZES.values()}
    inner = qkv // 3
    heads, head_dim = (inner // HEAD_DIM, HEAD_DIM) if inner % HEAD_DIM == 0 else (1, inner)  # see `_check`
    return {
        "backbone_config": PUBLISHED_ENCODER
        | {
            "hidden_size": width,
            "num_hidden_layers": count(state, block.replace("{i}", "")),
            "num_attention_heads": known.get(width, 1),  # refused by `_check` where it is a guess
            "intermediate_size": hidden,
            "image_size": math.isqrt(max(positions - 1, 0)) * patch,
            "patch_size": patch,
            "num_channels": channels,
            "qkv_bias": f"{first}.{query}.bias" in state,
        },
        "hidden_size": size,
        "proj_hidden_size": proj,
        "action_dim": action_dim,
        "frame_skip": 5 if action_dim % 5 == 0 else 1,
        "frames_per_clip": window + 1,
        "context_frames": window,
        "action_smoothed_size": smoothed,
        "action_mlp_ratio": action_hidden // size,
        "pred_num_hidden_layers": count(state, PREDICTOR_BLOCK.replace("{i}", "")),
        "pred_num_attention_heads": heads,
        "pred_head_dim": head_dim,
        "pred_intermediate_size": mlp,
    }


def _check(parts: Mapping[str, State], config: PreTrainedConfig, given: frozenset[str]) -> None:
    """Numbers of heads leave no trace in the tensors: where the sizes are not named ones, they must be given."""
    width = config.backbone_config.hidden_size
    if "backbone_config" not in given and width not in {size[0] for size in VIT_SIZES.values()}:
        raise ConversionError(
            f"an encoder of width {width} is no named size, so its number of attention heads cannot be known: give "
            "all fields of backbone_config by --config, or convert a folder with its config.json"
        )
    qkv = sizes(parts["target_encoder"], f"{PREDICTOR_BLOCK}.attn.to_qkv.weight".replace("{i}", "0"), "qkv width")[0]
    named = (config.hidden_size, qkv // 3) == PUBLISHED_INNER
    if not named and not {"pred_num_attention_heads", "pred_head_dim"} <= given:
        raise ConversionError(
            f"a predictor of width {config.hidden_size} with an attention of width {qkv // 3} is no named size, so "
            "its number of attention heads cannot be known: give pred_num_attention_heads and pred_head_dim by "
            "--config, or convert a folder with its config.json"
        )


UNTOLD = (
    *("frame_skip", "frames_per_clip", "pooling", "pred_dropout"),
    *("loss_type", "sigreg_weight", "sigreg_num_slices"),
)
LAYOUT = _WeightsFile(
    title="LeWorldModel checkpoint",
    config_class=LeWorldModelConfig,
    model_class=LeWorldModelForPreTraining,
    entries={"target_encoder": Entry(KEYS, "lewm")},
    required=("target_encoder",),
    wrappers=(),
    read=_read,
    heads={},
    untold=UNTOLD,
    check=_check,
)


__all__ = ["KEYS", "LAYOUT"]
