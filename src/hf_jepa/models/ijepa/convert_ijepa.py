"""Official I-JEPA checkpoints <-> ours: the key table, and an architecture read off the tensors."""

from collections.abc import Mapping
from typing import get_args

import torch
from huggingface_hub.errors import StrictDataclassError

from hf_jepa.core.configuration import model_fields, require_model_fields
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, Split, require_same_keys
from hf_jepa.layers.patch_embedding import pair
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
# Official entry -> its map and the part of our model it becomes.
OFFICIAL = {
    "encoder": (ENCODER, "context_encoder"),
    "target_encoder": (ENCODER, "ijepa"),
    "predictor": (PREDICTOR, "predictor"),
}
TARGET_KEYS = ("target_encoder", "encoder")
# The fixed position tables, and how far from ours one may be (root mean square): those of other grids are farther.
TABLES = {"encoder": "pos_embed", "target_encoder": "pos_embed", "predictor": "predictor_pos_embed"}
TABLE_TOLERANCE = 0.1
# The released files, told apart by (width, depth, patch size, grid size); two of them share one architecture.
RELEASED = {
    (1280, 32, (14, 14), (16, 16)): ("IN1K-vit.h.14-300e.pth.tar", "IN22K-vit.h.14-900e.pth.tar"),
    (1280, 32, (16, 16), (28, 28)): ("IN1K-vit.h.16-448px-300e.pth.tar",),
    (1408, 40, (16, 16), (14, 14)): ("IN22K-vit.g.16-600e.pth.tar",),
}
# Passes over the data of the two that share one, which a file keeps under "epoch".
EPOCHS = {"IN1K-vit.h.14-300e.pth.tar": 300, "IN22K-vit.h.14-900e.pth.tar": 66}
# The fields that can be read off the tensors; `image_size` by the values of the position table.
READ_OFF = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_channels",
    "patch_size",
    "image_size",
    "qkv_bias",
    "pred_hidden_size",
    "pred_num_hidden_layers",
    "pred_mlp_ratio",
)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def entries(checkpoint: Mapping) -> dict[str, dict[str, torch.Tensor]]:
    """The three state dicts of an official checkpoint, without the `module.` that data parallelism puts before keys.

    Raises:
        ConversionError: an entry is missing or is not a state dict, or a tensor is not one of dense floating numbers.
    """
    if not isinstance(checkpoint, Mapping) or (missing := [name for name in OFFICIAL if name not in checkpoint]):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ConversionError(
            f"not an official I-JEPA checkpoint: expected the entries {', '.join(OFFICIAL)}; found {found}"
            + (f"; missing: {', '.join(missing)}" if isinstance(checkpoint, Mapping) else "")
        )
    parts = {}
    for name in OFFICIAL:
        state = checkpoint[name]
        if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()) or not state:
            raise ConversionError(f"entry {name!r} of the checkpoint is not a state dict of tensors")
        for key, value in state.items():
            if value.layout != torch.strided or value.dtype not in FLOATS or not value.numel():
                raise ConversionError(
                    f"{key} of entry {name!r} is not a dense tensor of floating-point numbers, but of shape "
                    f"{tuple(value.shape)}, {value.dtype}, {value.layout}"
                )
        parts[name] = {str(key).removeprefix("module."): value for key, value in state.items()}
        if len(parts[name]) < len(state):
            raise ConversionError(f"entry {name!r} of the checkpoint holds keys both with and without 'module.'")
    return parts


