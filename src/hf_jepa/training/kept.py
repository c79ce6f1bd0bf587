"""Results that are kept beside their settings, so that what is finished is not done again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_jepa.hub.files import new_name


FILE_NAME = "result.json"


def write_text(path: Path, text: str) -> None:
    """Write a file that is either whole or absent."""
    with new_name(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def kept(
    folder: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]], say: Callable[[str], object] = print
) -> dict[str, Any]:
    """The result in a folder, made only if it is not there yet or was made with other settings.

    Args:
        folder: holds `result.json`; made if needed.
        settings: all that the result depends on, of what JSON can hold. Other code is not noticed.
        make: makes the result, of what JSON can hold.
        say: told what has changed where a result is made anew.

    Returns:
        the result, as JSON gives it back.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> [kept(folder, {"steps": steps}, lambda: {"made": steps})["made"] for steps in (3, 3, 4)]
        settings of ... have changed (steps 3, now 4): made anew
        [3, 3, 4]
    """
    settings = json.loads(json.dumps(settings))
    if (path := folder / FILE_NAME).exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if (before := found["settings"]) == settings:
            return found["result"]
        names = [name for name in sorted(before | settings) if before.get(name) != settings.get(name)]
        shown = ", ".join(f"{name} {before.get(name)}, now {settings.get(name)}" for name in names)
        say(f"settings of {folder.name} have changed ({shown}): made anew")
        path.unlink()
    text = json.dumps({"settings": settings, "result": make()}, indent=2)
    write_text(path, text + "\n")
    return json.loads(text)["result"]


__all__ = ["FILE_NAME", "kept", "write_text"]
