"""What is in a checkpoint: for people, before they load it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers.utils import logging

from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.hub.files import is_finite, read_config, read_json, read_torch_checkpoint, stored_tensors
from hf_jepa.hub.fingerprint import FILE_NAME, differences
from hf_jepa.registry import VARIANTS, Variant, find_variant


def inspect_checkpoint(path: str | Path, keys: bool = False) -> tuple[str, bool]:
    """Describe a folder of ours or an official file.

    Args:
        path: folder with `config.json` and safetensors, or an official `.pth.tar`.
        keys: list every tensor.

    Returns:
        the report, and whether all values are finite and the fingerprint (where there is one) agrees with the weights.

    Raises:
        FileNotFoundError: nothing there.
        ConversionError: a file that cannot be read, or a model of no variant.
    """
    path = Path(path)
    return _inspect_folder(path, keys) if path.is_dir() else _inspect_official(path, keys)


def _inspect_official(path: Path, keys: bool) -> tuple[str, bool]:
    official = read_torch_checkpoint(path)
    if not isinstance(official, Mapping):
        raise ConversionError(f"{path} holds a {type(official).__name__}, not the entries of a checkpoint")
    for variant in VARIANTS.values():
        if not variant.convertible or not set(variant.module("convert").OFFICIAL) <= set(official):
            continue
        module = variant.module("convert")
        try:
            # Heads leave no trace in the tensors: with any number of them, all others must fit.
            module.convert(official, module.infer_config(official, num_attention_heads=1))
        except ValueError as error:
            raise ConversionError(f"{path}: {error}") from error
        others = [str(key) for key in official if key not in module.OFFICIAL]
        lines = [f"official {variant.title} checkpoint; also holds: {', '.join(others) or 'nothing'}"]
        tensors = {
            f"{entry}.{key}": value for entry, part in module.entries(official).items() for key, value in part.items()
        }
        sizes, broken = _read(tensors.items())
        return "\n".join([*lines, *_tensors(sizes, keys), _finite(broken)]), not broken
    raise ConversionError(f"{path} has the entries {sorted(map(str, official))}, which no variant knows")


def _inspect_folder(path: Path, keys: bool) -> tuple[str, bool]:
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} has no config.json: it is not a checkpoint")
    fields = read_json(path / "config.json", "a config")
    variant = find_variant(str(fields.get("model_type")), str(path))
    config = read_config(variant.config_class(), path)
    sizes, broken = _read(stored_tensors(path))
    lines = [f"{variant.title} ({', '.join(map(str, config.architectures or ['unknown class']))}), {_sizes(fields)}"]
    agrees, verdict = (False, []) if broken else _check_fingerprint(variant, path)
    return "\n".join([*lines, *_tensors(sizes, keys), _finite(broken), *verdict]), agrees


def _sizes(config: dict) -> str:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    return ", ".join(f"{name} {config[name]}" for name in names if name in config)


def _read(tensors) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shapes of (key, tensor) pairs, and the keys of those that hold NaN or infinity."""
    shapes, broken = {}, []
    for key, value in tensors:
        shapes[key] = tuple(value.shape)
        if not is_finite(value):
            broken.append(key)
    return shapes, broken


def _finite(broken: list[str]) -> str:
    return f"NaN or infinity in {len(broken)} tensors: {some(broken)}" if broken else "all values are finite"


def _tensors(state: dict[str, tuple[int, ...]], keys: bool) -> list[str]:
    """Tensors and values per part, or every tensor."""
    count, values = Counter(), Counter()
    for key, shape in state.items():
        part = key.split(".")[0]
        size = 1
        for side in shape:
            size *= side
        count[part] += 1
        values[part] += size
    lines = [f"  {part:<18}{count[part]:>6} tensors {values[part]:>15,} values" for part in count]
    return lines + ([f"  {key} {list(shape)}" for key, shape in state.items()] if keys else [])


def _check_fingerprint(variant: Variant, path: Path) -> tuple[bool, list[str]]:
    if not (path / FILE_NAME).is_file():
        return True, [f"no {FILE_NAME}"]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what does not fit is told below, in one line
    try:
        encoder, report = variant.model_class(variant.base_model).from_pretrained(
            path,
            dtype=torch.float32,  # as when it was written
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    if wrong := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise ConversionError(f"{path}: {len(wrong)} weights are missing or not as in config.json: {some(wrong)}")
    if found := differences(encoder, path):
        return False, ["fingerprint differs: " + "; ".join(found[:3])]
    return True, [f"fingerprint agrees with the weights of {variant.base_model} (the target encoder, no other part)"]


__all__ = ["inspect_checkpoint"]
