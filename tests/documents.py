"""The documents of the repository, and what is written in them."""

import re
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "src/hf_jepa/models").glob("*/README.md"),
    *(ROOT / name / "README.md" for name in ("benchmarks/results", "examples", "model_cards")),
]


def named(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages; "" is one without a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def prose(document: Path) -> str:
    """What is not in a fenced block."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def inline_code(document: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(document))]
