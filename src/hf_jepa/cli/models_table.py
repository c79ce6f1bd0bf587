"""MODELS.md, from registry and READMEs: `python -m hf_jepa.cli.models_table MODELS.md` (`--check` only compares)."""

import argparse
import re
import sys
from pathlib import Path

from hf_jepa.registry import VARIANTS, Variant


HEADER = """# Models

Written by `make models-table` from `src/hf_jepa/registry.py` and from the sections *Parity* and *Not done* of each
variant's README: edit these, not this file.

*Recorded cases* are numbers that tests compare with (`tests/fixtures/golden`), of the official code unless the last
column says otherwise. No variant was trained at full size by us, so no score of a paper is confirmed, and nothing was
measured on a GPU. [docs/user_requests.md](docs/user_requests.md) says what users of such models ask for, and what of
that is here.

| variant | paper | modality | classes | recipes | conversion | recorded cases | not done |
|---|---|---|---|---|---|---|---|
"""


def row(variant: Variant, root: Path) -> str:
    folder = f"src/hf_jepa/models/{variant.name}"
    readme = (root / folder / "README.md").read_text(encoding="utf-8")
    classes = dict.fromkeys((variant.config, variant.base_model, variant.pretraining_model, *variant.heads.values()))
    recipes = sorted((root / "training_scripts/configs" / variant.name).glob("*.yaml"))
    # The script of released files; else the functions for files of one's own.
    converters = (f"conversion/convert_{variant.name}.py", f"{folder}/official_{variant.name}.py")
    converters = [path for path in converters if (root / path).is_file()]
    cells = (
        f"[{variant.title}]({folder}/README.md)",
        f"[{variant.paper}](https://arxiv.org/abs/{variant.paper})",
        variant.modality,
        " ".join(f"`{name}`" for name in classes if name),
        " ".join(f"[{path.stem}]({path.relative_to(root).as_posix()})" for path in recipes) or "-",
        " ".join(f"[`{Path(path).name}`]({path})" for path in converters[:1]) or "-",
        " ".join(f"`{case}`" for case in recorded_cases(variant, readme, root)) or "-",
        not_done(variant, readme),
    )
    return "| " + " | ".join(cells) + " |\n"


def recorded_cases(variant: Variant, readme: str, root: Path) -> list[str]:
    """Those in the folder of the variant, and those of shared folders that its README names."""
    golden = "tests/fixtures/golden"
    named = [f"{golden}/{variant.name}", *re.findall(rf"`({golden}/[^`]+)`", readme)]
    found = {path for pattern in named for path in root.glob(pattern)}
    cases = {case for path in found for case in (path, *path.iterdir()) if (case / "README.md").is_file()}
    return sorted(case.name for case in cases)


def not_done(variant: Variant, readme: str) -> str:
    """The points of the section "Not done", as one line; links begin at the root of the repository.

    Raises:
        ValueError: the README has no such section.
    """
    section = re.search(r"^## Not done\n\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    if section is None:
        raise ValueError(f"the README of {variant.title} has no section 'Not done': say what is missing or unverified")
    points = [point.removesuffix(".") for point in re.findall(r"^- (.*)$", section[1], re.MULTILINE)]
    return "; ".join(points[:1] + [point[0].lower() + point[1:] for point in points[1:]]).replace("../../../../", "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the MODELS.md of a source checkout")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if the file is not up to date")
    args = parser.parse_args()
    text = HEADER + "".join(row(variant, args.path.resolve().parent) for variant in VARIANTS.values())
    if not args.check:
        args.path.write_text(text, encoding="utf-8")
    elif not args.path.exists() or args.path.read_text(encoding="utf-8") != text:
        print(f"{args.path} is not what registry and READMEs say: run `make models-table`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
