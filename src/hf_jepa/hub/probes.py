"""Official probe file + encoder -> ordinary checkpoint of a model with heads, and back."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_jepa.core.key_map import ConversionError, some
from hf_jepa.core.probe_conversion import EPSILON, Probe, Protocol, head_tensors
from hf_jepa.core.quiet import quiet_loading
from hf_jepa.core.video_classification import QUESTIONS
from hf_jepa.hub.conversion import architecture, require_unset_with_reverse
from hf_jepa.hub.files import (
    load_weights,
    new_folder,
    new_name,
    read_config,
    read_json,
    read_torch_checkpoint,
    require_finite,
    require_new_file,
    save_weights,
)
from hf_jepa.hub.fingerprint import load_target_encoder, write_fingerprint
from hf_jepa.hub.inspect import variant_of_file, variant_of_folder
from hf_jepa.hub.probe_cards import build_probe_card, described, layers_read
from hf_jepa.registry import Variant, find_variant


FILES = (".pt", ".pth", ".tar")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the converter of probes."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--probe", type=Path, help="official probe file to convert")
    source.add_argument("--reverse", type=Path, metavar="DIR", help="our model, whose heads become an official file")
    parser.add_argument("--encoder", help="what the probe reads: our folder, a Hub id, or an official backbone file")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or new file with --reverse")
    parser.add_argument("--index", type=int, help="which of the file's probes (default: the first, 0)")
    parser.add_argument(
        "--layers", type=int, nargs="+", help="of the encoder, counted from 0, whose tokens the probe reads (default: "
        "those of the official evaluation that the file is named after, else the last)"
    )  # fmt: skip
    parser.add_argument(
        "--num-attention-heads", type=int, help="of the probe (default: 16; with V-JEPA 1 those of the encoder)"
    )
    parser.add_argument("--labels", type=Path, help="JSON file: the list of the names of all classes, in order")


def run(args: argparse.Namespace) -> None:
    """Do what the options say and print a report."""
    if args.reverse is None:
        if args.encoder is None:
            raise ValueError("give --encoder: a probe file holds no encoder, and a probe is of use with its own alone")
        report = convert_probe(
            args.probe,
            args.encoder,
            args.output,
            index=args.index,
            layers=args.layers,
            num_attention_heads=args.num_attention_heads,
            labels=None if args.labels is None else _read_labels(args.labels),
        )
    else:
        require_unset_with_reverse(args, ("encoder", "index", "layers", "num_attention_heads", "labels"))
        report = revert_probe(args.reverse, args.output)
    print(report)


def convert_probe(
    probe_file: Path,
    encoder: str | Path,
    output: Path,
    *,
    index: int | None = None,
    layers: Sequence[int] | None = None,
    num_attention_heads: int | None = None,
    labels: Sequence[str] | None = None,
) -> str:
    """Convert an official probe and the encoder that it was trained on into a new folder.

    Args:
        probe_file: the official file.
        encoder: our folder, a Hub id or an official backbone file. Of the latter the target encoder is taken. Heads
            that a folder has are left out.
        output: new or empty folder; nothing is left there when the conversion fails.
        index: which probe of a file of several; the first when unset.
        layers: of the encoder whose tokens the probe reads; known from the file's name when unset, else the last.
        num_attention_heads: of the probe; those of the official ones when unset.
        labels: the names of the classes, in order.

    Returns:
        a report of what was read, inferred and written.

    Raises:
        ConversionError: a file is broken, or probe and encoder do not belong together.
        FileExistsError: the output exists.
    """
    with new_folder(output) as folder:
        variant, config, state, lines = _encoder(encoder)
        if variant.probes is None:
            raise ConversionError(f"{encoder} is a model of {variant.title}, which has no official probes")
        official = read_torch_checkpoint(probe_file)
        probe = variant.probes.read(official, index or 0)
        several = len(official[variant.probes.entry]) if variant.probes.several else 1
        released, protocol, notes = _configure(variant, config, probe, probe_file, layers, num_attention_heads)
        if labels is not None:
            _name_classes(config, probe, labels)

        model_class = variant.probes.model_class(probe.task)
        weights, absent = _weights(model_class, None if state else encoder, config, state)
        if absent and probe.task == "anticipation":
            raise ConversionError(f"{encoder} has no predictor, whose features a probe of anticipation reads")
        if absent:
            notes.append("  not in the encoder's checkpoint: its predictor, which no classification needs")
        config.architectures = [model_class.__name__]
        files = save_weights(lambda: weights | probe.state, folder)
        config.save_pretrained(folder)
        if config.num_channels == 3:
            variant.processor(config).save_pretrained(folder)
        fingerprint = write_fingerprint(load_target_encoder(variant, folder), folder)
        card = build_probe_card(
            variant,
            config,
            probe,
            protocol,
            name=output.resolve().name,
            origin=f"`{probe_file.name}`, probe {index or 0} of {several}, and the encoder `{_name(encoder)}`",
            fingerprint=fingerprint,
            released=released is not None,
        )
        card.save(folder / "README.md")
    which = "the only probe" if several == 1 else f"probe {index or 0} of {several}"
    if several > 1 and index is None:
        which += " (the first; --index chooses another, the file does not say which scored best)"
    lines = [
        f"read {probe_file}",
        f"  {which}: {described(config, probe)}",
        *(f"  not used: {key}" for key in probe.dropped),
        *lines,
    ]
    lines.append(f"  reads: {layers_read(config, probe.task == 'anticipation')}")
    lines += [f"released probe: {released or 'none of that name and encoder'}", *notes]
    lines += [f"wrote {len(weights) + len(probe.state)} tensors to {output}", *(f"  {name}" for name in files)]
    return "\n".join(lines)


def revert_probe(folder: Path, output: Path) -> str:
    """Write the heads of our model as an official probe file.

    Raises:
        ConversionError: the folder has no heads, or official code would compute something else with them.
        FileExistsError: the output exists.
    """
    require_new_file(output)
    variant = variant_of_folder(folder)
    if variant.probes is None:
        raise ConversionError(f"{folder} is a model of {variant.title}, which has no official probes")
    config, stored = read_config(variant.config_class(), folder), load_weights(folder)
    state = {key: value for key, value in stored.items() if key.split(".")[0] == "pooler" or "classifier" in key}
    if not state:
        raise ConversionError(f"{folder} has no pooler and no classifier: it is no model with a probe")
    require_finite(state)
    official = variant.probes.write(state, config)
    with new_name(output.resolve()) as temporary:
        torch.save(official, temporary)
    lost: dict[str, Any] = {"--layers": config.classifier_layers}
    if config.pooler_num_attention_heads != (variant.probes.num_attention_heads or config.num_attention_heads):
        lost["--num-attention-heads"] = config.pooler_num_attention_heads
    if "classifier.weight" in state and config.id2label != type(config)(num_labels=config.num_labels).id2label:
        lost["--labels"] = [config.id2label[index] for index in range(config.num_labels)]
    lines = [
        f"wrote {output}",
        f"  {variant.probes.entry}: {len(state)} tensors of ours; the encoder is not part of it",
    ]
    if lost := {name: value for name, value in lost.items() if value}:
        lines.append(f"not in this layout, to be given again on the way back: {json.dumps(lost)}")
    return "\n".join(lines)


def holds_probe(folder: Path) -> bool:
    """Whether a folder's config names a model with the heads of official probes."""
    variant = variant_of_folder(folder)
    names = read_json(folder / "config.json", "a config").get("architectures") or []
    return variant.probes is not None and any(model.__name__ in names for model in variant.probes.models.values())


