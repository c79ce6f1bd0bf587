"""Official I-JEPA checkpoints <-> ours: the key table, and an architecture read off the tensors."""

from collections.abc import Mapping
from typing import Any

import torch

from hf_jepa.core.conversion import Entry, Heads, OfficialLayout, Release, State, count, side, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, Split
from hf_jepa.layers.position import sincos_2d
from hf_jepa.models.ijepa.configuration_ijepa import SIZES, IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining


def _layers(official: str, ours: str) -> tuple[Rename | Split, ...]:
    """The rules of a transformer stack, the same in encoder and predictor."""
    block, layer = f"{official}.{{i}}", f"{ours}.{{i}}"
    return (
        Rename(f"{block}.norm1.*", f"{layer}.layernorm_before.*"),
        Split(f"{block}.attn.qkv.*", tuple(f"{layer}.attention.{part}_proj.*" for part in "qkv")),
        Rename(f"{block}.attn.proj.*", f"{layer}.attention.o_proj.*"),
        Rename(f"{block}.norm2.*", f"{layer}.layernorm_after.*"),
        Rename(f"{block}.mlp.fc1.*", f"{layer}.mlp.fc1.*"),
        Rename(f"{block}.mlp.fc2.*", f"{layer}.mlp.fc2.*"),
    )


ENCODER = KeyMap(
    (
        Rename("pos_embed", "embeddings.position_embeddings"),
        Rename("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
        *_layers("blocks", "layers"),
        Rename("norm.*", "layernorm.*"),
    )
)
PREDICTOR = KeyMap(
    (
        Rename("mask_token", "mask_token"),
        Rename("predictor_pos_embed", "position_embeddings"),
        Rename("predictor_embed.*", "embed.*"),
        *_layers("predictor_blocks", "layers"),
        Rename("predictor_norm.*", "layernorm.*"),
        Rename("predictor_proj.*", "proj.*"),
    )
)
# How far from ours a fixed position table may be (root mean square): those of other grids are farther.
TABLE_TOLERANCE = 0.1


def _read(encoder: State, predictor: State) -> dict[str, Any]:
    """The config fields that the tensors tell; `image_size` by the values of the position table."""
    width, channels, height, breadth = sizes(encoder, "patch_embed.proj.weight", "width channels height width")
    sizes(encoder, "pos_embed", "1 tokens width")
    rows, columns = _table_grid(encoder["pos_embed"], "encoder")
    mlp, _ = sizes(encoder, "blocks.0.mlp.fc1.weight", "hidden width")
    pred_width, _ = sizes(predictor, "predictor_embed.weight", "width encoder_width")
    pred_mlp, _ = sizes(predictor, "predictor_blocks.0.mlp.fc1.weight", "hidden width")
    return {
        "hidden_size": width,
        "num_hidden_layers": count(encoder, "blocks."),
        "intermediate_size": mlp,
        "num_channels": channels,
        "patch_size": side(height, breadth),
        "image_size": side(rows * height, columns * breadth),
        "qkv_bias": "blocks.0.attn.qkv.bias" in encoder,
        "pred_hidden_size": pred_width,
        "pred_num_hidden_layers": count(predictor, "predictor_blocks."),
        "pred_mlp_ratio": pred_mlp / pred_width,
    }


def _table_name(entry: str) -> str:
    return "predictor_pos_embed" if entry == "predictor" else "pos_embed"


def _check_tables(parts: Mapping[str, State], config: IJepaConfig, given: frozenset[str]) -> None:
    for name, part in parts.items():
        table = part.get(_table_name(name))  # a missing one is for `convert` to report
        if table is not None and (grid := _table_grid(table, name)) != config.grid_size:
            raise ConversionError(
                f"{_table_name(name)} of entry {name!r} is the table of a grid of {grid[0]}x{grid[1]}, but image_size "
                f"{config.image_size} and patch_size {config.patch_size} give {'x'.join(map(str, config.grid_size))}"
            )


def _table_grid(table: torch.Tensor, entry: str) -> tuple[int, int]:
    """The (rows, columns) that the fixed sine-cosine table of an entry was made for, recognised by its values."""
    if table.ndim == 3 and len(table) == 1 and table.shape[2] % 4 == 0:
        tokens, dim = table.shape[1:]
        grids = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
        distances = [(table.float() - sincos_2d(dim, grid)).square().mean().sqrt().item() for grid in grids]
        if min(distances) < TABLE_TOLERANCE:
            return grids[distances.index(min(distances))]
    raise ConversionError(
        f"{_table_name(entry)} of entry {entry!r}, of shape {tuple(table.shape)}, is not the sine-cosine table of any "
        "grid"
    )


def _release(width: int, depth: int, patch: int, image: int, epoch: int | None = None) -> Release:
    fields = {"hidden_size": width, "num_hidden_layers": depth, "patch_size": patch, "image_size": image}
    return Release(fields, epoch=epoch)


LAYOUT = OfficialLayout(
    title="I-JEPA checkpoint of images",
    config_class=IJepaConfig,
    model_class=IJepaForPreTraining,
    entries={
        "encoder": Entry(ENCODER, "context_encoder"),
        "target_encoder": Entry(ENCODER, "ijepa"),
        "predictor": Entry(PREDICTOR, "predictor"),
    },
    required=("encoder", "target_encoder", "predictor"),
    wrappers=("module.",),
    read=_read,
    heads={"num_attention_heads": Heads.of_sizes(SIZES)},
    check=_check_tables,
    released={
        # Two share one architecture; 900 epochs of the name are 66 passes over the data.
        "IN1K-vit.h.14-300e.pth.tar": _release(1280, 32, 14, 224, epoch=300),
        "IN22K-vit.h.14-900e.pth.tar": _release(1280, 32, 14, 224, epoch=66),
        "IN1K-vit.h.16-448px-300e.pth.tar": _release(1280, 32, 16, 448),
        "IN22K-vit.g.16-600e.pth.tar": _release(1408, 40, 16, 224),
    },
)

__all__ = ["ENCODER", "LAYOUT", "PREDICTOR"]
