"""Flags, files and modules that the documents name exist."""

import re
from dataclasses import fields
from importlib import import_module

import pytest
from accelerate.commands.launch import launch_command_parser
from documents import DOCUMENTS, ROOT, inline_code, named
from transformers import TrainingArguments


EXAMPLES = ("src/hf_jepa/models/x", "hf_jepa.x", "runs/")  # names that stand for others, and what runs write
OF_OTHERS = {"--help", "--signal"}  # of every program; of SLURM


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """What parsers of the repository add, fields of dataclasses, of which parsers are made, and accelerate's."""
    folders = ("src", "examples", "benchmarks", "conversion", "training_scripts")
    scripts = [path for top in folders for path in (ROOT / top).rglob("*.py") if ".site" not in path.parts]
    code = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    names = {*re.findall(r"^    (\w+): ", code, re.MULTILINE), *(field.name for field in fields(TrainingArguments))}
    return {*re.findall(r'"(--[\w-]+)"', code), *(f"--{name}" for name in names), *OF_OTHERS} | {
        option for action in launch_command_parser()._actions for option in action.option_strings
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_flags_exist(document, flags):
    said = {flag for code in inline_code(document) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert said <= flags, f"{named(document)} names {sorted(said - flags)}, which no program takes"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_files_exist(document):
    places = [ROOT, ROOT / "src/hf_jepa", document.parent]  # where a path may begin
    for code in inline_code(document):
        for path in re.findall(r"(?<![\w./-])[\w.-]+/[\w./*-]+(?![\w{<-])", code):
            of_ours = any((place / path.split("/")[0]).is_dir() for place in places) and not path.startswith(EXAMPLES)
            assert not of_ours or any([*place.glob(path.rstrip("/."))] for place in places), f"there is no {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_modules_and_their_names_exist(document):
    for code in inline_code(document):
        for name in re.findall(r"(?<![\w./])hf_jepa(?:\.\w+)+", code):
            assert name in EXAMPLES or resolves(name), f"there is no {name}"


def resolves(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False
