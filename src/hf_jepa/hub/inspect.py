"""What is in a checkpoint: for people, before they load it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path

from transformers import PreTrainedConfig

from hf_jepa.core.conversion import OfficialLayout
from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.hub.files import is_finite, read_config, read_json, read_torch_checkpoint, stored_tensors
from hf_jepa.hub.fingerprint import FILE_NAME, differences, load_target_encoder
from hf_jepa.hub.run_folders import require_finished
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
        ValueError: of a model of no variant, or the folder of a run that was stopped.
    """
    if not (path / "config.json").is_file():
        require_finished(path)
        raise FileNotFoundError(f"{path} has no config.json: it is not a checkpoint")
    fields = read_json(path / "config.json", "a config")
    for variant in VARIANTS.values():  # of LLM-JEPA the file is that of the language model, with a section of its own
        if isinstance(fields.get(variant.name), Mapping):
            return variant
    return find_variant(str(fields.get("model_type")), str(path))


def probe_variants(official: object) -> list[Variant]:
    """The variants of which a file may hold official probes."""
    return [variant for variant in VARIANTS.values() if variant.probes is not None and variant.probes.holds(official)]


def _fitting(official: object, path: Path) -> list[Variant]:
    """The variants whose converters take a file; of those, the ones that have a place for most of its entries."""
    if not isinstance(official, Mapping):
        raise ConversionError(f"{path} holds a {type(official).__name__}, not the entries of a checkpoint")
    layouts = {variant.title: (variant, variant.layout) for variant in VARIANTS.values() if variant.convertible}
    fitting, errors = [], {}
    for title, (variant, layout) in layouts.items():
        if not layout.present(official):
            continue
        try:
            layout.fits(official)
        except ValueError as error:
            errors[title] = error
        else:
            fitting.append((variant, len(layout.present(official))))
    if fitting:
        most = max(entries for _, entries in fitting)
        return [variant for variant, entries in fitting if entries == most]
    if errors:
        shown = [str(error) if len(errors) == 1 else f"as {title}: {error}" for title, error in errors.items()]
        raise ConversionError(f"{path}: {'; '.join(shown)}")
    if probed := probe_variants(official):
        titles = " or ".join(variant.title for variant in probed)
        raise ConversionError(
            f"{path} holds a probe of {titles} without an encoder: convert it with the one that it was trained on, by "
            "hf-jepa convert --probe FILE --encoder CHECKPOINT --output DIR"
        )
    expected = "; ".join(f"{title} has {', '.join(layout.entries)}" for title, (_, layout) in layouts.items())
    raise ConversionError(f"{path} has the entries {sorted(map(str, official))}, which no variant knows ({expected})")


def _inspect_official(path: Path, keys: bool) -> tuple[str, bool]:
    official = read_torch_checkpoint(path)
    if (probed := probe_variants(official)) and not any(
        variant.layout.present(official) for variant in VARIANTS.values() if variant.convertible
    ):
        return _inspect_probes(official, path, probed, keys)
    variants = _fitting(official, path)
    layout = variants[0].layout
    titles = " or ".join(variant.title for variant in variants)
    others = [str(key) for key in layout.unused(official)]
    lines = [f"official {titles} checkpoint; also holds: {', '.join(others) or 'nothing'}"]
    tensors = {
        f"{entry}.{key}": value for entry, part in layout.parts(official).items() for key, value in part.items()
    }
    sizes, broken = _read(tensors.items())
    return "\n".join([*lines, _told(layout, official), *_tensors(sizes, keys), _finite(broken)]), not broken


def _inspect_probes(official: Mapping, path: Path, variants: list[Variant], keys: bool) -> tuple[str, bool]:
    layout = variants[0].probes
    try:
        states = layout.states(official)
        probes = [layout.read(official, index) for index in range(len(states))]
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    others = [str(key) for key in official if key != layout.entry]
    titles = " or ".join(variant.title for variant in variants)
    lines = [f"official {titles} probe file, no encoder; also holds: {', '.join(others) or 'nothing'}"]
    for index, probe in enumerate(probes):
        fields = ", ".join(f"{name} {value}" for name, value in probe.fields.items())
        lines.append(f"  {layout.entry}[{index}]: {probe.task}, features of width {probe.width}, {fields}")
    lines += [f"  not used: {key}" for key in dict.fromkeys(key for probe in probes for key in probe.dropped)]
    sizes, broken = _read((f"{i}.{key}", value) for i, state in enumerate(states) for key, value in state.items())
    return "\n".join([*lines, *_tensors(sizes, keys), _finite(broken)]), not broken


def _inspect_folder(path: Path, keys: bool) -> tuple[str, bool]:
    variant = variant_of_folder(path)
    config = read_config(variant.config_class(), path)
    sizes, broken = _read(stored_tensors(path))
    classes = config.architectures or _described(config).architectures or ["unknown class"]
    lines = [f"{variant.title} ({', '.join(map(str, classes))}), {_sizes(config)}"]
    agrees, verdict = (False, []) if broken else _check_fingerprint(variant, path)
    model = variant.model_class()
    held = [place for name in ("target_encoder_name", "predictor_name") if (place := getattr(model, name, None))]
    return "\n".join([*lines, *_tensors(sizes, keys, held), _finite(broken), *verdict]), agrees


def _sizes(config: PreTrainedConfig, unknown: Collection[str] = ()) -> str:
    """The sizes of a model, those that it has and that are known; else those of its backbone or language model."""
    config = _described(config)
    video = hasattr(config, "frames_per_clip")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "crop_size" if video else "image_size")
    names += ("patch_size", *(("frames_per_clip", "tubelet_size") if video else ()))
    shown = [name for name in names if name not in unknown and hasattr(config, name)]
    return ", ".join(f"{name} {getattr(config, name)}" for name in shown)


def _described(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config that says what the model is: its own, that of its backbone, or that of its language model."""
    return getattr(config, "backbone_config", getattr(config, "text_config", config))


def _told(layout: OfficialLayout, official: Mapping) -> str:
    """The sizes that the tensors of an official file tell."""
    config = layout.infer_config(official, **dict.fromkeys(layout.heads, 1))  # one head suits every width
    unknown = [*layout.heads, *layout.untold]
    return f"{_sizes(config, unknown)}; its tensors do not tell {', '.join(unknown)}"


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


def _tensors(state: dict[str, tuple[int, ...]], keys: bool, held: Sequence[str] = ()) -> list[str]:
    """Tensors and values per part, and every tensor where wanted; `held` are parts that lie within others."""
    count, values = Counter(), Counter()
    for key, shape in state.items():
        part = next((place for place in held if key.startswith(f"{place}.")), key.split(".")[0])
        count[part] += 1
        values[part] += prod(shape)
    lines = [f"  {part:<18}{count[part]:>6} tensors {values[part]:>15,} values" for part in count]
    return lines + ([f"  {key} {list(shape)}" for key, shape in state.items()] if keys else [])


def _check_fingerprint(variant: Variant, path: Path) -> tuple[bool, list[str]]:
    if not (path / FILE_NAME).is_file():
        return True, [f"no {FILE_NAME}"]
    encoder = load_target_encoder(variant, path)
    if found := differences(encoder, path):
        return False, ["fingerprint differs: " + "; ".join(found[:3])]
    name = type(encoder).__name__
    return True, [f"fingerprint agrees with the weights of {name} (the encoder that gives features, no other part)"]


__all__ = ["inspect_checkpoint", "probe_variants", "variant_of_file", "variant_of_folder"]
