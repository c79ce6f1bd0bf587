"""Commands that the documents show and no test runs are read by their own programs, up to where these would begin."""

import argparse
import re
import runpy
import shlex
import sys

import pytest
from accelerate.commands.launch import launch_command_parser
from documents import DOCUMENTS, ROOT, blocks, inline_code, named
from transformers import HfArgumentParser

from hf_jepa.cli.main import main


PROGRAMS = ("hf-jepa ", "python ", "accelerate launch ")
# Those that train several variants name one, that of the recipe.
OF_SEVERAL_VARIANTS = ("pretrain_image.py", "pretrain_vjepa.py", "pretrain_world_model.py", "train")
STAND_INS = {"RECIPE": None, "[--private]": "--private"}  # words of the documents, and what is read in their place
NOT_READ = ("python training_scripts/sweep_image.py",)  # its recipe is that of a run, and exists after the run only


class ReadToTheEnd(Exception):
    """The program has understood its arguments, and would begin."""


def shown() -> list:
    """Commands in blocks without a language, and those in the text, which may be parts of a command."""
    found = {}
    for document in DOCUMENTS:
        whole = [line for block in blocks(document, "") for line in block.replace("\\\n", " ").splitlines()]
        parts = [code for code in inline_code(document) if " --" in code and not code.startswith("accelerate")]
        for line in (" ".join(line.split()) for line in [*whole, *parts]):
            if line.startswith(PROGRAMS) and not line.startswith(NOT_READ):
                found.setdefault(line, (named(document), line in parts))
    return [pytest.param(line, part, id=f"{document}: {line}"[:110]) for line, (document, part) in found.items()]


@pytest.fixture
def read_only(monkeypatch):
    parse_args = argparse.ArgumentParser.parse_args

    def read(parser, args=None, namespace=None):
        found = parse_args(parser, args, namespace)
        if [action.dest for action in parser._actions] == ["help", "variant"]:  # another parser reads the recipe
            return found
        raise ReadToTheEnd

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    monkeypatch.setattr(HfArgumentParser, "parse_args_into_dataclasses", lambda parser, args=None: read(parser, args))


def begin(words: list[str], monkeypatch) -> int | None:
    """Start the program in this process; its exit status."""
    program, *rest = words
    if program == "hf-jepa":
        return main(rest)
    module = rest[0] == "-m"
    monkeypatch.setattr(sys, "argv", rest[module:])
    try:
        if module:
            runpy.run_module(rest[1], run_name="__main__")
        else:
            monkeypatch.syspath_prepend(str((ROOT / rest[0]).parent))  # modules beside the script
            runpy.run_path(rest[0], run_name="__main__")
    except SystemExit as left:
        return left.code


@pytest.mark.parametrize(("line", "part"), shown())
def test_its_program_takes_a_command(line, part, read_only, monkeypatch, capsys):
    words = [STAND_INS.get(word, word) for word in shlex.split(line, comments=True)]
    words = [word for word in words if word is not None]
    if words[0] == "accelerate":
        launch, _ = launch_command_parser().parse_known_args(words[2:])
        assert launch.config_file is None or (ROOT / launch.config_file).is_file(), launch.config_file
        words = ["python", launch.training_script, *launch.training_script_args]
    recipe = re.search(r"training_scripts/configs/(\w+)/", line)
    if recipe and words[1].endswith(OF_SEVERAL_VARIANTS):
        assert words[2] == recipe[1], f"{line}\nnames no variant, or another one than that of its recipe"
    monkeypatch.chdir(ROOT)
    try:
        status = begin(words, monkeypatch)
    except ReadToTheEnd:
        return
    told = capsys.readouterr().err
    unfinished = part and re.search("the following arguments are required|expected one argument", told)
    assert unfinished or "--help" in words, f"{line}\nended with {status}: {told}"
