"""The program behind `hf-jepa convert`: official file -> ordinary checkpoint, and back."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig

from hf_jepa.core.configuration import require_model_fields
from hf_jepa.core.conversion import OfficialLayout
from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.cards import build_card
from hf_jepa.hub.files import (
    load_weights,
    new_folder,
    new_name,
    read_config,
    read_torch_checkpoint,
    require_finite,
    require_new_file,
    save_weights,
)
from hf_jepa.hub.fingerprint import in_words, load_target_encoder, write_fingerprint
from hf_jepa.hub.processors import load_processor
from hf_jepa.hub.publish import publish
from hf_jepa.registry import VARIANTS, Variant


HEADS = ("num_attention_heads", "pred_num_attention_heads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hf-jepa convert`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="official file to convert")
    source.add_argument("--reverse", type=Path, metavar="DIR", help="our checkpoint, to be written in official layout")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or new file with --reverse")
    for name in HEADS:
        part = "predictor" if name.startswith("pred_") else "encoder"
        parser.add_argument(_option(name), type=int, help=f"heads of the {part}, where the size is not a named one")
    parser.add_argument(
        "--target-key",
        help="official entry that becomes the target encoder: by default the average that the file has under "
        "target_encoder or ema_encoder; encoder for the one that was trained",
    )
    parser.add_argument(
        "--config", type=Path, help="JSON or YAML file of config fields that override what is inferred"
    )
    parser.add_argument("--license", help="of the weights, for the card; released files have their own")
    parser.add_argument(
        "--push-to-hub", metavar="REPO", help="publish the result as this Hub repository, as hf-jepa push does"
    )


def run(variant_name: str, args: argparse.Namespace) -> None:
    """Do what the options say and print a report."""
    variant = VARIANTS[variant_name]
    if args.reverse is not None:
        if args.push_to_hub:
            raise ValueError("--push-to-hub uploads converted checkpoints, not the official layout of --reverse")
        require_unset_with_reverse(args, ("config", *HEADS, "target_key", "license"))
        print(revert_checkpoint(variant, args.reverse, args.output))
        return
    overrides = _read_fields(args.config) if args.config else {}
    require_model_fields(variant.config_class(), overrides)
    overrides |= {name: getattr(args, name) for name in HEADS if getattr(args, name) is not None}
    named = {"repo": args.push_to_hub, "license": args.license}
    print(convert_checkpoint(variant, args.checkpoint, args.output, args.target_key, **named, **overrides))
    if args.push_to_hub:
        print(f"published: {publish(args.output, args.push_to_hub).commit.commit_url}")


def require_unset_with_reverse(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse options that say what the folder of `--reverse` says itself.

    Raises:
        ValueError: one of them is given.
    """
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"{_option(name)} does not go with --reverse, where the folder says it")


def convert_checkpoint(
    variant: Variant,
    checkpoint: Path,
    output: Path,
    target_key: str | None = None,
    repo: str | None = None,
    license: str | None = None,
    **overrides,
) -> str:
    """Convert an official file into a new folder: weights, config, processor, fingerprint and card.

    Args:
        variant: what the file holds.
        checkpoint: the official file; it is mapped, not copied, into memory.
        output: new or empty folder; nothing is left there when the conversion fails.
        target_key: official entry that becomes the target encoder; the average that the file has when unset. The
            config keeps it as `official_target_key`.
        repo: Hub id that the card names; the folder's own name when unset.
        license: of the weights, where they are not those of a released file.
        overrides: config fields that complete or override what the tensors say.

    Returns:
        a report of what was read and written.

    Raises:
        ConversionError: the file is broken, hostile, of another model, or does not fit.
        FileExistsError: the output exists.
    """
    layout = variant.layout
    with new_folder(output) as folder:
        official = read_torch_checkpoint(checkpoint)
        config, names, notes = architecture(layout, official, checkpoint.name, overrides)
        sources = layout.sources(official, target_key)
        target_key = config.official_target_key = sources[layout.target_part]
        config.architectures = [variant.pretraining_model]
        written = len(layout.convert(official, config, target_key))
        lines = [f"  {key}: {len(part)} tensors" for key, part in layout.parts(official).items()]
        lines += [f"  not used: {key} ({_describe(official[key])})" for key in layout.unused(official)]
        lines += [f"  not used: {key}, which this model computes" for key in layout.dropped(official)]
        lines += _starts(layout, sources)
        del official  # unmap the file
        files = save_weights(
            lambda: layout.convert(read_torch_checkpoint(checkpoint, verified=True), config, target_key), folder
        )
        config.save_pretrained(folder)
        if variant.processor_class is not None and config.num_channels == 3:
            load_processor(None, config).save_pretrained(folder)
        # Loading what was written checks the files, not the tensors in memory.
        encoder = load_target_encoder(variant, folder)
        fingerprint = write_fingerprint(encoder, folder)
        facts = {
            "Converted from": f"`{checkpoint.name}`, entry `{target_key}` as target encoder",
            "Architecture of": " or ".join(f"`{known}`" for known in names) if names else "no released file",
            "Parameters of the encoder": f"{encoder.num_parameters():,}",
            "Fingerprint": in_words(fingerprint),
        }
        unverified = "Published accuracies were not measured again with these files."
        name = output.resolve().name
        card = build_card(
            variant, config, name, facts, variant.weights_license if names else license, unverified, repo or name
        )
        card.save(folder / "README.md")
    lines += [f"architecture: {facts['Architecture of'].replace('`', '')}", *notes]
    lines += [f"wrote {written} tensors to {output}", *(f"  {name}" for name in files)]
    return "\n".join([f"read {checkpoint}", *lines])


