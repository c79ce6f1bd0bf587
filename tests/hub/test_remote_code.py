"""The bundler: which imports it follows, which it refuses, and what it leaves as it was."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from hf_jepa.hub.remote_code import Package, RemoteCodeError, bundle, require_loadable


TOY = Package(name="toy_jepa", version="1.2.3", parts=("layers", "models"))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package; gives a function that writes its modules, dotted name -> text."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**modules: str) -> None:
        for name, text in ({"layers__norm": "EPS = 1e-6\n"} | modules).items():
            path = tmp_path / "toy_jepa" / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in (path.parent, tmp_path / "toy_jepa"):
                (folder / "__init__.py").touch()
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "toy_jepa"]:
        del sys.modules[name]  # of the next test it lies elsewhere


def bundled(*modules: str) -> dict[str, str]:
    return bundle([f"toy_jepa.{module}" for module in modules], TOY)


FOLLOWED = {
    "absolute": ("from toy_jepa.layers.norm import EPS\n", "from .layers_norm import EPS\n"),
    "renamed": ("from toy_jepa.layers.norm import EPS as e\n", "from .layers_norm import EPS as e\n"),
    "all": ("from toy_jepa.layers.norm import *\n", "from .layers_norm import *\n"),
    "several lines": (
        "from toy_jepa.layers.norm import (\n    EPS,  # small\n)\n",
        "from .layers_norm import (\n    EPS,  # small\n)\n",
    ),
    "continued": ("from toy_jepa.layers.norm \\\n    import EPS\n", "from .layers_norm import EPS\n"),
    "relative": ("from ...layers.norm import EPS\n", "from .layers_norm import EPS\n"),
    "relative sibling": ("from .other import EPS\n", "from .other import EPS\n"),
    "in a function": (
        "def f():\n    from toy_jepa.layers.norm import EPS  # late\n\n    return EPS\n",
        "def f():\n    from .layers_norm import EPS  # late\n\n    return EPS\n",
    ),
    "in a condition": (
        "if True:\n    from toy_jepa.layers.norm import EPS\n",
        "if True:\n    from .layers_norm import EPS\n",
    ),
    "for types": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from toy_jepa.layers.norm import EPS\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .layers_norm import EPS\n",
    ),
}


@pytest.mark.parametrize("form", FOLLOWED)
def test_imports_are_followed_and_rewritten_and_nothing_else_changes(toy, form, tmp_path):
    before, after = FOLLOWED[form]
    body = '"""What it is: `from toy_jepa.layers.norm import EPS`."""\n\n{}\n\nX = 1  # why:   kept\n'
    toy(models__x__modeling_x=body.format(before), models__x__other="EPS = 2\n")
    files = bundled("models.x.modeling_x")
    needed = "other.py" if "sibling" in form else "layers_norm.py"
    assert list(files) == sorted([needed, "modeling_x.py"])
    header, text = files["modeling_x.py"].split('"""', 1)
    assert '"""' + text == body.format(after)
    assert header.splitlines() == [
        "# Copied from toy_jepa 1.2.3, toy_jepa/models/x/modeling_x.py, where it is maintained; only imports differ.",
        "# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0",
    ]
    assert ast.get_docstring(ast.parse(files["modeling_x.py"])).startswith("What it is")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    require_loadable(tmp_path, files, ["modeling_x.py"], TOY)


