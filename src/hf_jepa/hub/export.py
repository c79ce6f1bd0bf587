"""Folders that load without this package: with the code of their classes, or as encoders of stock transformers."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_jepa import __version__
from hf_jepa.core.key_map import ConversionError
from hf_jepa.core.world_model import WorldModel
from hf_jepa.hub.files import new_folder, read_config, read_json
from hf_jepa.hub.fingerprint import (
    FILE_NAME,
    compute_fingerprint,
    differences,
    load_target_encoder,
    write_fingerprint,
)
from hf_jepa.hub.inspect import variant_of_folder
from hf_jepa.hub.processors import VIDEOS
from hf_jepa.hub.remote_code import Package, bundle, require_loadable
from hf_jepa.registry import VARIANTS, Variant


# What belongs to a model beside its config; a run also leaves states of the optimizer, logs and pickled arguments.
CARRIED = (
    "LICENSE*",
    "README.md",
    "added_tokens.json",
    "chat_template*",
    FILE_NAME,
    "generation_config.json",
    "merges.txt",
    "*preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer*",
    "*.model",
    "vocab.*",
)
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
VIDEO_PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")

CODE_SECTION = """

## Without hf_jepa

The folder holds the code of its classes, copied from `hf_jepa` {version}, so that transformers alone loads it:

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{repo}", trust_remote_code=True)
```
"""

REGISTRATION = """

# --- Added by the export ----------------------------------------------------------------------------------------
# Parts of the config.json beside this file are of types that transformers knows only where hf_jepa is installed.
# ruff: noqa: E402
from transformers import {names}

{imports}

"""


def export_remote_code(source: str | Path, output: str | Path) -> str:
    """Write a checkpoint together with the code of its classes, for `from_pretrained(..., trust_remote_code=True)`.

    Args:
        source: folder of any variant, of an encoder, a pretraining model or a model with a head.
        output: new or empty folder; nothing is left there when something fails.

    Returns:
        a report of what was written.

    Raises:
        FileNotFoundError: the source is not a checkpoint.
        FileExistsError: the output exists.
        RemoteCodeError: a class of the variant needs code that cannot be copied.
        ConversionError: what is written does not compute what the source does.

    Example:
        >>> import tempfile
        >>> from hf_jepa import NepaConfig, NepaModel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     NepaModel(NepaConfig(**VARIANTS["nepa"].tiny)).save_pretrained(f"{folder}/nepa")
        ...     _ = export_remote_code(f"{folder}/nepa", f"{folder}/export")
        ...     Path(f"{folder}/export/modeling_nepa.py").is_file()
        True
    """
    source = Path(source)
    variant = variant_of_folder(source)
    config = read_config(variant.config_class(), source)
    fields = read_json(source / "config.json", "a config")
    _require_no_foreign_code(fields, source)
    package = Package(version=__version__)
    with new_folder(output) as folder:
        carried, left = carry(source, folder, (*CARRIED, *WEIGHTS))
        parts = [part for part in nested_variants(fields) if part is not variant]  # its own type it knows
        modules = _modules(variant, parts, config.architectures or [], _video_processor_files(variant, folder))
        files = bundle(modules, package)
        for name, tail in _registration(variant, parts).items():
            files[name] += tail
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        require_loadable(folder, files, [package.file_name(module) for module in modules], package)
        fields["auto_map"] = auto_map(variant)
        _write_json(folder / "config.json", fields)
        for name in _video_processor_files(variant, folder):
            place = f"{_entry(variant.processor_class.__module__)}.{variant.processor_class.__name__}"
            saved = read_json(folder / name, "a processor") | {"auto_map": {"AutoVideoProcessor": place}}
            _write_json(folder / name, saved)
        encoder = load_target_encoder(variant, folder)
        check_fingerprint(encoder, source, folder)
        _check_copy(variant, encoder, folder)
        auto_class = next(name for name in fields["auto_map"] if name != "AutoConfig")
        section = CODE_SECTION.format(version=__version__, auto_class=auto_class, repo=Path(output).resolve().name)
        tell_in_card(folder, section, ["custom_code"])
    lines = [f"wrote {output}", *(f"  {name}" for name in carried)]
    lines.append(f"  {len(files)} files of code: {', '.join(files)}")
    return "\n".join([*lines, *left_out(left)])


def auto_map(variant: Variant) -> dict[str, str]:
    """Auto class -> file and class of a variant.

    The config is named by the module of the models, which imports it: transformers gives every file that it is pointed
    to a folder of its own, and the config of a model would otherwise be of another class than the model's.

    Example:
        >>> auto_map(VARIANTS["lejepa"])["AutoConfig"]
        'modeling_lejepa.LeJepaConfig'
    """
    classes = {
        "AutoConfig": variant.config,
        "AutoModel": variant.base_model,
        "AutoModelForPreTraining": variant.pretraining_model,
        **variant.heads,
    }
    entry = _entry(variant.module_name("modeling"))
    return {auto_class: f"{entry}.{name}" for auto_class, name in classes.items() if name is not None}


def nested_variants(fields: dict) -> list[Variant]:
    """The variants that parts of a config are of, such as a teacher, which transformers does not know by itself.

    Example:
        >>> [variant.name for variant in nested_variants({"model_type": "salt", "teacher": {"model_type": "vjepa"}})]
        ['vjepa']
    """

    def types(value: object) -> Iterator[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for each in inner:
            if isinstance(each, dict) and "model_type" in each:
                yield each["model_type"]
            yield from types(each)

    found = set(types(fields))
    own = [variant for variant in VARIANTS.values() if not variant.stock]
    return [variant for variant in own if variant.config_class().model_type in found]


def _require_no_foreign_code(fields: dict, source: Path) -> None:
    """Of a language model that brings code of its own only one of the two could be named."""
    foreign = [
        reference
        for reference in fields.get("auto_map", {}).values()
        if reference not in {place for variant in VARIANTS.values() for place in auto_map(variant).values()}
    ]
    if foreign:
        raise ValueError(f"{source} already brings code of its own ({foreign[0]}), which this export would replace")


def _entry(module: str) -> str:
    return module.rpartition(".")[2]


def _modules(
    variant: Variant, parts: Sequence[Variant], architectures: Sequence[str], processor_files: Sequence[str]
) -> list[str]:
    """The modules that transformers is pointed to, and those that the code of these does not name itself."""
    modules = [variant.module_name("modeling"), *(part.module_name("modeling") for part in parts)]
    # A model without an Auto class, such as one for action anticipation, lies in a module of its own.
    places = variant.public_names()
    modules += [places[name] for name in architectures if name in places]
    if processor_files:  # of images nothing is needed: what is saved names a stock class that computes the same
        modules.append(variant.processor_class.__module__)
    return list(dict.fromkeys(modules))


def _video_processor_files(variant: Variant, folder: Path) -> list[str]:
    if variant.modality not in VIDEOS or variant.processor_class is None:
        return []
    return [name for name in VIDEO_PROCESSOR_FILES if (folder / name).is_file()]


def _registration(variant: Variant, parts: Sequence[Variant]) -> dict[str, str]:
    """What is added to the copies of configuration and modeling, so that parts of other types are found."""
    if not parts:
        return {}
    configs, models = [part.config for part in parts], [part.base_model for part in parts]
    return {
        f"configuration_{variant.name}.py": REGISTRATION.format(
            names="CONFIG_MAPPING, AutoConfig", imports=_imports(parts, "configuration", configs)
        )
        + f"for _part in ({', '.join(configs)},):\n"
        "    if _part.model_type not in CONFIG_MAPPING:\n"
        "        AutoConfig.register(_part.model_type, _part)\n",
        f"modeling_{variant.name}.py": REGISTRATION.format(
            names="AutoModel", imports=_imports(parts, "modeling", models)
        )
        + f"for _part in ({', '.join(models)},):\n"
        "    AutoModel.register(_part.config_class, _part, exist_ok=True)\n",
    }


def _imports(parts: Sequence[Variant], kind: str, names: Sequence[str]) -> str:
    return "".join(f"from .{kind}_{part.name} import {name}\n" for part, name in zip(parts, names, strict=True))


def carry(source: Path, folder: Path, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Copy what belongs to a model; names of what was copied, and of what was not."""
    names = {path.name for pattern in patterns for path in source.glob(pattern) if path.is_file()}
    for name in sorted(names):
        shutil.copyfile(source / name, folder / name)
    return sorted(names), sorted(path.name for path in source.iterdir() if path.name not in {*names, "config.json"})


def left_out(names: Sequence[str]) -> list[str]:
    return [f"  left out: {', '.join(names)}"] if names else []


def _write_json(path: Path, fields: dict) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def check_fingerprint(encoder: PreTrainedModel, source: Path, folder: Path) -> None:
    """The fingerprint that came along is that of what was written; where none came, one is made.

    Raises:
        ConversionError: it is not.
    """
    if not (folder / FILE_NAME).is_file():
        write_fingerprint(encoder, folder)
    elif found := differences(encoder, folder):
        raise ConversionError(
            f"the fingerprint of {source} is not that of its weights: {'; '.join(found[:3])}. Fetch it again, or "
            f"remove {FILE_NAME} if you have changed the weights"
        )


def _check_copy(variant: Variant, encoder: PreTrainedModel, folder: Path) -> None:
    """The copied code computes from these weights what the package does, to the bit."""
    name = variant.base_model or variant.pretraining_model
    copied = get_class_from_dynamic_module(f"{_entry(variant.module_name('modeling'))}.{name}", str(folder))
    model = copied.from_pretrained(folder, dtype=torch.float32)
    copy = model  # of a world model the whole, as `load_target_encoder` has it
    if not isinstance(model, WorldModel):
        copy = variant.encoder_of(model) if variant.base_model else model.causal_lm.base_model
    found, expected = compute_fingerprint(copy), compute_fingerprint(encoder)
    if found != expected:
        raise ConversionError(
            f"the copied code of {name} computes {found['first_values']}, the package "
            f"{expected['first_values']}: this is a bug of the export"
        )


def tell_in_card(folder: Path, section: str, tags: Sequence[str], library: str = "transformers") -> None:
    """Add to the card, where there is one, how the folder is loaded now."""
    path = folder / "README.md"
    if not path.is_file():
        return
    card = ModelCard.load(path)
    card.data.library_name = library
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    card.text = card.text.rstrip() + section
    card.save(path)


__all__ = [
    "CARRIED",
    "auto_map",
    "carry",
    "check_fingerprint",
    "export_remote_code",
    "left_out",
    "nested_variants",
    "tell_in_card",
]