def architecture(
    layout: OfficialLayout, official: Mapping, file_name: str, overrides: dict[str, Any]
) -> tuple[PreTrainedConfig, tuple[str, ...], list[str]]:
    """The config of a file, the released files it may be, and notes on the fields that its tensors do not tell."""
    config = layout.infer_config(official, **overrides)
    names = layout.released_names(config, official.get("epoch"), file_name)
    open_fields = [name for name in layout.untold if name not in overrides]
    if not open_fields:
        return config, names, []
    if len(names) == 1:
        known = {name: value for name, value in layout.released[names[0]].untold.items() if name in open_fields}
        config = layout.infer_config(official, **(known | overrides))
        source = f"not in the tensors, as of {names[0]}"
    else:
        source = "not in the tensors, assumed (state them by --config)"
    return config, names, [f"  {source}: {', '.join(f'{name} {getattr(config, name)}' for name in open_fields)}"]


def _starts(layout: OfficialLayout, sources: Mapping[str, str]) -> list[str]:
    """What becomes of the parts of the pretraining model for which a file has no entry."""
    lines = []
    for name, entry in layout.entries.items():
        if entry.part not in sources:
            encoder = name in layout.target_keys
            start = "as a copy of the target encoder" if encoder else "from a fresh initialisation"
            lines.append(f"  not in the file: {name}; {entry.part} will start {start}")
    return lines


def revert_checkpoint(variant: Variant, folder: Path, output: Path) -> str:
    """Write our checkpoint in the official layout.

    What the official file also holds (optimizer, epoch, learning rate) is not in ours and is left out.

    Raises:
        ConversionError: a part is missing, as in an encoder-only checkpoint, or does not fit.
        FileExistsError: the output exists.
    """
    require_new_file(output)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder with a checkpoint")
    # The stored tensors themselves, not a model: loading one would fill in missing parts and widen 16-bit targets.
    config, state = read_config(variant.config_class(), folder), load_weights(folder)
    require_finite(state)
    official = variant.layout.revert(state, config)
    with new_name(output.resolve()) as temporary:
        torch.save(official, temporary)
    lines = [f"wrote {output}"]
    if all(isinstance(part, torch.Tensor) for part in official.values()):
        lines.append(f"  {len(official)} tensors")
    else:
        lines += [f"  {key}: {len(part)} tensors" for key, part in official.items()]
    if lost := variant.layout.fields_not_in_layout(config, official):
        lines.append(f"not in this layout, to be given again by --config on the way back: {json.dumps(lost)}")
    return "\n".join(lines)


def _read_fields(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConversionError(f"config file {path} cannot be read: {error}") from error
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise ConversionError(f"config file {path} must hold names of fields and values, not {fields!r}")
    return fields


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _describe(entry) -> str:
    return type(entry).__name__ if isinstance(entry, dict | list | torch.Tensor) else repr(entry)


__all__ = [
    "add_arguments",
    "architecture",
    "convert_checkpoint",
    "require_unset_with_reverse",
    "revert_checkpoint",
    "run",
]
