"""Official data2vec checkpoints of images (fairseq) <-> ours: the key table, and a config read off file and tensors.

The official file has the student under "model", flat, and in it, as "_ema", the teacher's transformer.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.data2vec.modeling_data2vec_vision import Data2VecVisionRelativePositionBias

from hf_jepa.core.conversion import Entry, OfficialLayout, State, count, require_tensors, sizes
from hf_jepa.core.key_map import ConversionError, Drop, KeyMap, Rename, Split
from hf_jepa.models.data2vec_vision.configuration_data2vec_vision import Data2VecVisionConfig
from hf_jepa.models.data2vec_vision.modeling_data2vec_vision import Data2VecVisionForPreTraining


STUDENT, TEACHER = "target_encoder", "_ema"  # the former is the entry that `AutoModel` loads, in the terms of layouts
TABLE, INDEX = "rel_pos_bias.relative_position_bias_table", "rel_pos_bias.relative_position_index"
HEAD = "final_proj"  # the official model has it and never uses it


def _transformer(prefix: str) -> tuple[Rename | Split, ...]:
    """The rules of the transformer, the same in student and teacher."""
    block, layer = f"{prefix}blocks.{{i}}", "encoder.layer.{i}"
    attention = f"{layer}.attention.attention"
    return (
        Rename(f"{prefix}{TABLE}", "encoder.relative_position_bias.relative_position_bias_table"),
        Rename(f"{block}.gamma_1", f"{layer}.lambda_1"),
        Rename(f"{block}.gamma_2", f"{layer}.lambda_2"),
        Rename(f"{block}.norm1.*", f"{layer}.layernorm_before.*"),
        Split(f"{block}.attn.qkv.weight", tuple(f"{attention}.{part}.weight" for part in ("query", "key", "value"))),
        Rename(f"{block}.attn.q_bias", f"{attention}.query.bias"),
        Rename(f"{block}.attn.v_bias", f"{attention}.value.bias"),
        Rename(f"{block}.attn.proj.*", f"{layer}.attention.output.dense.*"),
        Rename(f"{block}.norm2.*", f"{layer}.layernorm_after.*"),
        Rename(f"{block}.mlp.0.*", f"{layer}.intermediate.dense.*"),
        Rename(f"{block}.mlp.2.*", f"{layer}.output.dense.*"),
        Rename(f"{prefix}norm.*", "layernorm.*"),
    )


STUDENT_KEYS = KeyMap(
    (
        Rename("cls_emb", "embeddings.cls_token"),
        Rename("mask_emb", "embeddings.mask_token"),
        Rename("patch_embed.conv.*", "embeddings.patch_embeddings.projection.*"),
        *_transformer("encoder."),
        Drop(f"{HEAD}.*"),
    )
)
TEACHER_KEYS = KeyMap(_transformer(""))

# Entries of the official config -> our fields, where both mean the same.
SETTINGS = {
    "average_top_k_layers": "top_k_layers",
    "loss_beta": "loss_beta",
    "loss_scale": "loss_scale",
    "drop_path": "drop_path_rate",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_scale_init_value": "layer_scale_init_value",
}
# Flags of the official config -> our field and its value where the flag is set.
FLAGS = {
    "layer_norm_targets": ("target_normalization", "layer_norm"),
    "layer_norm_target_layer": ("layer_target_normalization", "layer_norm"),
    "instance_norm_target_layer": ("layer_target_normalization", "instance_norm"),
    "batch_norm_target_layer": ("layer_target_normalization", "batch_norm"),
}
OTHER_OBJECTIVES = {"end_of_block_targets": True, "instance_norm_targets": False, "shared_rel_pos_bias": True}


def position_index(side: int) -> torch.Tensor:
    """Row of the table of relative positions for each pair of tokens, class token first: int64 (1 + N, 1 + N)."""
    return Data2VecVisionRelativePositionBias.generate_relative_position_index((side, side))


class Data2VecVisionLayout(OfficialLayout):
    """The official layout, in which the teacher is nested in the student and settings stand in the file."""

    def present(self, checkpoint: object) -> list[str]:
        return super().present(_entries(checkpoint))

    def parts(self, checkpoint: object) -> dict[str, dict[str, torch.Tensor]]:
        entries = {name: _without_index(entry) for name, entry in _entries(checkpoint).items()}
        if not entries:
            raise ConversionError(f"not an official {self.title}: it has no entry 'model' that holds 'cls_emb'")
        for name, entry in entries.items():
            require_tensors(entry, name)
        return {name: dict(entry) for name, entry in entries.items()}

    def unused(self, checkpoint: Mapping) -> list[str]:
        """The entries of a file that are not read."""
        return [key for key in checkpoint if key not in ("model", "cfg")]

    def infer_config(self, checkpoint: object, **overrides) -> PreTrainedConfig:
        """As in `OfficialLayout`; what the file says about the objective is read as well."""
        return super().infer_config(checkpoint, **(_settings(checkpoint) | overrides))

    def revert(self, state: State, config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
        """As in `OfficialLayout`; the unused head, which the official code wants to find, is written as identity."""
        if config.pred_num_layers:
            raise ConversionError(
                f"the official model has no head, this one has pred_num_layers {config.pred_num_layers}"
            )
        reverted = super().revert(state, config)
        index, width = position_index(config.grid_size[0]), config.hidden_size
        model: dict[str, Any] = dict(reverted[STUDENT])
        model |= {f"encoder.{INDEX}": index, f"{HEAD}.weight": torch.eye(width), f"{HEAD}.bias": torch.zeros(width)}
        if TEACHER in reverted:
            model["_ema"] = reverted[TEACHER] | {INDEX: index.clone()}
        return {"model": model, "cfg": {"model": _official_settings(config)}}


def _entries(checkpoint: object) -> dict[str, object]:
    """Student and teacher side by side, which in the file are nested."""
    model = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, Mapping) or "cls_emb" not in model:
        return {}
    entries: dict[str, object] = {STUDENT: {key: value for key, value in model.items() if key != "_ema"}}
    return entries | ({TEACHER: model["_ema"]} if "_ema" in model else {})


def _without_index(entry: object) -> object:
    """An entry without the table of indices, which the model computes; it must be the one it computes."""
    if not isinstance(entry, Mapping):
        return entry
    for key in (INDEX, f"encoder.{INDEX}"):
        if key in entry:
            found = entry[key]
            side = math.isqrt(len(found) - 1) if isinstance(found, torch.Tensor) and found.ndim == 2 else 0
            if side == 0 or found.is_floating_point() or not torch.equal(found, position_index(side).to(found)):
                raise ConversionError(f"{key} is not the index of relative positions on a square grid")
    return {key: value for key, value in entry.items() if not str(key).endswith(INDEX)}


def _settings(checkpoint: object) -> dict[str, Any]:
    """Our fields that the config in the file tells; none where it has no config."""
    cfg = checkpoint.get("cfg") if isinstance(checkpoint, Mapping) else None
    model = cfg.get("model") if isinstance(cfg, Mapping) else None
    if not isinstance(model, Mapping):
        return {}
    for name, offered in OTHER_OBJECTIVES.items():
        if model.get(name, offered) != offered:
            raise ConversionError(f"the file says {name}={model[name]!r}, which is not offered here")
    fields = {ours: model[name] for name, ours in SETTINGS.items() if name in model}
    set_flags = [name for name in FLAGS if model.get(name)]
    if len({FLAGS[name][0] for name in set_flags}) < len(set_flags):
        raise ConversionError(f"the file has several normalisations of layers: {', '.join(set_flags)}")
    if any(name in model for name in FLAGS):  # flags that are not there are off
        fields |= {"target_normalization": "none", "layer_target_normalization": "none"}
    return fields | dict(FLAGS[name] for name in set_flags)


def _official_settings(config: Data2VecVisionConfig) -> dict[str, Any]:
    if config.layer_target_normalization not in ("none", *(value for _, value in FLAGS.values())):
        raise ConversionError(
            f"the official code of images has no layer_target_normalization={config.layer_target_normalization!r}"
        )
    return {
        "_name": "data2vec_vision",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "in_channels": config.num_channels,
        "depth": config.num_hidden_layers,
        "embed_dim": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        **{name: getattr(config, ours) for name, ours in SETTINGS.items()},
        **{name: getattr(config, ours) == value for name, (ours, value) in FLAGS.items()},
        **OTHER_OBJECTIVES,
    }


def _read(student: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell."""
    width, channels, patch, _ = sizes(student, "patch_embed.conv.weight", "width channels height width")
    distances, heads = sizes(student, f"encoder.{TABLE}", "distances heads")
    mlp, _ = sizes(student, "encoder.blocks.0.mlp.0.weight", "hidden width")
    side = (math.isqrt(max(distances - 3, 0)) + 1) // 2
    if (2 * side - 1) ** 2 + 3 != distances:
        raise ConversionError(f"encoder.{TABLE} of {distances} rows is not that of a square grid")
    fields = {
        "hidden_size": width,
        "num_hidden_layers": count(student, "encoder.blocks."),
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": side * patch,
    }
    return fields if "encoder.blocks.0.gamma_1" in student else fields | {"layer_scale_init_value": 0.0}


LAYOUT = Data2VecVisionLayout(
    title="data2vec checkpoint of images",
    config_class=Data2VecVisionConfig,
    model_class=Data2VecVisionForPreTraining,
    entries={STUDENT: Entry(STUDENT_KEYS, "data2vec_vision"), TEACHER: Entry(TEACHER_KEYS, "teacher")},
    required=(STUDENT,),
    wrappers=(),
    read=_read,
    heads={},  # they are in the shape of the table of relative positions
)

__all__ = ["LAYOUT", "STUDENT_KEYS", "TEACHER_KEYS"]
