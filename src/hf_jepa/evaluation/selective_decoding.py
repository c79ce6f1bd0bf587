"""Selective decoding: of a stream of predicted embeddings decode only what is new.

Two rules of VL-JEPA (2512.10942, sections 2 and 4.5): offline a stream is cut into Ward segments, each of which is
decoded once (`hf_jepa.evaluation.segments`); online it is decoded where the variance in a sliding window is high. The
paper gives no numbers for the second; its exact form here is ours. `hf_jepa.evaluation.decode_savings` counts what
either saves beside evenly spaced decodes.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_jepa.evaluation.inputs import check_count
from hf_jepa.evaluation.segments import Stream, stream_rows


SOURCES = ("pooled", "exact")


def window_variance(stream: Stream, window: int, normalize: bool = True) -> np.ndarray:
    """How much the last embeddings of a stream differ: mean squared distance from their mean.

    Args:
        stream: (T, D) embeddings in order of time, floating point.
        window: w, how many embeddings are the last ones, 2 or more.
        normalize: compare directions: rows are divided by their norm first.

    Returns:
        float64 (T,), of the embeddings t - w + 1 ... t; 0 before there are w.

    Raises:
        TypeError, ValueError: no stream (see `ward_segments`) or no window.

    Example:
        >>> import numpy as np
        >>> window_variance(np.array([[0.0], [0], [2], [2]]), window=2, normalize=False).tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    check_count(window, "window", smallest=2)
    _, rows = stream_rows(stream, normalize)
    starts = range(len(rows) - window + 1)
    found = [_variance(rows[start : start + window]) for start in starts]
    return np.concatenate([np.zeros(len(rows) - len(found)), found])


def _variance(rows: np.ndarray) -> float:
    """Of (w, D): both the stream as a whole and the monitor come here, so that they agree to the last bit."""
    return float(np.square(rows - rows.mean(axis=0)).sum() / len(rows))


def online_decode_indices(
    stream: Stream, window: int, threshold: float, min_gap: int = 1, normalize: bool = True
) -> np.ndarray:
    """Which embeddings of a whole stream `StreamMonitor` decodes.

    The first one always; embedding t if the variance of the window that ends there is above the threshold and t lies
    `min_gap` or more behind the last one decoded.

    Args:
        stream: (T, D) embeddings in order of time, floating point.
        window, threshold, min_gap, normalize: see `StreamMonitor`.

    Returns:
        int64 (M,), ascending.

    Raises:
        TypeError, ValueError: as `StreamMonitor`, and for an empty stream.

    Example:
        >>> import numpy as np
        >>> online_decode_indices(np.repeat(np.eye(2), 4, axis=0), window=2, threshold=0.1).tolist()
        [0, 4]
    """
    variance = window_variance(stream, window, normalize)
    _check_rule(threshold, min_gap)
    decoded = [0]
    for index in np.flatnonzero(variance > threshold):
        if index - decoded[-1] >= min_gap:
            decoded.append(int(index))
    return np.array(decoded, dtype=np.int64)


def _check_rule(threshold: float, min_gap: int) -> None:
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}: the variance to exceed must be 0 or more")
    check_count(min_gap, "min_gap")


