"""Checks that the configs of all variants share: an error names the field, its value and what is allowed."""

from collections.abc import Collection, Iterable

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from hf_jepa.layers.patch_embedding import pair


def require_choices(config: PreTrainedConfig, **choices: Collection[str]) -> None:
    """Check that fields have one of the values they can have.

    Raises:
        ValueError: one has another.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_choices(IJepaConfig(), loss_type=("l1", "smooth_l1"), position_resize=("bicubic",))
    """
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, allowed))}")


def require_activations(config: PreTrainedConfig, *names: str) -> None:
    """Check that fields name activations of transformers: `ValueError` otherwise.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_activations(IJepaConfig(), "hidden_act")
    """
    require_choices(config, **dict.fromkeys(names, ACT2FN))


def require_at_least(config: PreTrainedConfig, least: float, names: Iterable[str]) -> None:
    """Check numbers from below; what is None, which means unset, passes, and NaN does not.

    Raises:
        ValueError: one is smaller.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_at_least(IJepaConfig(), 1, ["num_hidden_layers", "num_channels"])
    """
    for name in names:
        if (value := getattr(config, name)) is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_positive(config: PreTrainedConfig, *names: str) -> None:
    """Check numbers that must be above 0: `ValueError` otherwise. None and NaN as in `require_at_least`.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_positive(IJepaConfig(), "layer_norm_eps", "initializer_range")
    """
    for name in names:
        if (value := getattr(config, name)) is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def require_rates(config: PreTrainedConfig, *names: str) -> None:
    """Check probabilities of leaving something out, which are 0 or more and below 1: `ValueError` otherwise.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_rates(IJepaConfig(), "hidden_dropout_prob")
    """
    for name in names:
        if not 0 <= (value := getattr(config, name)) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


def require_heads(config: PreTrainedConfig, prefix: str = "") -> None:
    """Check that a transformer's width divides into its attention heads.

    Args:
        config: with `hidden_size` and `num_attention_heads`.
        prefix: of both fields, "pred_" for those of a predictor. Where its heads are unset, they are the encoder's.

    Raises:
        ValueError: it does not.

    Example:
        >>> from hf_jepa import IJepaConfig
        >>> require_heads(IJepaConfig(), "pred_")
    """
    width, heads = getattr(config, f"{prefix}hidden_size"), getattr(config, f"{prefix}num_attention_heads")
    heads = config.num_attention_heads if heads is None else heads
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(f"{prefix}hidden_size {width} must be a multiple of its {heads} attention heads")


def require_patches(config: PreTrainedConfig, field: str) -> None:
    """Check that a size in pixels, a number or (height, width), divides into patches of `patch_size`.

    Raises:
        ValueError: it does not, or one of the two is neither.

    Example:
        >>> from hf_jepa import VJepaConfig
        >>> require_patches(VJepaConfig(), "crop_size")
    """
    for name in (field, "patch_size"):
        if not isinstance(size := getattr(config, name), int) and len(size) != 2:
            raise ValueError(f"{name} {size} is neither a number of pixels nor (height, width)")
    sides, patch = pair(getattr(config, field)), pair(config.patch_size)
    if min(*sides, *patch) < 1 or sides[0] % patch[0] or sides[1] % patch[1]:
        raise ValueError(
            f"{field} {getattr(config, field)} does not divide into patches of {config.patch_size} pixels"
        )


__all__ = [
    "require_activations",
    "require_at_least",
    "require_choices",
    "require_heads",
    "require_patches",
    "require_positive",
    "require_rates",
]