def _encoder(source: str | Path) -> tuple[Variant, PreTrainedConfig, dict[str, torch.Tensor] | None, list[str]]:
    """Variant, config and, of an official file, tensors (None: in the folder) of an encoder, and a report."""
    path = Path(source)
    if path.is_file() or (path.suffix in FILES and not path.is_dir()):
        variant = variant_of_file(path)
        official = read_torch_checkpoint(path)
        try:
            config, names, notes = architecture(variant.layout, official, path.name, {})
        except ConversionError as error:
            raise ConversionError(
                f"encoder {path}: {error}. An encoder of no released size is converted first, by hf-jepa convert: "
                "then give its folder"
            ) from error
        target_key = variant.layout.sources(official)[variant.layout.target_part]
        config.official_target_key = target_key
        state = variant.layout.convert(official, config, target_key)
        return (
            variant,
            config,
            state,
            [f"encoder: {path}, entry {target_key}, {' or '.join(names) or 'unknown'}", *notes],
        )
    if path.is_dir():
        variant = variant_of_folder(path)
        config = read_config(variant.config_class(), path)
    else:
        fields, _ = PreTrainedConfig.get_config_dict(source)
        variant = find_variant(str(fields.get("model_type")), str(source))
        config = variant.config_class().from_pretrained(source)
    key = getattr(config, "official_target_key", None)
    lines = [f"encoder: {source}, {variant.title}"]
    if key == "encoder":
        lines.append("  note: it is the official entry encoder; released probes were trained on the target_encoder")
    elif key is None:
        lines.append("  note: its config does not say which official entry it is; released probes were trained on the "
                     "target_encoder, repositories in native layout may hold the other")  # fmt: skip
    return variant, config, None, lines


