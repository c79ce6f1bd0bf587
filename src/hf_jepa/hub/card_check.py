"""Whether the model card of a folder is complete and true, as far as the folder itself can tell: no network."""

import ast
import math
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

import yaml
from huggingface_hub import ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import read_json
from hf_jepa.hub.fingerprint import FILE_NAME
from hf_jepa.hub.inspect import variant_of_folder
from hf_jepa.registry import Variant


CARD = "README.md"
SECTIONS = ("Use", "Facts", "Intended use", "Limits", "Licence", "Citation")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
# Of the Hub, of models: those that our cards have, and others that somebody may write by hand.
HUB_TASKS = (
    "feature-extraction",
    "image-feature-extraction",
    "image-classification",
    "zero-shot-image-classification",
    "video-classification",
    "audio-classification",
    "text-classification",
    "text-generation",
    "robotics",
    "reinforcement-learning",
    "depth-estimation",
    "image-segmentation",
    "object-detection",
    "other",
)
# Whose names a snippet may not get wrong. Others are not imported: a card is text of a stranger.
_KNOWN_PACKAGES = ("hf_jepa", "transformers", "torch", "peft", "PIL", "datasets", "numpy", "huggingface_hub")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=[\"']([^\"']+)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)
# Something in a folder below the root of a disk, or one where people keep their files; not what follows a name, an
# address or a relative path.
_ABSOLUTE = re.compile(
    r"(?<![\w/.:~<>)\]-])(?:(?:/[\w.+-]+){2,}|/(?:home|root|tmp|data|mnt|opt|var|work|workspace|scratch|Users)\b)"
    r"|\b[A-Za-z]:\\\w|(?<!\w)~/\w|\bfile:/|\\\\\w+\\\w"
)
_FINGERPRINT = re.compile(r"^- \*\*Fingerprint\*\*: (.*)$", re.MULTILINE)
_NUMBERS = re.compile(r"mean (\S+), std (\S+)")
_ROWS = re.compile(r"^\|(.+)\|$", re.MULTILINE)


def check_card(folder: str | Path) -> list[str]:
    """What is wrong with the card of a folder.

    Args:
        folder: of a checkpoint; the card is its `README.md`.

    Returns:
        one line for each fault, in the order of the card; nothing for a card that is complete.

    Raises:
        FileNotFoundError: no such folder, or no card in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> head = "license: mit\\nlibrary_name: transformers\\npipeline_tag: magic"
        >>> _ = (folder / "README.md").write_text(f"---\\n{head}\\n---\\n# Tiny")
        >>> [fault.split(":")[0] for fault in check_card(folder) if "magic" in fault]
        ["pipeline_tag 'magic' is none of the Hub's for models"]
    """
    text = read_card(folder)
    return [without_tokens(fault) for fault in chain(_faults(text, Path(folder)), _private(text))]


def faults_that_bar(folder: str | Path) -> list[str]:
    """Of the faults of a card those with which nobody should publish it: no valid head, no licence, secrets, paths.

    Raises:
        FileNotFoundError: no such folder, or no card in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "README.md").write_text("---\\ntags: [jepa]\\n---\\n# Tiny")
        >>> faults_that_bar(folder)
        ['the head names no licence of the weights: add a line such as `license: apache-2.0`']
    """
    text = read_card(folder)
    card, fault = _parsed(text)
    found = [fault] if card is None else _no_license(card.data)
    return [without_tokens(fault) for fault in chain(found, _private(text))]


def _parsed(text: str) -> tuple[ModelCard | None, str | None]:
    """A card that has a valid head, or what is wrong with that."""
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # the last two: entries of a wrong type
        return None, f"the head is not valid: {' '.join(str(error).split())}"
    if not card.data.to_dict():
        return None, "there is no head: begin with a line ---, `license: ...` and others, and a line ---"
    return card, None


def _faults(text: str, folder: Path) -> Iterator[str]:
    card, fault = _parsed(text)
    if card is None:
        yield fault
        return
    yield from _no_license(card.data)
    yield from _head(card.data)
    yield from _model_index(card.data, card.text)
    yield from _license(card, folder)
    yield from _sections(card.text)
    yield from _links(card.text, folder)
    yield from _fingerprint(card.text, folder)
    yield from _snippets(card.text)


def read_card(folder: str | Path) -> str:
    """The text of the card of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not UTF-8.
    """
    path = Path(folder) / CARD
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name that of a checkpoint")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CARD}: write one by hf-jepa card --write --license ...")
    try:
        return path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def _no_license(data: ModelCardData) -> Iterator[str]:
    if not data.license:
        yield "the head names no licence of the weights: add a line such as `license: apache-2.0`"


