"""How times are taken: process CPU time of one thread, the contestants in turn, medians."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the results.

    Args:
        what: was measured.
        beside: what else did the same.
        ours, other: median milliseconds, or numbers of another unit; `other` None where there is only a limit.
        limit: largest ratio that counts as met, or `ours` where `other` is None; None where none was set.
        unit: of `ours` and `other`.
    """

    what: str
    beside: str
    ours: float
    other: float | None
    limit: float | None
    unit: str = "ms"

    @property
    def ratio(self) -> float | None:
        return None if self.other is None else self.ours / self.other

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        return "met" if (self.ours if self.ratio is None else self.ratio) <= self.limit else "missed"

    def cells(self) -> list[str]:
        limit = (
            "" if self.limit is None else f"{self.limit:g} {self.unit}" if self.ratio is None else f"{self.limit:.2f}"
        )
        other = "" if self.other is None else f"{self.other:.2f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.3f}"
        what = self.what if self.unit == "ms" else f"{self.what}, {self.unit}"
        return [what, self.beside, f"{self.ours:.2f}", other, ratio, limit, self.verdict]


HEADER = ["what", "beside", "ours", "other", "ratio", "limit", ""]


def medians(*functions: Callable[[], object], repeats: int) -> list[float]:
    """Median milliseconds of process CPU time of each function, called in turn; the first round warms up."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, found in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            if repeat:
                found.append(1000 * (time.process_time() - start))
    return [statistics.median(found) for found in times]
