"""The table at the end of a run."""

from typing import Any


def format_table(rows: dict[str, Any]) -> str:
    """Two aligned columns.

    Example:
        >>> print(format_table({"steps": 20, "last loss": 0.12345}))
        steps      20
        last loss  0.1235
    """
    width = max(len(name) for name in rows)
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in rows.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


__all__ = ["format_table"]
