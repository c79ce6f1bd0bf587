"""Encoders as checkpoints of stock transformers: its classes, its config, nothing of this package."""

from dataclasses import fields
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING, MODEL_MAPPING

from hf_jepa.core.configuration import model_fields
from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.core.quiet import quiet_loading
from hf_jepa.hub.export import CARRIED, carry, check_fingerprint, left_out, tell_in_card
from hf_jepa.hub.files import SHARD_BYTES, new_folder, read_config
from hf_jepa.hub.fingerprint import FILE_NAME, TOLERANCE, fixed_input
from hf_jepa.hub.inspect import variant_of_folder
from hf_jepa.registry import VARIANTS, Variant


ENCODERS = ("target", "context")

SECTION = """

## Encoder only

This folder holds the {encoder} encoder as a stock `{name}`, which needs no other package than transformers:

```python
from transformers import AutoModel

encoder = AutoModel.from_pretrained("{repo}")
```
"""


def export_encoder(source: str | Path, output: str | Path, encoder: str | None = None) -> str:
    """Write one encoder of a checkpoint as a model of stock transformers.

    Where the stock base model holds the predictor too, as that of V-JEPA 2 does, the predictor comes along.

    Args:
        source: folder of a variant whose architecture transformers has.
        output: new or empty folder; nothing is left there when something fails.
        encoder: "target" or "context"; the one that gives features, and that `AutoModel` finds, unless given. That is
            the target encoder, but in data2vec the context encoder.

    Returns:
        a report of what was written.

    Raises:
        ValueError: transformers has no such architecture, or there is no such encoder.
        FileNotFoundError: the source is not a checkpoint.
        FileExistsError: the output exists.
        ConversionError: the checkpoint lacks the encoder, or the stock class computes something else.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny)).save_pretrained(f"{folder}/ijepa")
        ...     _ = export_encoder(f"{folder}/ijepa", f"{folder}/encoder")
        ...     type(AutoModel.from_pretrained(f"{folder}/encoder")).__module__
        'transformers.models.ijepa.modeling_ijepa'
    """
    source = Path(source)
    variant = variant_of_folder(source)
    _require_native(variant)
    if encoder not in (None, *ENCODERS):
        raise ValueError(f"encoder {encoder!r} is not one of {', '.join(ENCODERS)}")
    read_config(variant.config_class(), source)  # before the weights, and by name
    with new_folder(output) as folder:
        which, base, moved = _base_model(variant, source, encoder)
        carried, left = carry(source, folder, CARRIED)
        if moved:  # features of the other encoder have another fingerprint
            (folder / FILE_NAME).unlink(missing_ok=True)
        native, missing = _write_native(base, folder)
        _require_equal(variant, base, native)
        check_fingerprint(variant.encoder_of(base), source, folder)
        name = type(native).__name__
        tell_in_card(folder, SECTION.format(encoder=which, name=name, repo=Path(output).resolve().name), [])
    lines = [f"wrote the {which} encoder of {source} to {output}, a stock {name}", *(f"  {each}" for each in carried)]
    if missing:
        lines.append(f"  not in {source}, random in transformers: {', '.join(missing)}")
    return "\n".join([*lines, *left_out([each for each in left if not each.startswith("model")])])


