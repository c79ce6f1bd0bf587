"""What is in a checkpoint: for people, before they load it."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.fingerprint import FILE_NAME, differences
from hf_jepa.registry import VARIANTS, Variant, find_variant


def inspect_checkpoint(path: str | Path, keys: bool = False) -> tuple[str, bool]:
    """Describe a folder of ours or an official file.

    Args:
        path: folder with `config.json` and safetensors, or an official `.pth.tar`.
        keys: list every tensor.

    Returns:
        the report, and whether the fingerprint (where there is one) agrees with the weights.

    Raises:
        FileNotFoundError: nothing there.
        ConversionError: a file that cannot be read, or a model of no variant.
    """
    path = Path(path)
    if path.is_dir():
        return _inspect_folder(path, keys)
    official = read_torch_checkpoint(path)
    if not isinstance(official, Mapping):
        raise ConversionError(f"{path} holds a {type(official).__name__}, not the entries of a checkpoint")
    for variant in VARIANTS.values():
        if variant.key_map and set(variant.module("convert").OFFICIAL) <= set(official):
            state = {
                f"{entry}.{key}": tuple(value.shape)
                for entry, tensors in variant.module("convert").entries(official).items()
                for key, value in tensors.items()
            }
            others = [key for key in official if key not in variant.module("convert").OFFICIAL]
            lines = [f"official {variant.title} checkpoint; also holds: {', '.join(others) or 'nothing'}"]
            return "\n".join(lines + _tensors(state, keys)), True
    raise ConversionError(f"{path} has the entries {sorted(map(str, official))}, which no variant knows")


def _inspect_folder(path: Path, keys: bool) -> tuple[str, bool]:
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} has no config.json: it is not a checkpoint")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    variant = find_variant(config.get("model_type"), str(path))
    state = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            state |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    lines = [f"{variant.title} ({', '.join(config.get('architectures') or ['unknown class'])}), {_sizes(config)}"]
    agrees, verdict = _check_fingerprint(variant, path)
    return "\n".join([*lines, *_tensors(state, keys), verdict]), agrees


def _sizes(config: dict) -> str:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    return ", ".join(f"{name} {config[name]}" for name in names if name in config)


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


def _check_fingerprint(variant: Variant, path: Path) -> tuple[bool, str]:
    if not (path / FILE_NAME).is_file():
        return True, f"no {FILE_NAME}"
    encoder = variant.model_class(variant.base_model).from_pretrained(
        path, dtype=torch.float32
    )  # as when it was written
    if found := differences(encoder, path):
        return False, "fingerprint differs: " + "; ".join(found[:3])
    return True, "fingerprint agrees with the weights"


__all__ = ["inspect_checkpoint"]
