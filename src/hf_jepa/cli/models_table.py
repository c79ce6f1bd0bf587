"""MODELS.md, written from the registry: `python -m hf_jepa.cli.models_table MODELS.md` (`--check` only compares)."""

import argparse
import sys
from pathlib import Path

from hf_jepa.registry import VARIANTS, Variant


HEADER = """# Models

Written by `make models-table` from `src/hf_jepa/registry.py`; edit the registry, not this file.

| variant | paper | modality | classes | recipes | conversion | golden cases |
|---|---|---|---|---|---|---|
"""


def row(variant: Variant, root: Path) -> str:
    classes = dict.fromkeys((variant.config, variant.base_model, variant.pretraining_model, *variant.heads.values()))
    recipes = sorted((root / "training_scripts/configs" / variant.name).glob("*.yaml"))
    cases = sorted(path.name for path in (root / "tests/fixtures/golden" / variant.name).glob("*") if path.is_dir())
    conversion = f"[`convert_{variant.name}.py`](conversion/convert_{variant.name}.py)" if variant.convertible else "-"
    cells = (
        f"[{variant.title}](src/hf_jepa/models/{variant.name}/README.md)",
        f"[{variant.paper}](https://arxiv.org/abs/{variant.paper})",
        variant.modality,
        " ".join(f"`{name}`" for name in classes if name),
        " ".join(f"[{path.stem}]({path.relative_to(root).as_posix()})" for path in recipes),
        conversion,
        " ".join(f"`{case}`" for case in cases),
    )
    return "| " + " | ".join(cells) + " |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the MODELS.md of a source checkout")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if the file is not up to date")
    args = parser.parse_args()
    text = HEADER + "".join(row(variant, args.path.resolve().parent) for variant in VARIANTS.values())
    if not args.check:
        args.path.write_text(text, encoding="utf-8")
    elif not args.path.exists() or args.path.read_text(encoding="utf-8") != text:
        print(f"{args.path} is not what the registry says: run `make models-table`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