def native_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of transformers for a type that is native, with all fields that it knows.

    Raises:
        ConversionError: a field has a value that the native class refuses.

    Example:
        >>> from hf_jepa import VJepa2Config
        >>> type(native_config(VJepa2Config(crop_size=64))).__name__
        'VJEPA2Config'
    """
    native = CONFIG_MAPPING[config.model_type]
    known = {field.name for field in fields(native)}
    try:
        return native(**{name: value for name, value in config.to_dict().items() if name in known})
    except (StrictDataclassError, ValueError) as error:
        raise ConversionError(
            f"{native.__name__} of transformers refuses the config: {error.__cause__ or error}"
        ) from error


def _require_native(variant: Variant) -> None:
    if variant.native:
        return
    if variant.stock:
        raise ValueError(
            f"a checkpoint of {variant.title} is its language model already: stock AutoModel and AutoModelForCausalLM "
            "load the folder as it is"
        )
    native = ", ".join(each.title for each in VARIANTS.values() if each.native)
    raise ValueError(
        f"transformers has no architecture of {variant.title}, only of {native}: export it with its code "
        "(--remote-code)"
    )


def _base_model(variant: Variant, source: Path, encoder: str | None) -> tuple[str, PreTrainedModel, bool]:
    """Which encoder it is, the base model with that encoder in its place, and whether it was elsewhere before.

    A predictor that the checkpoint lacks is taken out of the base model.
    """
    with quiet_loading():  # what is missing is told below, and what is not exported does not matter
        model, info = variant.model_class().from_pretrained(source, output_loading_info=True)
    missing, base = set(info["missing_keys"]), model.base_model
    chosen = model.feature_encoder if encoder is None else getattr(model, f"{encoder}_encoder")
    which = encoder or (
        "context" if chosen is model.context_encoder and chosen is not model.target_encoder else "target"
    )
    place = next(name for name, module in model.named_modules() if module is chosen)
    if lost := sorted(key for key in chosen.state_dict() if f"{place}.{key}" in missing):
        raise ConversionError(f"{source} holds no {which} encoder: {len(lost)} weights are missing: {some(lost)}")
    kept = variant.encoder_of(base)
    if moved := kept is not chosen:
        # A teacher of data2vec is a transformer alone, on the embeddings of the student.
        kept.load_state_dict(kept.state_dict() | chosen.state_dict())
    predictor = model.predictor_name.removeprefix(f"{model.base_model_prefix}.")
    if hasattr(base, predictor) and any(key.startswith(f"{model.predictor_name}.") for key in missing):
        delattr(base, predictor)
    return which, base, moved


def _write_native(base: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, list[str]]:
    """Write a base model as one of transformers, and read it again: the model, and the parts that it has beyond."""
    config = native_config(base.config)
    config.dtype = next(base.parameters()).dtype
    # Keys as in the checkpoints of the Hub, which other tools and older releases of transformers read as well.
    base.save_pretrained(folder, save_original_format=True, max_shard_size=SHARD_BYTES)
    config.architectures = [MODEL_MAPPING[type(config)].__name__]
    config.save_pretrained(folder)
    with quiet_loading():
        native, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    present = {name for name, _ in base.named_children()}
    beyond = sorted({key.split(".")[0] for key in info["missing_keys"]} - present)
    wrong = [key for key in info["missing_keys"] if key.split(".")[0] in present]
    wrong += [*info["unexpected_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if wrong:
        raise ConversionError(f"{_unlike(base, native)}: {len(wrong)} weights have no place in it: {some(wrong)}")
    return native, beyond


@torch.no_grad()
def _require_equal(variant: Variant, base: PreTrainedModel, native: PreTrainedModel) -> None:
    """The stock class gives the features that ours does."""
    samples, _ = fixed_input(base.config)
    expected = variant.encoder_of(base).float().eval()(samples).last_hidden_state
    options = {"skip_predictor": True} if variant.encoder_place() else {}
    found = native.eval()(samples, **options).last_hidden_state
    if (found - expected).abs().max() <= TOLERANCE * expected.std():
        return
    raise ConversionError(_unlike(base, native))


def _unlike(base: PreTrainedModel, native: PreTrainedModel) -> str:
    """Why the stock class is not the same function: fields that it does not know and that are not at their default."""
    config, default = base.config, type(base.config)()
    own = [name for name in model_fields(type(config)) if not hasattr(native.config, name)]
    chosen = [f"{name}={value!r}" for name in own if (value := getattr(config, name)) != getattr(default, name)]
    return (
        f"{type(native).__name__} of transformers computes something else from these weights, because it does not "
        f"know {', '.join(chosen) or 'all fields of the config'}; export the folder with its code (--remote-code)"
    )


__all__ = ["ENCODERS", "export_encoder", "native_config"]