def _set(config: PreTrainedConfig, fields: dict[str, Any]) -> None:
    others = dict.fromkeys((f"num_{name}s" for name in QUESTIONS if hasattr(config, f"num_{name}s")), 0)
    for name, value in (others | fields).items():  # what the encoder's checkpoint answered does not stay
        setattr(config, name, value)
    if "num_labels" in fields:
        config.id2label = {index: f"LABEL_{index}" for index in range(fields["num_labels"])}
        config.label2id = {name: index for index, name in config.id2label.items()}


def _configure(
    variant: Variant,
    config: PreTrainedConfig,
    probe: Probe,
    path: Path,
    layers: Sequence[int] | None,
    num_attention_heads: int | None,
) -> tuple[str | None, Protocol | None, list[str]]:
    """Put a probe into the config of its encoder: the released file that it is, its official evaluation, and notes."""
    layout = variant.probes
    usual = layout.num_attention_heads or config.num_attention_heads
    heads = usual if num_attention_heads is None else num_attention_heads
    config.classifier_layers = list(layers) if layers else None
    _set(config, probe.fields | {"pooler_num_attention_heads": heads, "pooler_layer_norm_eps": EPSILON})
    layout.require_fit(probe, config)
    released, protocol = layout.protocol(path, probe, config)
    notes = _apply_protocol(variant, config, protocol, layers, layout.needs_layers(path), path)
    layout.require_fit(probe, config)
    return released, protocol, notes


def _apply_protocol(
    variant: Variant,
    config: PreTrainedConfig,
    protocol: Protocol | None,
    layers: Sequence[int] | None,
    needs_layers: bool,
    path: Path,
) -> list[str]:
    """Put into the config what an official evaluation says, and say so."""
    if protocol is None:
        if needs_layers and not layers:
            raise ConversionError(
                f"official probes named like {path.name} read several layers, but which is not known for this "
                f"encoder: give --layers (--layers {config.num_hidden_layers - 1} for the last alone)"
            )
        return ["official evaluation: unknown; assumed: the last layer"] if not layers else []
    notes = [f"official evaluation, by the name and classes of the file: {protocol}"]
    if layers is None and protocol.layers:
        config.classifier_layers = list(protocol.layers)
        notes.append(f"  inferred: --layers {' '.join(map(str, protocol.layers))}")
    elif layers is not None and list(layers) != list(protocol.layers or [config.num_hidden_layers - 1]):
        notes.append(f"  note: its probes read layers {list(protocol.layers or ['the last'])}, not {list(layers)}")
    if "frames_per_clip" in variant.layout.untold and config.frames_per_clip != protocol.frames:
        config.frames_per_clip = protocol.frames  # on which no tensor depends here
        notes.append(f"  inferred: frames_per_clip {protocol.frames}")
    return notes


def _name_classes(config: PreTrainedConfig, probe: Probe, labels: Sequence[str]) -> None:
    if probe.task != "classification":
        raise ConversionError("--labels names the classes of a video classifier; a model of anticipation keeps none")
    if len(labels) != config.num_labels or len(set(labels)) != len(labels):
        raise ConversionError(
            f"--labels has {len(labels)} names, {len(set(labels))} of them different, for {config.num_labels} classes"
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}


def _read_labels(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"labels file {path} does not exist")
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"labels file {path} cannot be read: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise ConversionError(f"labels file {path} must hold a list of names, in the order of the classes")
    return labels


def _weights(
    model_class: type[PreTrainedModel],
    source: str | Path | None,
    config: PreTrainedConfig,
    state: dict[str, torch.Tensor] | None,
) -> tuple[dict[str, torch.Tensor], bool]:
    """The tensors of encoder and predictor in a model with heads, and whether the predictor is missing."""
    with quiet_loading():  # that the heads are missing is as it should be
        model, report = model_class.from_pretrained(
            source, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )  # fmt: skip
    heads = {*head_tensors(model_class, config)}
    weights = {key: value for key, value in model.state_dict().items() if key not in heads}
    missing = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])} - heads
    predictor = {key for key in weights if key.startswith(f"{model.base_model_prefix}.predictor.")}
    absent = bool(predictor) and predictor <= set(report["missing_keys"])
    if absent:
        missing -= predictor
        weights = {key: value for key, value in weights.items() if key not in predictor}
    if missing:
        raise ConversionError(
            f"the encoder lacks {len(missing)} tensors, or has them in other shapes: {some(sorted(missing))}"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        raise ConversionError(
            f"{len(unexpected)} tensors beside the encoder have no place in {model_class.__name__}: {some(unexpected)}"
        )
    return weights, absent


def _name(encoder: str | Path) -> str:
    return Path(encoder).name if Path(encoder).exists() else str(encoder)


__all__ = ["add_arguments", "convert_probe", "holds_probe", "revert_probe", "run"]
