"""Help for every command, and one line with status 2 for wrong input, never a traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hf_jepa.cli import masks
from hf_jepa.cli.main import COMMANDS, main
from hf_jepa.hub.files import new_folder


def refused(argv, capsys) -> str:
    """The one line on stderr of a command that must exit with 2."""
    assert main([str(arg) for arg in argv]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    # Reading data may leave progress bars on stderr before the line.
    lines = [line for line in error.splitlines() if line.startswith("hf-jepa")]
    assert len(lines) == 1 and error.rstrip().endswith(lines[0]), error
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument_and_ends_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: hf-jepa")
    assert COMMANDS[command].split()[0].capitalize() in text
    example = " ".join(text.split("example:")[1].split())
    assert example.startswith(f"hf-jepa {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_has_a_help_text(command):
    from importlib import import_module

    actions = import_module(f"hf_jepa.cli.{command}").parser()._actions
    assert [action.dest for action in actions if not action.help] == []


def test_the_overview_names_all_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hf_jepa ")


def test_help_does_not_import_torch():
    code = (
        "import sys; from hf_jepa.cli.main import COMMANDS, main\n"
        "light = set(COMMANDS) - {'convert'}  # its options are those of the converters, which live beside torch\n"
        "for argv in (['--help'], *([name, '--help'] for name in light)): assert main(argv) == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_commands_and_options(capsys):
    assert "unknown command 'mask'" in refused(["mask", "x.jpg"], capsys)
    assert "name a command" in refused([], capsys)
    assert "--sampels" in refused(["masks", "--sampels", "3"], capsys)
    assert "invalid choice: 'vjepa9'" in refused(["train", "vjepa9"], capsys)
    assert "invalid choice: 'data2vec_text'" in refused(["train", "data2vec_text"], capsys)  # which has no program
    assert "required" in refused(["embed", "a", "b"], capsys)


def test_a_bug_shows_its_traceback(monkeypatch):
    def broken(argv):
        raise KeyError("a bug")

    monkeypatch.setattr(masks, "main", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["masks"])


@pytest.mark.parametrize("exists", [False, True])
def test_sigterm_leaves_no_temporary_folder(tmp_path, monkeypatch, exists):
    def stopped(argv):
        with new_folder(tmp_path / "output") as folder:
            (folder / "weights").write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    if exists:
        (tmp_path / "output").mkdir()
    monkeypatch.setattr(masks, "main", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["masks"]) == 143
    assert [path.name for path in tmp_path.rglob("*")] == ["output"] * exists
    assert signal.getsignal(signal.SIGTERM) == before, "the handler of the caller is back"


def test_traceback_on_request(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "masks", str(tmp_path / "none.jpg")])


def test_messages_of_several_lines_become_one(monkeypatch, capsys):
    def refuse(argv):
        raise ValueError("first\n  second")

    monkeypatch.setattr(masks, "main", refuse)
    assert refused(["masks"], capsys) == "hf-jepa masks: error: first second"
