"""Convert all officially released files of `official_files.yaml`, or prove beforehand that all of them will fit.

python conversion/convert_all.py --dry-run
python conversion/convert_all.py --output converted --only 'ijepa_*' vjepa2_vitl_ssv2

The proof needs neither files nor memory. For each file it makes the keys and shapes that the official code gives them,
which the table lists independently of the converters, and checks that every key has exactly one place of its shape in
the full-size model, every place exactly one key, and that the way back gives the same keys.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from hf_jepa.cli.tables import table
from hf_jepa.core.key_map import ConversionError, require_same_keys
from hf_jepa.core.probe_conversion import EPSILON, head_tensors
from hf_jepa.hub.conversion import convert_checkpoint
from hf_jepa.hub.download import download, sha256_of
from hf_jepa.hub.files import new_name, read_config, read_json
from hf_jepa.hub.fingerprint import FILE_NAME
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.hub.probes import convert_probe
from hf_jepa.registry import VARIANTS, Variant


HERE = Path(__file__).resolve().parent
CARDS = HERE.parent / "model_cards"
STATE = "convert_all.json"
UNKNOWN_CLASSES = {"verbs": 5, "nouns": 7, "actions": 11}  # any numbers do: a probe tells its own


@dataclass(frozen=True)
class OfficialFile:
    """A row of the table, with its family."""

    name: str
    path: str
    family: Mapping[str, Any]
    sizes: Mapping[str, int]
    parameters: Mapping[str, int | str]
    encoder: str | None = None

    @property
    def variant(self) -> Variant:
        return VARIANTS[self.family["variant"]]

    @property
    def url(self) -> str:
        return self.family["address"] + self.path

    @property
    def card(self) -> dict[str, Any]:
        return yaml.safe_load((CARDS / f"{self.name}.yaml").read_text(encoding="utf-8"))

    @property
    def probe(self) -> bool:
        return self.family.get("probe", False)


def read_table(path: Path) -> dict[str, OfficialFile]:
    """Name of the repository -> its official file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = [
        OfficialFile(
            name=row["card"],
            path=row["path"],
            family=content["families"][row["family"]],
            sizes=row.get("sizes", {}),
            parameters=row.get("parameters", {}),
            encoder=row.get("encoder"),
        )
        for row in content["files"]
    ]
    names = {row.name: row for row in rows}
    if len(names) < len(rows):
        raise ValueError(f"{path} has {len(rows)} files, but only {len(names)} different names")
    return names


# --- the proof ------------------------------------------------------------------------------------------------------


