"""Official V-JEPA checkpoints <-> ours: the key table, and an architecture read off the tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hf_jepa.core.clips import Grid
from hf_jepa.core.conversion import Entry, Heads, OfficialLayout, Release, State, side, sizes
from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, Stack
from hf_jepa.core.probe_conversion import FIRST_PROBE, ProbeLayout, Protocol
from hf_jepa.core.video_conversion import block_rules, encoder_fields, mask_token_fields, predictor_fields
from hf_jepa.layers.patch_embedding import pair
from hf_jepa.layers.position import sincos_3d
from hf_jepa.models.vjepa.configuration_vjepa import VJepaConfig
from hf_jepa.models.vjepa.modeling_vjepa import VJepaForPreTraining, VJepaForVideoClassification


ENCODER = KeyMap(
    (
        Rename("pos_embed", "embeddings.position_embeddings"),
        Rename("patch_embed.proj.*", "embeddings.patch_embeddings.proj.*"),
        *block_rules("blocks", gated=False),
        Rename("norm.*", "layernorm.*"),
    )
)
PREDICTOR = KeyMap(
    (
        Rename("predictor_pos_embed", "embeddings.position_embeddings"),
        Rename("predictor_embed.*", "embeddings.predictor_embeddings.*"),
        Stack("mask_tokens.{i}", "embeddings.mask_tokens"),
        *block_rules("predictor_blocks", gated=False),
        Rename("predictor_norm.*", "layernorm.*"),
        Rename("predictor_proj.*", "proj.*"),
    )
)
# How far from ours a fixed position table may be (root mean square): those of other grids are farther.
TABLE_TOLERANCE = 0.1
VJEPA2_MASK_TOKENS = 10  # of the released V-JEPA 2 files, which may hold position tables that nothing reads


def _read(encoder: State, predictor: State | None) -> dict[str, Any]:
    """The config fields that the tensors tell; sizes of clips by the values of the position table."""
    fields = encoder_fields(encoder)
    sizes(encoder, "pos_embed", "1 tokens width")
    (frames, rows, columns), uniform_power = _table_grid(encoder["pos_embed"], "pos_embed")
    patch = pair(fields["patch_size"])
    fields |= {
        "frames_per_clip": frames * fields["tubelet_size"],
        "crop_size": side(rows * patch[0], columns * patch[1]),
        "uniform_power": uniform_power,
    }
    if predictor is None:
        return fields
    return fields | predictor_fields(predictor) | mask_token_fields(predictor)


def _table_grid(table: torch.Tensor, what: str) -> tuple[Grid, bool]:
    """The (frames, rows, columns) of a fixed sine-cosine table and its `uniform_power`, recognised by its values."""
    if table.ndim == 3 and len(table) == 1:
        dim = table.shape[2]
        for uniform_power, first_of_column in ((True, 4 * -(-dim // 6)), (False, dim // 4 * 3)):
            if first_of_column >= dim or (not uniform_power and dim % 8):
                continue  # there is no such table, or one so narrow that nothing tells its columns
            grid = _likely_grid(table[0].float(), first_of_column)
            distance = (table.float() - sincos_3d(dim, grid, uniform_power)).square().mean().sqrt()
            if distance < TABLE_TOLERANCE:
                return grid, uniform_power
    raise ConversionError(f"{what}, of shape {tuple(table.shape)}, is not the sine-cosine table of any grid of clips")


def _likely_grid(table: torch.Tensor, first_of_column: int) -> Grid:
    """The grid whose frames and columns suit the first channel of each, which is the sine of the place itself.

    Looking at two channels spares making a table for each of the hundreds of ways to cut up the tokens.
    """
    tokens = len(table)

    def misfit(channel: int, places: torch.Tensor) -> float:
        return (table[:, channel] - places.sin()).square().sum().item()

    def frame_places(frames: int) -> torch.Tensor:
        return torch.arange(float(frames)).repeat_interleave(tokens // frames)

    frames = min(_divisors(tokens), key=lambda n: misfit(0, frame_places(n)))
    per_frame = tokens // frames
    columns = min(
        _divisors(per_frame), key=lambda n: misfit(first_of_column, torch.arange(float(n)).repeat(tokens // n))
    )
    return frames, per_frame // columns, columns


def _divisors(number: int) -> Iterator[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


def _check(parts: Mapping[str, State], config: VJepaConfig, given: frozenset[str]) -> None:
    """Refuse tables of another grid, and V-JEPA 2, which may hold such tables but computes without them."""
    for name, part in parts.items():
        key = "predictor_pos_embed" if name == "predictor" else "pos_embed"
        if key not in part:
            continue  # for `convert` to report
        found = _table_grid(part[key], f"{key} of entry {name!r}")
        if found != (config.grid_size, config.uniform_power):
            grids = ["x".join(map(str, grid)) for grid in (found[0], config.grid_size)]
            raise ConversionError(
                f"{key} of entry {name!r} is the table of a grid of {grids[0]}, uniform_power={found[1]}, but the "
                f"config gives {grids[1]}, uniform_power={config.uniform_power}"
            )
    if config.pred_num_mask_tokens == VJEPA2_MASK_TOKENS and "pred_num_mask_tokens" not in given:
        raise ConversionError(
            f"it has {VJEPA2_MASK_TOKENS} mask tokens, as the released V-JEPA 2 checkpoints: convert it as vjepa2, "
            "or, if its positions are those of its tables, give pred_num_mask_tokens in the file of --config"
        )


def _release(size: str, crop: int) -> Release:
    fields = {name: VJepaConfig.sizes[size][name] for name in ("hidden_size", "num_hidden_layers")}
    return Release(fields | {"patch_size": 16, "tubelet_size": 2, "frames_per_clip": 16, "crop_size": crop})


V21 = "V-JEPA 2.1: convert the file as vjepa2_1"
LAYOUT = OfficialLayout(
    title="V-JEPA checkpoint of clips",
    config_class=VJepaConfig,
    model_class=VJepaForPreTraining,
    entries={
        "encoder": Entry(ENCODER, "context_encoder"),
        "target_encoder": Entry(ENCODER, "vjepa"),
        "predictor": Entry(PREDICTOR, "predictor"),
    },
    required=(),
    wrappers=("module.", "backbone."),
    read=_read,
    heads={
        "num_attention_heads": Heads.of_sizes(VJepaConfig.sizes)
    },  # the predictor has as many, unless they are given
    foreign=dict.fromkeys(("img_mod_embed", "video_mod_embed", "patch_embed_img", "norms_block"), V21),
    check=_check,
    released={
        "vitl16.pth.tar": _release("vit_large", 224),
        "vith16.pth.tar": _release("vit_huge", 224),
        "vith16-384.pth.tar": _release("vit_huge", 384),
    },
)

# The probes of the official evaluations (paper, section 4), published beside each encoder.
EVERY_FOURTH, STILL = "every 4th of the video", "an image repeated"
_ENCODERS = {
    file.partition(".")[0]: {
        name: release.architecture[name] for name in ("hidden_size", "num_hidden_layers", "crop_size")
    }
    for file, release in LAYOUT.released.items()
}
PROTOCOLS = (
    Protocol("k400", "Kinetics-400", 400, 16, EVERY_FOURTH, segments=8, views=3),
    Protocol("ssv2", "Something-Something v2", 174, 16, EVERY_FOURTH, segments=2, views=3),
    Protocol("in1k", "ImageNet-1k", 1000, 16, STILL),
    Protocol("places", "Places205", 205, 16, STILL),
    Protocol("inat", "iNaturalist 2021", 10_000, 16, STILL),
)
PROBES = ProbeLayout(
    title="V-JEPA",
    entry="classifier",
    several=False,
    key_map=FIRST_PROBE,
    num_attention_heads=None,
    models={"classification": VJepaForVideoClassification},
    protocols=PROTOCOLS,
    released={
        f"{folder}/{row.task}-probe.pth.tar": encoder for folder, encoder in _ENCODERS.items() for row in PROTOCOLS
    },
)

__all__ = ["ENCODER", "LAYOUT", "PREDICTOR", "PROBES"]
