"""Write a released LeWorldModel folder (`weights.pt`, `config.json`) under our names, and back.

The class paths in `config.json` are compared with known names, never imported; `weights.pt` is read without running
code from it. A `weights.pt` alone is converted by `hf-jepa convert --variant lewm`.

python conversion/convert_lewm.py --checkpoint lewm-pusht --output lewm-pusht-hf [--frame-skip 5]
python conversion/convert_lewm.py --reverse lewm-pusht-hf --output lewm-pusht
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from hf_jepa.hub.conversion import convert_checkpoint
from hf_jepa.hub.files import load_weights, new_folder, read_config, read_json, read_torch_checkpoint, require_finite
from hf_jepa.models.lewm.config_tree_lewm import check_tree, config_tree, fields_of_tree
from hf_jepa.models.lewm.configuration_lewm import LeWorldModelConfig
from hf_jepa.models.lewm.convert_lewm import LAYOUT
from hf_jepa.registry import VARIANTS


WEIGHTS, CONFIG = "weights.pt", "config.json"


def convert(source: Path, output: Path, frame_skip: int | None = None) -> str:
    """Released folder -> ours; a report."""
    for name in (WEIGHTS, CONFIG):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} has no {name}: a released folder has {WEIGHTS} and {CONFIG}")
    tree = read_json(source / CONFIG, "the config of a LeWorldModel")
    fields = fields_of_tree(tree) | ({} if frame_skip is None else {"frame_skip": frame_skip})
    check_tree(tree, LAYOUT.infer_config(read_torch_checkpoint(source / WEIGHTS), **fields))
    return convert_checkpoint(VARIANTS["lewm"], source / WEIGHTS, output, **fields)


def revert(source: Path, output: Path) -> str:
    """Ours -> a folder in the released layout; a report."""
    config, state = read_config(LeWorldModelConfig, source), load_weights(source)
    require_finite(state)
    official = LAYOUT.revert(state, config)
    with new_folder(output) as folder:
        torch.save(official, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config_tree(config), indent=2), encoding="utf-8")
    return f"wrote {len(official)} tensors to {output / WEIGHTS}, and {CONFIG} beside it"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="released folder")
    source.add_argument("--reverse", type=Path, metavar="DIR", help="our checkpoint, to be written in that layout")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    parser.add_argument("--frame-skip", type=int, help="primitive actions of an action, which the folder does not say")
    args = parser.parse_args()
    try:
        if args.reverse is not None and args.frame_skip is not None:
            raise ValueError("--frame-skip does not go with --reverse: the released layout has no place for it")
        if args.reverse is not None:
            print(revert(args.reverse, args.output))
        else:
            print(convert(args.checkpoint, args.output, args.frame_skip))
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
