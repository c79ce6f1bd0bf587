"""Plain text tables."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table: the first column to the left, the others to the right.

    Example:
        >>> print(table(["name", "share"], [["a", "1 %"], ["long name", "20 %"]]))
        name       share
        ---------  -----
        a            1 %
        long name   20 %
    """
    widths = [max(len(row[c]) for row in (header, *rows)) for c in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if c == 0 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


__all__ = ["table"]