REFUSED = {
    "import toy_jepa.layers.norm\n": "line 1: write `from toy_jepa... import name`",
    "import os, toy_jepa.layers.norm as n\n": "line 1: write `from toy_jepa... import name`",
    "\nfrom toy_jepa.layers import norm\n": "line 2 imports from the package toy_jepa.layers",
    "from toy_jepa import layers\n": "imports from toy_jepa itself",
    "from ... import layers\n": "imports from toy_jepa itself",
    "from . import other\n": "imports from the package toy_jepa.models.x",
    "from toy_jepa.layers.lost import X\n": "imports toy_jepa.layers.lost, which does not exist",
    "from toy_jepa.training.trainer import X\n": "toy_jepa.training.trainer, which is no part of a model",
    "def f():\n    from toy_jepa.training.trainer import X\n": "line 2 imports toy_jepa.training.trainer",
    "from toy_jepa.models.x.convert_x import X\n": "convert_x, which is no part of a model",
    "import math; from toy_jepa.layers.norm import EPS\n": "line 1: an import has to begin its line",
    "from importlib import import_module\nimport_module('toy_jepa.layers.norm')\n": "line 2: import_module imports",
    "import importlib\nimportlib.import_module('.norm', 'x')\n": "import_module imports what the text does not say",
    "name = 'torch'\n__import__(name)\n": "line 2: __import__ imports what the text does not say",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_followed_or_has_no_business_there_is_refused(toy, text):
    toy(
        models__x__modeling_x=text,
        models__x__other="EPS = 2\n",
        models__x__convert_x="X = 1\n",
        training__trainer="X = 1\n",
    )
    with pytest.raises(RemoteCodeError, match=r"toy_jepa/models/x/modeling_x\.py") as refusal:
        bundled("models.x.modeling_x")
    assert REFUSED[text] in str(refusal.value)


def test_what_is_reached_is_copied_once_and_nothing_else(toy):
    toy(
        layers__a="from toy_jepa.layers.b import B\n",
        layers__b="def f():\n    from toy_jepa.layers.a import A\n\nB = 1\n",
        layers__unused="U = 1\n",
        models__x__modeling_x="from toy_jepa.layers.a import B\nfrom toy_jepa.layers.b import B as C\n",
    )
    assert list(bundled("models.x.modeling_x", "layers.a")) == ["layers_a.py", "layers_b.py", "modeling_x.py"]


def test_two_modules_of_one_file_name_are_refused(toy):
    toy(models__x__common="X = 1\n", models__y__common="X = 2\n")
    with pytest.raises(RemoteCodeError, match="would both be copied to common.py"):
        bundled("models.x.common", "models.y.common")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import peft\n", "modeling_x.py imports peft, which not everybody has"),
        ("def f():\n    from deepspeed import zero\n", "imports deepspeed, which not everybody has"),
        ('"""Read as code:\n\nfrom .elsewhere import X\n"""\n', "elsewhere.py, which is none"),
    ],
)
def test_what_transformers_would_want_installed_or_copied_is_refused(toy, tmp_path, text, message):
    toy(models__x__modeling_x=text)
    files = bundled("models.x.modeling_x")
    (tmp_path / "modeling_x.py").write_text(files["modeling_x.py"])
    with pytest.raises(RemoteCodeError, match=message):
        require_loadable(tmp_path, files, ["modeling_x.py"], TOY)


def test_a_file_that_nothing_needs_is_noticed(toy, tmp_path):
    toy(models__x__modeling_x="import torch\n")
    files = bundled("models.x.modeling_x", "layers.norm")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(RemoteCodeError, match=r"disagree on which files are needed: \['layers_norm.py'\]"):
        require_loadable(tmp_path, files, ["modeling_x.py"], TOY)


def test_a_copied_module_of_this_package_is_its_text_with_other_imports():
    files = bundle(["hf_jepa.models.ijepa.modeling_ijepa"], Package(version="9"))
    for name, module in (("modeling_ijepa.py", "models/ijepa/modeling_ijepa"), ("core_ema.py", "core/ema")):
        original = Path(__import__("hf_jepa").__file__).parent / f"{module}.py"
        ours, copied = original.read_text().splitlines(), files[name].splitlines()[2:]
        changed = [(old, new) for old, new in zip(ours, copied, strict=True) if old != new]
        assert changed and all(
            old.startswith("from hf_jepa.")
            and new.startswith("from .")
            and old.split(" import ")[1:] == new.split(" import ")[1:]
            for old, new in changed
        )
    parts = {name.split("_")[0] for name in files}
    assert parts <= {"configuration", "core", "layers", "losses", "modeling"}