def infer_config(checkpoint: Mapping, **overrides) -> IJepaConfig:
    """Read the architecture off the tensors of an official checkpoint.

    Args:
        checkpoint: the loaded file.
        overrides: config fields that complete or override what is read; `num_attention_heads` must be given where
            width and depth are not those of a named size, because heads leave no trace in the tensors.

    Raises:
        ConversionError: a tensor that decides the architecture is missing or of another rank, heads cannot be known,
            an override does not fit, or a position table is not that of the config's grid.
        ValueError: an override is no field of the model.
    """
    require_model_fields(IJepaConfig, overrides)
    parts = entries(checkpoint)
    encoder, predictor = parts["encoder"], parts["predictor"]
    try:
        width, channels, height, breadth = encoder["patch_embed.proj.weight"].shape
        table = encoder["pos_embed"]
        mlp = encoder["blocks.0.mlp.fc1.weight"].shape[0]
        pred_width = predictor["predictor_embed.weight"].shape[0]
        pred_mlp = predictor["predictor_blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise ConversionError(f"not an official I-JEPA checkpoint: it has no tensor {error}") from error
    except (IndexError, ValueError) as error:
        deciding = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", "predictor_embed.weight")
        shapes = {key: tuple(value.shape) for key, value in (encoder | predictor).items() if key in deciding}
        raise ConversionError(f"not an official I-JEPA checkpoint of images: its tensors have {shapes}") from error
    rows, columns = _table_grid(table, "encoder")
    read = {
        "hidden_size": width,
        "num_hidden_layers": _depth(encoder, "blocks."),
        "intermediate_size": mlp,
        "num_channels": channels,
        "patch_size": _side(height, breadth),
        "image_size": _side(rows * height, columns * breadth),
        "qkv_bias": "blocks.0.attn.qkv.bias" in encoder,
        "pred_hidden_size": pred_width,
        "pred_num_hidden_layers": _depth(predictor, "predictor_blocks."),
        "pred_mlp_ratio": pred_mlp / pred_width,
    }
    if "num_attention_heads" not in overrides:
        read["num_attention_heads"] = _named_heads(width, read["num_hidden_layers"])
        if read["num_attention_heads"] is None:
            raise ConversionError(
                f"width {width} and depth {read['num_hidden_layers']} are no named size, so the number of attention "
                "heads cannot be known: give --num-attention-heads"
            )
    try:
        config = IJepaConfig(**(read | {name: _number(name, value) for name, value in overrides.items()}))
    except StrictDataclassError as error:
        raise ConversionError(f"{error.__cause__ or error}") from error
    for name, part in parts.items():
        table = part.get(TABLES[name])  # a missing one is for `convert` to report
        if table is not None and (grid := _table_grid(table, name)) != config.grid_size:
            raise ConversionError(
                f"{TABLES[name]} of entry {name!r} is the table of a grid of {grid[0]}x{grid[1]}, but image_size "
                f"{config.image_size} and patch_size {config.patch_size} give {'x'.join(map(str, config.grid_size))}"
            )
    return config


def _named_heads(width: int, depth: int) -> int | None:
    """The attention heads of the named size of this width and depth, if there is one."""
    shapes = {(s["hidden_size"], s["num_hidden_layers"]): s["num_attention_heads"] for s in SIZES.values()}
    return shapes.get((width, depth))


def _number(name: str, value):
    """A number that YAML takes for text, such as 1e-6, where the field is a number with a fraction."""
    hint = model_fields(IJepaConfig)[name]
    if isinstance(value, str) and float in (hint, *get_args(hint)):
        try:
            return float(value)
        except ValueError as error:
            raise ConversionError(f"{name} is {value!r}, expected a number") from error
    return value


def _side(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]


def _table_grid(table: torch.Tensor, entry: str) -> tuple[int, int]:
    """The (rows, columns) that the fixed sine-cosine table of an entry was made for, recognised by its values."""
    if table.ndim == 3 and len(table) == 1 and table.shape[2] % 4 == 0:
        tokens, dim = table.shape[1:]
        grids = [(rows, tokens // rows) for rows in range(1, tokens + 1) if tokens % rows == 0]
        distances = [(table.float() - sincos_2d(dim, grid)).square().mean().sqrt().item() for grid in grids]
        if min(distances) < TABLE_TOLERANCE:
            return grids[distances.index(min(distances))]
    raise ConversionError(
        f"not an official I-JEPA checkpoint of images: {TABLES[entry]} of entry {entry!r}, of shape "
        f"{tuple(table.shape)}, is not the sine-cosine table of any grid"
    )


def _depth(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of blocks, counted: the highest index could be a stray key that asks for a million layers."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def convert(checkpoint: Mapping, config: IJepaConfig, target_key: str = "target_encoder") -> dict[str, torch.Tensor]:
    """Official checkpoint -> state dict of `IJepaForPreTraining`; tensors are views of the official ones.

    Args:
        checkpoint: the loaded file.
        config: its architecture, from `infer_config`.
        target_key: official entry that becomes the target encoder, the one `AutoModel` loads: "target_encoder", which
            the paper evaluates, or "encoder", which the encoder-only repositories on the Hub hold.

    Raises:
        ConversionError: anything missing, unexpected or of another shape.
    """
    if target_key not in TARGET_KEYS:
        raise ConversionError(f"target key {target_key!r} is not one of {', '.join(TARGET_KEYS)}")
    parts, state = entries(checkpoint), {}
    with torch.device("meta"):
        model = IJepaForPreTraining(config)
    for name, (key_map, ours) in OFFICIAL.items():
        source = parts[target_key] if name == "target_encoder" else parts[name]
        converted = key_map.to_ours(source)
        require_same_keys(converted, model.get_submodule(ours).state_dict(), f"entry {name!r}")
        state |= {f"{ours}.{key}": value for key, value in converted.items()}
    return state


def revert(state: Mapping[str, torch.Tensor], config: IJepaConfig) -> dict[str, dict[str, torch.Tensor]]:
    """Our tensors -> the three entries of an official checkpoint, keys prefixed by `module.` as in the released files.

    Args:
        state: the state dict of an `IJepaForPreTraining`.
        config: its architecture.

    Raises:
        ConversionError: anything missing, as the predictor of an encoder-only checkpoint, unexpected or of another
            shape.
    """
    with torch.device("meta"):
        model = IJepaForPreTraining(config)
    require_same_keys(state, model.state_dict(), "checkpoint")
    official = {}
    for name, (key_map, ours) in OFFICIAL.items():
        prefix = f"{ours}."
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        official[name] = {f"module.{key}": value for key, value in key_map.to_official(part).items()}
    return official


def fields_not_in_layout(config: IJepaConfig) -> dict:
    """The config fields that `infer_config` cannot read off the tensors and would guess otherwise."""
    known = {name: getattr(config, name) for name in READ_OFF}
    guessed = IJepaConfig(**known, num_attention_heads=config.num_attention_heads)
    lost = {
        name: getattr(config, name)
        for name in model_fields(IJepaConfig)
        if getattr(config, name) != getattr(guessed, name)
    }
    if _named_heads(config.hidden_size, config.num_hidden_layers) != config.num_attention_heads:
        lost["num_attention_heads"] = config.num_attention_heads
    return lost


def released_names(config: IJepaConfig, epoch: int | None = None) -> tuple[str, ...]:
    """The released files of this architecture, if any; of two alike the one of so many epochs, where that is known."""
    key = (config.hidden_size, config.num_hidden_layers, pair(config.patch_size), config.grid_size)
    names = RELEASED.get(key, ())
    return tuple(name for name in names if EPOCHS.get(name) == epoch) or names


__all__ = [
    "ENCODER",
    "OFFICIAL",
    "PREDICTOR",
    "TARGET_KEYS",
    "convert",
    "entries",
    "fields_not_in_layout",
    "infer_config",
    "released_names",
    "revert",
]
