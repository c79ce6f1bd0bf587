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


def variant_of_file(path: Path) -> Variant:
    """The variant that an official file is of, found by trying all converters.

    Raises:
        FileNotFoundError: no such file.
        ConversionError: the file cannot be read, fits no variant, or several equally well.
    """
    variants = _fitting(read_torch_checkpoint(path), path)
    if len(variants) > 1:
        names = " or ".join(f"--variant {variant.name}" for variant in variants)
        raise ConversionError(f"{path} fits several variants equally well: say which it is by {names}")
    return variants[0]


def variant_of_folder(path: Path) -> Variant:
    """The variant that the config of a folder names.

    Raises:
        FileNotFoundError: there is no config.
        ConversionError: it is not a config.
        ValueError: of a model of no variant.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} has no config.json: it is not a checkpoint")
    fields = read_json(path / "config.json", "a config")
    return find_variant(str(fields.get("model_type")), str(path))


def _fitting(official: object, path: Path) -> list[Variant]:
    """The variants whose converters take a file; of those, the ones that have a place for most of its entries."""
    if not isinstance(official, Mapping):
        raise ConversionError(f"{path} holds a {type(official).__name__}, not the entries of a checkpoint")
    layouts = {name: variant.module("convert").OFFICIAL for name, variant in VARIANTS.items() if variant.convertible}
    fitting, errors = [], {}
    for name, layout in layouts.items():
        if not set(layout) <= set(official):
            continue
        variant = VARIANTS[name]
        module = variant.module("convert")
        try:
            # Heads leave no trace in the tensors: with any number of them, all others must fit.
            module.convert(official, module.infer_config(official, num_attention_heads=1))
        except ValueError as error:
            errors[variant.title] = error
        else:
            fitting.append(variant)
    if fitting:
        most = max(len(layouts[variant.name]) for variant in fitting)
        return [variant for variant in fitting if len(layouts[variant.name]) == most]
    if errors:
        shown = [str(error) if len(errors) == 1 else f"as {title}: {error}" for title, error in errors.items()]
        raise ConversionError(f"{path}: {'; '.join(shown)}")
    expected = "; ".join(f"{VARIANTS[name].title} has {', '.join(layout)}" for name, layout in layouts.items())
    raise ConversionError(f"{path} has the entries {sorted(map(str, official))}, which no variant knows ({expected})")


def _inspect_official(path: Path, keys: bool) -> tuple[str, bool]:
    official = read_torch_checkpoint(path)
    variants = _fitting(official, path)
    module = variants[0].module("convert")
    titles = " or ".join(variant.title for variant in variants)
    others = [str(key) for key in official if key not in module.OFFICIAL]
    lines = [f"official {titles} checkpoint; also holds: {', '.join(others) or 'nothing'}"]
    tensors = {
        f"{entry}.{key}": value for entry, part in module.entries(official).items() for key, value in part.items()
    }
    sizes, broken = _read(tensors.items())
    return "\n".join([*lines, *_tensors(sizes, keys), _finite(broken)]), not broken


def _inspect_folder(path: Path, keys: bool) -> tuple[str, bool]:
    variant = variant_of_folder(path)
    config = read_config(variant.config_class(), path)
    sizes, broken = _read(stored_tensors(path))
    lines = [f"{variant.title} ({', '.join(map(str, config.architectures or ['unknown class']))}), {_sizes(config)}"]
    agrees, verdict = (False, []) if broken else _check_fingerprint(variant, path)
    return "\n".join([*lines, *_tensors(sizes, keys), _finite(broken), *verdict]), agrees


def _sizes(config) -> str:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    return ", ".join(f"{name} {getattr(config, name)}" for name in names if hasattr(config, name))


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


__all__ = ["inspect_checkpoint", "variant_of_file", "variant_of_folder"]
