"""Copies of modules of this package that run without it, as transformers wants code beside weights.

transformers loads such code (`trust_remote_code=True`) from one flat folder, whose modules import each other by
`from .name import ...` at the start of a line. So every module that is reached by imports becomes one file; its text
stays as it is but for the imports and a header. Imports that cannot be followed by reading the text are refused.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from transformers.dynamic_module_utils import get_imports, get_relative_import_files


PACKAGE = "hf_jepa"
# Where models are made of; all else trains, judges or publishes them.
PARTS = ("core", "layers", "losses", "masking", "models")
# What everybody has who loads a model by transformers.
EVERYWHERE = frozenset({"huggingface_hub", "numpy", "safetensors", "torch", "transformers"})
_IMPORTING_CALLS = ("import_module", "__import__")


class RemoteCodeError(ValueError):
    """Code that cannot be copied; the message names file and line, and what to write instead."""


@dataclass(frozen=True)
class Package:
    """What is copied from.

    Args:
        name: of the package.
        version: for the header of every file.
        parts: the first level of the modules that may be copied.
        left_out: beginnings of the names of modules that may not, wherever they lie.
    """

    name: str = PACKAGE
    version: str = ""
    parts: Collection[str] = PARTS
    left_out: tuple[str, ...] = ("convert_",)

    def holds(self, module: str) -> bool:
        return module.split(".")[0] == self.name

    def source(self, module: str, where: str) -> Path:
        """The file of a module that may be copied.

        Raises:
            RemoteCodeError: it may not, there is none, or it is a package.
        """
        parts = module.split(".")
        if len(parts) < 2:
            raise RemoteCodeError(f"{where} imports from {module} itself: write `from {module}.<...> import name`")
        if parts[1] not in self.parts or parts[-1].startswith(self.left_out):
            raise RemoteCodeError(
                f"{where} imports {module}, which is no part of a model: a copy beside weights holds "
                f"{', '.join(self.parts)} only. Move what the model needs there"
            )
        spec = find_spec(module)
        if spec is None:
            raise RemoteCodeError(f"{where} imports {module}, which does not exist")
        if spec.submodule_search_locations is not None:
            raise RemoteCodeError(
                f"{where} imports from the package {module}: write `from {module}.<file> import name`"
            )
        return Path(spec.origin)

    def file_name(self, module: str) -> str:
        """Name of the copy: modules of a variant keep theirs, which is unique, others get their part in front.

        Example:
            >>> Package().file_name("hf_jepa.layers.attention")
            'layers_attention.py'
            >>> Package().file_name("hf_jepa.models.salt.modeling_salt")
            'modeling_salt.py'
        """
        parts = module.split(".")
        return ("_".join(parts[1:]) if parts[1] != "models" else parts[-1]) + ".py"

    def header(self, path: str) -> str:
        return (
            f"# Copied from {self.name} {self.version}, {path}, where it is maintained; only imports differ.\n"
            "# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0\n"
        )


def bundle(modules: Iterable[str], package: Package) -> dict[str, str]:
    """The files that modules of a package need to run without it.

    Args:
        modules: dotted names.
        package: that they are of.

    Returns:
        file name -> text, of the modules and of all that they import from the package, sorted by name.

    Raises:
        RemoteCodeError: an import that cannot be followed, a module that has no business beside weights, or a library
            that not everybody has.

    Example:
        >>> sorted(bundle(["hf_jepa.layers.attention"], Package()))
        ['layers_attention.py']
    """
    files: dict[str, str] = {}
    origin: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        source, name = package.source(module, "the export"), package.file_name(module)
        if origin.setdefault(name, module) != module:
            raise RemoteCodeError(f"{module} and {origin[name]} would both be copied to {name}: rename one")
        if name in files:
            continue
        text, needed = _rewritten(source.read_text(encoding="utf-8"), module, package)
        files[name] = package.header(_path(module)) + text
        waiting += needed
    return dict(sorted(files.items()))


def _rewritten(text: str, module: str, package: Package) -> tuple[str, list[str]]:
    """The text of a module with imports of flat files, and the modules that these are of."""
    lines = text.split("\n")  # as Python counts them
    needed, edits = [], []
    for node in ast.walk(ast.parse(text)):
        where = f"{_path(module)}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            _require_import_of_others(node, where, package)
        if isinstance(node, ast.Import) and any(package.holds(alias.name) for alias in node.names):
            raise RemoteCodeError(f"{where}: write `from {package.name}... import name`, which can be followed")
        if not isinstance(node, ast.ImportFrom) or not package.holds(target := _target(node, module)):
            continue
        package.source(target, where)
        needed.append(target)
        if lines[node.lineno - 1].encode()[: node.col_offset].strip():
            raise RemoteCodeError(f"{where}: an import has to begin its line, or transformers does not find the file")
        edits.append(
            (node.lineno - 1, node.end_lineno, f"from .{package.file_name(target).removesuffix('.py')} import")
        )
    for first, end, new in sorted(edits, reverse=True):
        old = "\n".join(lines[first:end])
        lines[first:end] = [re.sub(r"from[\s\\]+[.\s\\]*[\w.]*[\s\\]+import\b", new, old, count=1)]
    return "\n".join(lines), needed


def _path(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _target(node: ast.ImportFrom, module: str) -> str:
    """Dotted name of the module that names are imported from."""
    if not node.level:
        return node.module or ""
    return ".".join([*module.split(".")[: -node.level], *([node.module] if node.module else [])])


def _require_import_of_others(node: ast.Call, where: str, package: Package) -> None:
    """Refuse calls that import modules of the package, or of a name that only running the code would tell."""
    called = getattr(node.func, "id", getattr(node.func, "attr", None))
    if called not in _IMPORTING_CALLS:
        return
    name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
    if not isinstance(name, str) or name.startswith(".") or package.holds(name):
        raise RemoteCodeError(f"{where}: {called} imports what the text does not say: use an import statement")


def require_loadable(folder: Path, files: Mapping[str, str], entries: Iterable[str], package: Package) -> None:
    """Ask transformers itself what it would copy and want installed for the code of a folder.

    Args:
        folder: that the files were written to.
        files: of `bundle`.
        entries: names of the files that Auto classes are pointed to.
        package: that they are copies of.

    Raises:
        RemoteCodeError: a file that is needed and missing, one that nothing needs, or a library that not everybody
            has.
    """
    entries = list(entries)
    try:
        found = {Path(name).name for entry in entries for name in get_relative_import_files(folder / entry)}
    except FileNotFoundError as error:
        raise RemoteCodeError(f"transformers reads an import of {Path(error.filename).name}, which is none") from error
    if unlike := (found | {*entries}) ^ {*files}:
        raise RemoteCodeError(f"transformers and this package disagree on which files are needed: {sorted(unlike)}")
    for name in files:
        for library in get_imports(folder / name):
            if library == package.name or library not in EVERYWHERE | sys.stdlib_module_names:
                raise RemoteCodeError(
                    f"{name} imports {library}, which not everybody has: import it by import_module({library!r}) "
                    "where it is used, or behind a check of transformers (is_..._available)"
                )


__all__ = ["EVERYWHERE", "PACKAGE", "PARTS", "Package", "RemoteCodeError", "bundle", "require_loadable"]
