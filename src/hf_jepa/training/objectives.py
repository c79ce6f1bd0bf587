"""The recipes by which every image objective trains the same small encoder, for a comparison on one data set.

What a kind of inputs needs is said once in `BY_INPUTS`, what one variant needs beside it in `OWN`. So a new variant
takes part by itself if its config takes the fields of its kind, and otherwise is refused with a word on what to add.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.registry import VARIANTS, Variant
from hf_jepa.training.pretrain_image import EMBEDDED


# The encoder of `hf-jepa quickstart`.
ENCODER = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "patch_size": 8,
    "initializer_range": 0.08,  # at 0.02 position codes drown the pixels of so narrow a model
}
SCHEDULE = {
    "learning_rate": 3e-3,
    "start_learning_rate": 0.0,
    "weight_decay": 0.05,
    "final_weight_decay": 0.05,
    "start_momentum": 0.99,
    "final_momentum": 1.0,
}
WARMUP = 0.1  # of the steps
END = 0.01  # last learning rate over the peak


@dataclass(frozen=True)
class Fields:
    """What a kind of inputs or a variant sets.

    Args:
        model: fields of the config.
        recipe: fields of `recipe_sections`.
        encoder: how the encoder differs from `ENCODER`, in words.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = ""


# Two crops and nothing else: what else papers do to views is for photographs in colour, not for grey crops that are
# standardised one by one.
_AUGMENTATIONS = ("color_jitter", "grayscale", "blur", "solarize")
NO_AUGMENTATION = {f"{name}_probability": [0.0] for name in _AUGMENTATIONS}
BY_INPUTS = {
    "masks": Fields(
        {"pred_hidden_size": 48, "pred_num_hidden_layers": 2, "pred_num_attention_heads": 4},
        {"target_scale": [0.12, 0.22], "min_keep": 2},
    ),
    "views": Fields(
        {"proj_hidden_size": 384, "proj_size": 96},
        {"num_global_views": 2, "num_local_views": 0, "global_scale": [0.25, 1.0]},
    ),
    "in_place_masks": Fields({}, {"num_mask_patches": 18, "min_block_patches": 4}),
    "plain": Fields(),
}
OWN = {
    "lejepa": Fields({"sigreg_num_slices": 256}),
    "rectified_lpjepa": Fields({"rdmreg_num_projections": 512, "rdmreg_weight": 250.0}),  # the paper's on CIFAR
    "vicreg": Fields({"proj_size": 192}),
    "simsiam": Fields({"proj_size": 384, "pred_hidden_size": 96}, {"learning_rate": 1e-3}),
    "data2vec_vision": Fields(
        {
            "top_k_layers": 2,
            "layer_scale_init_value": 0.1,
            "drop_path_rate": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        encoder="class token, relative positions, layer scale",
    ),
    "nepa": Fields(
        {"layerscale_value": 0.1, "pos_embed_rescale": None, "qk_norm": True},
        encoder="causal, class token, rotary positions, layer scale",
    ),
}
# Objectives that are an option of a variant: name -> (variant, title, fields).
OPTIONS = {
    "ijepa_sigreg": (
        "ijepa",
        "I-JEPA with SIGReg, no EMA",
        Fields({"target_source": "shared", "sigreg_weight": 0.05, "sigreg_num_slices": 64}),
    ),
    "lejepa_multicrop": (
        "lejepa",
        "LeJEPA with local views",
        Fields({}, {"num_local_views": 4, "local_size": 24, "local_scale": [0.05, 0.25]}),
    ),
}


@dataclass(frozen=True)
class Objective:
    """A row of the comparison.

    Args:
        title: for people.
        variant: key of `VARIANTS`.
        fields: all that differs from `SCHEDULE` and `ENCODER`.
    """

    title: str
    variant: str
    fields: Fields


def image_objectives(variants: Mapping[str, Variant] = VARIANTS) -> dict[str, Objective]:
    """Every objective for images that there is: the variants of the registry, and `OPTIONS` of them.

    Args:
        variants: the registry.

    Raises:
        ValueError: a variant whose config lacks a field that is set here.

    Example:
        >>> image_objectives()["ijepa_sigreg"].fields.model["target_source"]
        'shared'
    """
    found = {}
    for name, variant in variants.items():
        if variant.modality == "image":
            found[name] = Objective(variant.title, name, _together(variant, OWN.get(name, Fields())))
    for name, (variant, title, fields) in OPTIONS.items():
        if variant in variants:
            own = _together(variants[variant], OWN.get(variant, Fields()), fields)
            found[name] = Objective(title, variant, own)
    return found


def _together(variant: Variant, *own: Fields) -> Fields:
    parts = [BY_INPUTS[variant.inputs], *own]
    merged = Fields(
        {key: value for part in parts for key, value in part.model.items()},
        {key: value for part in parts for key, value in part.recipe.items()},
        parts[-1].encoder or parts[1].encoder,
    )
    encoder = ["backbone_config"] if variant.inputs == "views" else ENCODER
    try:
        require_model_fields(variant.config_class(), [*encoder, *merged.model])
    except ValueError as error:
        raise ValueError(
            f"the comparison has no settings that fit {variant.title}: {error}. Add them under {variant.name!r} to "
            "OWN in hf_jepa/training/objectives.py"
        ) from error
    return merged


def recipe(
    objective: Objective, dataset: str, steps: int, seed: int, batch_size: int = 64, image_size: int = 48
) -> dict[str, Any]:
    """The recipe of a run, as `training_scripts/pretrain_image.py` reads it.

    Args:
        objective: from `image_objectives`.
        dataset: "embedded", or what `load_images` opens.
        steps: optimizer steps.
        seed: of weights, crops, order and masks.
        batch_size: images per step.
        image_size: side in pixels, a multiple of the patch size.

    Example:
        >>> found = recipe(image_objectives()["lejepa"], "embedded", steps=100, seed=1)
        >>> found["model_config"]["backbone_config"]["hidden_size"], found["warmup_steps"], found["generated_length"]
        (96, 10, 6400)
    """
    encoder = ENCODER | {"image_size": image_size}
    fields = objective.fields
    views = VARIANTS[objective.variant].inputs == "views"
    own = SCHEDULE | dict(fields.recipe)
    if views and dataset == EMBEDDED:
        own = NO_AUGMENTATION | own
    return own | {
        # The backbone is the very encoder of I-JEPA.
        "model_config": ({"backbone_config": {"model_type": "ijepa"} | encoder} if views else encoder) | fields.model,
        "dataset": dataset,
        **({"generated_length": steps * batch_size} if dataset == EMBEDDED else {}),
        "final_learning_rate": END * own["learning_rate"],
        "warmup_steps": max(1, round(WARMUP * steps)),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "seed": seed,
        "logging_steps": max(1, steps // 20),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,  # the comparison has a bar of its own
        "dataloader_pin_memory": False,
    }


__all__ = ["ENCODER", "OPTIONS", "OWN", "Fields", "Objective", "image_objectives", "recipe"]
