"""Write a NEPA repository of the Hub under our names, and back.

`from_pretrained` reads such repositories as they are. This is for what it does not do: it refuses anything that is not
exactly the official layout, can take the average over training instead (`pytorch_model_ema.bin`), and adds processor,
fingerprint and card.

python conversion/convert_nepa.py --checkpoint nepa-base-patch14-224 --output nepa-base [--ema]
python conversion/convert_nepa.py --reverse nepa-base --output nepa-base-patch14-224
"""

import argparse
import sys
from pathlib import Path

from hf_jepa.hub.cards import build_card
from hf_jepa.hub.files import (
    load_weights,
    new_folder,
    read_config,
    read_torch_checkpoint,
    require_finite,
    save_weights,
)
from hf_jepa.hub.fingerprint import in_words, load_target_encoder, write_fingerprint
from hf_jepa.models.nepa.configuration_nepa import NepaConfig
from hf_jepa.models.nepa.convert_nepa import CLASSIFIER_LAYOUT, LAYOUT, hub_entries, hub_state, layout_of
from hf_jepa.registry import VARIANTS


EMA_FILE = "pytorch_model_ema.bin"


def convert(source: Path, output: Path, ema: bool = False) -> str:
    """Hub layout -> ours; a report. `ema`: the weights of `pytorch_model_ema.bin`."""
    config = read_config(NepaConfig, source)
    entries = hub_entries(read_torch_checkpoint(source / EMA_FILE) if ema else load_weights(source))
    layout = layout_of(entries)
    state = layout.convert(entries, config)
    config.architectures = [layout.model_class.__name__]
    with new_folder(output) as folder:
        files = save_weights(lambda: state, folder)
        config.save_pretrained(folder)
        VARIANTS["nepa"].processor(config).save_pretrained(folder)
        encoder = load_target_encoder(VARIANTS["nepa"], folder)
        numbers = write_fingerprint(encoder, folder)
        facts = {
            "Converted from": f"`{source.name}`, {f'`{EMA_FILE}`' if ema else 'its safetensors'}",
            "Architecture of": " or ".join(f"`{name}`" for name in layout.released_names(config)) or "no released one",
            "Parameters of the encoder": f"{encoder.num_parameters():,}",
            "Fingerprint": in_words(numbers),
        }
        task = "image-classification" if layout is CLASSIFIER_LAYOUT else None
        unverified = "Published accuracies were not measured again with these files."
        name = output.resolve().name
        build_card(VARIANTS["nepa"], config, name, facts, "apache-2.0", unverified, name, task=task).save(
            folder / "README.md"
        )
    return f"wrote {len(state)} tensors of a {layout.title} to {output}: {', '.join(files)}"


def revert(source: Path, output: Path) -> str:
    """Ours -> Hub layout, for the official class; a report."""
    config, state = read_config(NepaConfig, source), load_weights(source)
    require_finite(state)
    layout = CLASSIFIER_LAYOUT if "classifier.weight" in state else LAYOUT
    official = hub_state(layout.revert(state, config))
    config.architectures = [f"ViT{layout.model_class.__name__}"]  # the official class is called so
    with new_folder(output) as folder:
        files = save_weights(lambda: official, folder)
        config.save_pretrained(folder)
    return f"wrote {len(official)} tensors in the Hub's layout to {output}: {', '.join(files)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="repository of the Hub, downloaded")
    source.add_argument(
        "--reverse", type=Path, metavar="DIR", help="our checkpoint, to be written in the Hub's layout"
    )
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    parser.add_argument("--ema", action="store_true", help=f"take the weights of {EMA_FILE} (with --checkpoint)")
    args = parser.parse_args()
    try:
        if args.reverse is not None and args.ema:
            raise ValueError("--ema does not go with --reverse: it says which official weights to read")
        print(revert(args.reverse, args.output) if args.reverse else convert(args.checkpoint, args.output, args.ema))
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
