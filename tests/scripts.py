"""Scripts run as by `python SCRIPT ARGUMENTS`, but in this process, which has imported what they need."""

import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

import pytest


def run_script(script: Path, *arguments: object) -> CompletedProcess:
    """Its exit status and what it printed."""
    command, out, err, status = [str(script), *map(str, arguments)], StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as changes, redirect_stdout(out), redirect_stderr(err):
        changes.setattr(sys, "argv", command)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as left:
            status = left.code or 0
    return CompletedProcess(command, status, out.getvalue(), err.getvalue())