def _head(data: ModelCardData) -> Iterator[str]:
    tag, license = data.pipeline_tag, data.license
    if license and not (isinstance(license, str) and _LICENSE.fullmatch(license)):
        yield f"license {license!r} is no identifier: write one such as apache-2.0, or `other` and a `license_name`"
    elif license == "other" and not data.license_name:
        yield "license is `other`: say which by `license_name` and `license_link`"
    if not data.library_name:
        yield "the head names no library_name: transformers, or hf_jepa where stock transformers cannot load it"
    if not tag:
        yield "the head names no pipeline_tag: take image-feature-extraction for an encoder of images"
    elif tag not in HUB_TASKS:
        yield (
            f"pipeline_tag {tag!r} is none of the Hub's for models: take image-feature-extraction for an encoder of "
            "images"
        )
    if not isinstance(data.tags, list) or not all(isinstance(each, str) for each in data.tags):
        yield f"tags is {data.tags!r}: write a list of words, with hf_jepa among them"
    for field in ("base_model", "datasets"):
        for name in _listed(data.get(field)):
            if not _is_id(name):
                yield f"{field} {name!r} is not the id of a repository (owner/name): leave out what is not on the Hub"


def _is_id(name: object) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith(".")


def _model_index(data: ModelCardData, text: str) -> Iterator[str]:
    rows = [[cell.strip() for cell in row.split("|")] for row in _ROWS.findall(_section(text, "Results"))]
    for result in data.eval_results or ():
        value, name = result.metric_value, result.metric_name or result.metric_type
        told = f"model-index: {name} on {result.dataset_name}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{told} is {value!r}, not a number"
        elif not math.isfinite(value):
            yield f"{told} is {value}: leave out what was not measured"
        elif result.source_url is None and not _told(rows, result, name):
            yield (
                f"{told} is {value} of no source: add `source` with a `url`, or a row of data, split, metric, value "
                "and source to the section Results"
            )


def _told(rows: list[list[str]], result, name: str) -> bool:
    """Whether a row of the table of results has a score and says where it comes from."""
    wanted = [result.dataset_name, result.dataset_split or "-", name, str(result.metric_value)]
    return any(row[:4] == wanted and len(row) == 5 and row[4].strip("-") for row in rows)


def _license(card: ModelCard, folder: Path) -> Iterator[str]:
    """Converted weights keep their licence."""
    if "**Converted from**" not in card.text:
        return
    try:
        variant: Variant = variant_of_folder(folder)
    except (FileNotFoundError, ValueError) as error:
        yield f"the card is of converted weights, which are not there: {error}"
        return
    if not variant.convertible:
        return
    released = {*variant.layout.released, *(variant.probes.released if variant.probes else ())}
    named = [name for name in re.findall(r"`([^`\n]+)`", _section(card.text, "Facts")) if name in released]
    if named and card.data.license != variant.weights_license:
        yield (
            f"license is {card.data.license!r}, but {named[0]} was released under {variant.weights_license!r}, which "
            "its conversion keeps"
        )


def _sections(text: str) -> Iterator[str]:
    for name in SECTIONS:
        if not _section(text, name).strip():
            yield f"the section `## {name}` is missing or empty"