def nearest_decode(decode_times: Sequence[float], times: Sequence[float]) -> np.ndarray:
    """For every moment the decode that is nearest in time, of two equally near the earlier.

    Args:
        decode_times: (N,) ascending.
        times: (A,), in any order.

    Returns:
        int64 (A,), 0 to N-1.

    Raises:
        ValueError: no decode, times that are not finite, or decodes that are not in order.

    Example:
        >>> nearest_decode([1.0, 3.0], [0.0, 2.0, 2.1]).tolist()
        [0, 0, 1]
    """
    decodes, wanted = np.asarray(decode_times, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if decodes.ndim != 1 or not len(decodes) or wanted.ndim != 1:
        shapes = f"{decodes.shape} and {wanted.shape}"
        raise ValueError(f"times of decodes and moments have shapes {shapes}: expected (N,) and (A,), N at least 1")
    if not (np.isfinite(decodes).all() and np.isfinite(wanted).all()) or (np.diff(decodes) < 0).any():
        raise ValueError("times must be finite, and those of decodes ascending")
    right = np.searchsorted(decodes, wanted).clip(1, max(len(decodes) - 1, 1))
    left, right = right - 1, np.minimum(right, len(decodes) - 1)
    return np.where(wanted - decodes[left] <= decodes[right] - wanted, left, right)


class Decode(NamedTuple):
    """One call of the decoder by a `StreamMonitor`.

    Args:
        index: of the embedding at which it was called, counted from the first one pushed.
        embedding: (D,) what the decoder was given.
        output: what it returned; None without a decoder.
    """

    index: int
    embedding: np.ndarray
    output: Any


class MonitorReport(NamedTuple):
    """What a `StreamMonitor` did so far; print it for one line.

    Args:
        embeddings: how many were pushed.
        decodes: how many of them were decoded.
        fps: embeddings per second, None where that is not known.
    """

    embeddings: int
    decodes: int
    fps: float | None

    @property
    def rate(self) -> float:
        """Decodes per second; per embedding where the embeddings per second are not known."""
        return self.decodes / max(self.embeddings, 1) * (self.fps or 1)

    def __str__(self) -> str:
        unit = "per embedding" if self.fps is None else "Hz"
        return f"{self.decodes} decodes of {self.embeddings} embeddings, {self.rate:.3g} {unit}"


class StreamMonitor:
    """Watches a stream of embeddings and decodes at semantic shifts.

    The first embedding is decoded; then one is when the variance of the last `window` of them is above `threshold` and
    the last decode is `min_gap` or more embeddings ago. Decisions are those of `online_decode_indices` on the whole
    stream, however it comes in, and nothing is kept but the window, one sum and the counts.

    Args:
        decode: called with (D,), the embedding to decode, an array of the precision of the stream; None to be told
            only where.
        window: embeddings that are compared, 2 or more.
        threshold: of `window_variance`. Unit rows give 1 at most, and a window half of which is in another scene a
            quarter of the squared distance of the two.
        min_gap: least distance between two decodes, in embeddings.
        source: "exact" decodes the embedding itself: what is new. "pooled" decodes the mean since the last decode,
            this embedding included: what has just ended, with less noise.
        normalize: compare directions; what is decoded stays as it came.
        fps: embeddings per second, for the rate of the report.

    Raises:
        TypeError, ValueError: settings that make no sense.

    Example:
        >>> import numpy as np
        >>> monitor = StreamMonitor(lambda row: f"scene {row.argmax()}", window=2, threshold=0.1, fps=2.0)
        >>> scenes = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
        >>> [[decode.output for decode in monitor.push(part)] for part in (scenes[:3], scenes[3:])]
        [['scene 0'], ['scene 1']]
        >>> print(monitor.report())
        2 decodes of 8 embeddings, 0.5 Hz
    """

    def __init__(
        self,
        decode: Callable[[np.ndarray], Any] | None = None,
        *,
        window: int = 4,
        threshold: float,
        min_gap: int = 1,
        source: str = "exact",
        normalize: bool = True,
        fps: float | None = None,
    ):
        check_count(window, "window", smallest=2)
        _check_rule(threshold, min_gap)
        check_source(source)
        if fps is not None and not fps > 0:
            raise ValueError(f"fps is {fps}: it must be above 0, or None where it is not known")
        self.decode, self.threshold, self.min_gap = decode, threshold, min_gap
        self.source, self.normalize, self.fps = source, normalize, fps
        self._window: deque[np.ndarray] = deque(maxlen=window)
        self._sum: np.ndarray | float = 0.0  # of the embeddings since the last decode
        self._last = 0  # index of the last decode
        self._embeddings = self._decodes = 0

    def push(self, embeddings: Stream) -> list[Decode]:
        """Take the next embeddings of the stream.

        Args:
            embeddings: (D,) or (n, D), floating point.

        Returns:
            the decodes that they caused, in order.

        Raises:
            TypeError, ValueError: no embeddings (see `ward_segments`), or of another D than before; none was taken.
        """
        rows = torch.as_tensor(embeddings)
        raw, rows = stream_rows(rows[None] if rows.ndim == 1 else rows, self.normalize)
        if self._window and len(self._window[0]) != rows.shape[1]:
            before = len(self._window[0])
            raise ValueError(f"embeddings of {rows.shape[1]} dimensions, but those before have {before}")
        return [decode for pair in zip(raw, rows, strict=True) if (decode := self._take(*pair)) is not None]

    def report(self) -> MonitorReport:
        """Counts so far."""
        return MonitorReport(self._embeddings, self._decodes, self.fps)

    def _take(self, raw: np.ndarray, row: np.ndarray) -> Decode | None:
        index = self._embeddings
        self._embeddings += 1
        self._window.append(row)
        self._sum = self._sum + raw.astype(np.float64)
        if index and not (self._shift() and index - self._last >= self.min_gap):
            return None
        mean = self._sum / (index - self._last if index else 1)
        embedding = raw if self.source == "exact" else mean.astype(raw.dtype)
        self._sum, self._last = 0.0, index
        self._decodes += 1
        return Decode(index, embedding, None if self.decode is None else self.decode(embedding))

    def _shift(self) -> bool:
        full = len(self._window) == self._window.maxlen
        return full and _variance(np.stack(self._window)) > self.threshold


def check_source(source: str) -> None:
    """Raise ValueError unless it is one of `SOURCES`, what a decoder can be given."""
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is not one of {', '.join(SOURCES)}")


__all__ = ["SOURCES", "Decode", "MonitorReport", "StreamMonitor", "check_source", "nearest_decode"]
__all__ += ["online_decode_indices", "window_variance"]
