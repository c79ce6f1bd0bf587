"""What is wrong with a JSONL file, said better than its readers do."""

import json
from pathlib import Path


def check_json_lines(file: Path) -> None:
    """Name the first line that is no JSON object.

    Args:
        file: of one JSON object per line; empty lines are no fault.

    Raises:
        ValueError: such a line, with its number.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clips.jsonl"
        >>> _ = path.write_text('{"video": "1.mp4"}')
        >>> check_json_lines(path)
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line.strip() or b"{}")
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{file}, line {number} is not JSON: {getattr(error, 'msg', error)}") from error
            if not isinstance(record, dict):
                raise ValueError(f"{file}, line {number} must be a JSON object, got {record!r:.80}")


__all__ = ["check_json_lines"]