def _section(text: str, name: str) -> str:
    """What stands below a heading, up to the next; code may hold lines that look like headings."""
    plain = _BLOCK.sub(lambda block: block[0].replace("\n#", "\n "), text)  # as long as the text
    found = re.search(rf"^## {re.escape(name)}[ \t]*$(.*?)(?=^## |\Z)", plain, re.DOTALL | re.MULTILINE)
    return text[slice(*found.span(1))] if found else ""


def _links(text: str, folder: Path) -> Iterator[str]:
    root = folder.resolve()
    for pair in _LINK.findall(_BLOCK.sub("", text)):
        link = pair[0] or pair[1]
        if _ELSEWHERE.match(link):
            continue
        path = (root / unquote(link.split("#")[0].split("?")[0])).resolve()
        if not path.is_relative_to(root):
            yield f"the link {link} leads out of the folder, to where nobody else gets"
        elif not path.exists():
            yield f"the link {link} leads to no file of the folder"


def _fingerprint(text: str, folder: Path) -> Iterator[str]:
    """The numbers of the card are those of the file; whether these are those of the weights is inspection's."""
    told, path = _FINGERPRINT.search(text), folder / FILE_NAME
    if not path.is_file():
        if told:
            yield f"the card has a fingerprint, but there is no {FILE_NAME}"
        return
    if not told:
        yield f"the card does not tell the fingerprint: add `- **Fingerprint**: mean ..., std ...` from {FILE_NAME}"
        return
    try:
        saved = read_json(path, "a fingerprint")
        expected = tuple(f"{saved[name]:.6f}" for name in ("mean", "std"))
    except (ConversionError, KeyError, TypeError, ValueError) as error:
        yield f"{FILE_NAME} is not a fingerprint: {error}"
        return
    numbers = _NUMBERS.search(told[1])
    if numbers is None or numbers.groups() != expected:
        yield f"the fingerprint of the card is {told[1]!r}, that of {FILE_NAME} mean {expected[0]}, std {expected[1]}"


def _snippets(text: str) -> Iterator[str]:
    blocks = [code for language, code in _BLOCK.findall(_section(text, "Use")) if language in ("python", "py")]
    if not blocks:
        yield "the section `## Use` has no ```python block that shows how the checkpoint is loaded"
    for code in blocks:
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError) as error:
            yield f"the snippet is not valid Python: {error}"
            continue
        for module, name in _names(tree):
            if fault := _unknown(module, name):
                yield fault


def _names(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Modules that code imports, and what it takes of each."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, each.name) for each in node.names)
        elif isinstance(node, ast.Import):
            yield from ((each.name, None) for each in node.names)
            modules |= {each.name for each in node.names if each.asname is None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield node.value.id, node.attr


def _unknown(module: str, name: str | None) -> str | None:
    """A fault, where a package that is installed has no such module or name."""
    package = module.split(".")[0]
    if package not in _KNOWN_PACKAGES or find_spec(package) is None:
        return None
    try:
        found = import_module(module)
    except ModuleNotFoundError:
        return f"the snippet imports {module}, which does not exist"
    if name is not None and not hasattr(found, name):
        return f"the snippet takes {name} from {module}, which has no such name"
    return None


def without_tokens(text: str) -> str:
    """A text in which tokens of the Hub are not readable.

    Example:
        >>> without_tokens("token: hf_" + 24 * "x")
        'token: (a token)'
    """
    own = get_token()
    return TOKEN.sub("(a token)", text.replace(own, "(a token)") if own else text)


def _private(text: str) -> Iterator[str]:
    """What is nobody else's business; a token is not repeated."""
    for number, line in enumerate(text.splitlines(), start=1):
        if without_tokens(line) != line:
            yield f"line {number} holds a token of the Hub: take it out, and revoke it if others saw it"
        elif path := _ABSOLUTE.search(line):
            yield f"line {number} has a path of this machine, {path[0]!r}: nobody else has it"


def _listed(value: object) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


__all__ = [
    "CARD",
    "HUB_TASKS",
    "SECTIONS",
    "TOKEN",
    "check_card",
    "faults_that_bar",
    "read_card",
    "without_tokens",
]