def official_keys(keys: Mapping[str, list | None], sizes: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The keys of a table, written out, with their shapes."""
    known = UNKNOWN_CLASSES | dict(sizes)
    for template, shape in keys.items():
        if shape is None:  # taken out of an inherited table
            continue
        parts = re.split(r"{(.*?)}", template)
        choices = [
            [str(i) for i in range(known[part])] if odd and part in known else part.split(",") if odd else [part]
            for odd, part in ((index % 2, part) for index, part in enumerate(parts))
        ]
        for chosen in product(*choices):
            yield "".join(chosen), tuple(_side(side, known) for side in shape)


def _side(side: int | str, known: Mapping[str, int]) -> int:
    """A number, a size or a product of them."""
    return math.prod(known[factor] if factor in known else int(factor) for factor in str(side).split("*"))


def official_tensors(row: OfficialFile) -> dict[str, Any]:
    """The official file as its table describes it, without numbers."""
    family = row.family
    states = {
        name: {family["prefix"] + key: torch.empty(s, device="meta") for key, s in official_keys(keys, row.sizes)}
        for name, keys in family["keys"].items()
    }
    content = {entry: dict(states[name]) for entry, name in family["entries"].items()}
    several = row.probe and row.variant.probes.several
    return {entry: [state] if several else state for entry, state in content.items()}


def prove(rows: Mapping[str, OfficialFile], row: OfficialFile) -> list[str]:
    """Check a file against the full-size model.

    Returns:
        name, file, numbers of keys and places, and parameters, for the report.

    Raises:
        ConversionError: a key has no place or several, a place no key, or a count is not the published one.
    """
    official = official_tensors(row)
    places = _prove_probe(rows, row, official) if row.probe else _prove_model(row, official)
    keys = row.family["keys"]
    found = {
        name: sum(math.prod(shape) for key, shape in official_keys(keys[name], row.sizes) if "pos_embed" not in key)
        for name in keys
    }
    for name, published in row.parameters.items():
        if not _agree(found[name], published):
            raise ConversionError(f"{row.name}: its {name} has {found[name]:,} parameters, published are {published}")
    count = sum(len(state) for entry in official.values() for state in (entry if isinstance(entry, list) else [entry]))
    shown = ", ".join(f"{name} {found[name]:,}" for name in found)
    unknown = row.probe and "linear.weight" not in {key for key, s in keys["probe"].items() if s} and "classes unknown"
    return [row.name, row.path, str(count), str(places), unknown or shown]


def _prove_model(row: OfficialFile, official: dict[str, Any]) -> int:
    layout, fields = row.variant.layout, row.card["architecture"]
    config = row.variant.config_class().from_size(**{name: v for name, v in fields.items() if name != "source"})
    config.official_target_key = layout.sources(official)[layout.target_part]
    if layout.released_names(config, file_name=row.path.rpartition("/")[2]) != (row.path.rpartition("/")[2],):
        raise ConversionError(f"{row.name}: the converter does not know {row.path} by this architecture")
    ours = layout.convert(official, config)  # refuses keys without a place, places without a key, other shapes
    with torch.device("meta"):
        require_same_keys(ours, layout.model_class(config).state_dict(), "the whole model")
    back = layout.revert(ours, config)
    for entry, state in official.items():  # two keys of one place would come back as one
        require_same_keys(back.get(entry, {}), state, f"way back to {entry!r}")
    more = {entry: dict(state) for entry, state in official.items()}
    for key in row.family.get("dropped", ()):
        for entry in more:
            if (entry == "predictor") == key.startswith("predictor"):
                more[entry][row.family["prefix"] + key] = torch.empty(1, device="meta")
    require_same_keys(layout.convert(more, config), ours, "file with keys that are dropped")
    return len(ours)


def _prove_probe(rows: Mapping[str, OfficialFile], row: OfficialFile, official: dict[str, Any]) -> int:
    layout, fields = row.variant.probes, rows[row.encoder].card["architecture"]
    config = row.variant.config_class().from_size(**{name: v for name, v in fields.items() if name != "source"})
    probe = layout.read(official)
    heads = layout.num_attention_heads or config.num_attention_heads
    for name, value in (
        probe.fields | {"pooler_num_attention_heads": heads, "pooler_layer_norm_eps": EPSILON}
    ).items():
        setattr(config, name, value)
    layout.require_fit(probe, config)
    dropped = set(row.family.get("dropped", ()))
    if set(probe.dropped) != dropped:
        raise ConversionError(f"{row.name}: dropped are {sorted(probe.dropped)}, the table says {sorted(dropped)}")
    require_same_keys(probe.state, head_tensors(layout.model_class(probe.task), config), "heads")
    back = layout.write(probe.state, config)
    require_same_keys(layout.states(back)[0], layout.states(official)[0], "way back")
    return len(probe.state)


def _agree(found: int, published: int | str) -> bool:
    """Whether a count is the published one, which may be rounded, as 86.8M."""
    if isinstance(published, int):
        return found == published
    digits = len(published.rstrip("M").partition(".")[2])
    return f"{found / 1e6:.{digits}f}M" == published


# --- the conversion -------------------------------------------------------------------------------------------------


def convert_file(row: OfficialFile, output: Path, files: Path | None, state: dict[str, Any]) -> str:
    """Convert a file into `output/<name>`, unless that is finished; what became of it."""
    folder, done = output / row.name, state.get(row.name)
    if folder.exists():
        same = done and done["url"] == row.url and _fingerprint(folder) == done["fingerprint"]
        if same and inspect_checkpoint(folder)[1]:
            return "finished before"
        raise ConversionError(f"{folder} is there, but not as this program left it: remove it to convert it again")
    file = files / row.path if files is not None else download(row.url).path
    if row.probe:
        if not (output / row.encoder).is_dir():
            raise ConversionError(f"{row.name} needs its encoder: convert {row.encoder} first")
        convert_probe(file, output / row.encoder, folder)
    else:
        convert_checkpoint(row.variant, file, folder, repo=row.name)
        _require_released(row, folder)
    state[row.name] = {"url": row.url, "sha256": sha256_of(file), "fingerprint": _fingerprint(folder)}
    _write_state(output, state)
    return "converted"


def _fingerprint(folder: Path) -> dict[str, Any]:
    path = folder / FILE_NAME
    return read_json(path, "a fingerprint") if path.is_file() else {}


def _require_released(row: OfficialFile, folder: Path) -> None:
    layout, name = row.variant.layout, row.path.rpartition("/")[2]
    known = layout.released_names(read_config(layout.config_class, folder), file_name=name)
    if name in layout.released and known != (name,):
        raise ConversionError(f"{folder} is not of the architecture of {name}: the file is another than its name says")


def _write_state(output: Path, state: Mapping[str, Any]) -> None:
    with new_name(output / STATE) as path:
        path.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def chosen(rows: Mapping[str, OfficialFile], patterns: list[str] | None) -> list[OfficialFile]:
    """The rows that patterns name; all without patterns."""
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in rows):
            raise ValueError(f"--only {pattern!r} names none of the files: {', '.join(rows)}")
    return [row for row in rows.values() if not patterns or any(fnmatchcase(row.name, p) for p in patterns)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="prove that all keys fit; nothing is downloaded")
    parser.add_argument("--output", type=Path, help="folder of the converted repositories, which may have some")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names, or patterns as 'ijepa_*'")
    parser.add_argument("--files", type=Path, help="take the official files from this folder instead of the network")
    parser.add_argument("--table", type=Path, default=HERE / "official_files.yaml", help="another table")
    args = parser.parse_args()
    if args.dry_run == (args.output is not None):
        parser.error("give either --dry-run or --output")
    rows, lines, failed, state = read_table(args.table), [], [], {}
    if args.output is not None and (args.output / STATE).is_file():
        state = read_json(args.output / STATE, "the state of this program")
    for row in chosen(rows, args.only):
        try:
            if args.dry_run:
                lines.append([*prove(rows, row), "fits"])
            else:
                lines.append([row.name, row.path, convert_file(row, args.output, args.files, state)])
        except (ValueError, OSError) as error:  # the others are still to be tried
            failed.append(f"{row.name}: {' '.join(str(error).split())}")
    if lines:
        print(
            table(
                ["repository", "file", *(["keys", "places", "parameters", "result"] if args.dry_run else ["result"])],
                lines,
            )
        )
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
