"""Streams of embeddings cut into segments: where they change most (Ward), or evenly."""

import heapq
import math
from typing import NamedTuple

import numpy as np
import torch

from hf_jepa.evaluation.inputs import check_count, check_features


Stream = np.ndarray | torch.Tensor


class Segments(NamedTuple):
    """A stream of T embeddings cut into N neighbouring segments.

    Args:
        labels: int64 (T,), the segment of every embedding, 0 to N-1 in order of time.
        starts: int64 (N,), the first embedding of every segment.
        midpoints: int64 (N,), (first + last) // 2 of every segment: where it is decoded.
        exact: (N, D), the embeddings at the midpoints, as they came.
        pooled: (N, D), the mean of the embeddings of every segment, as they came.
        within_ss: squared distances of all embeddings from the mean of their segment, summed; of unit rows where the
            stream was normalised.
    """

    labels: np.ndarray
    starts: np.ndarray
    midpoints: np.ndarray
    exact: np.ndarray
    pooled: np.ndarray
    within_ss: float


class WardTree:
    """All Ward segmentations of a stream, from T segments down to one, in O(T log T) merges.

    Every embedding starts as a segment of its own. The two neighbours whose union adds least to the squared distances
    from the means, |A| |B| / (|A| + |B|) * ||mean A - mean B||^2, become one, again and again; of equal pairs the
    leftmost goes first. It is agglomerative clustering with Ward's criterion under a temporal connectivity constraint,
    by which VL-JEPA (2512.10942, section 4.5) finds out where to decode. A merge removes the start of one segment, so
    the order in which starts go is the whole tree.

    Args:
        stream: (T, D) embeddings in order of time, floating point.
        normalize: compare directions: rows are divided by their norm first (a row of zeros stays zero).

    Attributes:
        merge_costs: float64 (T-1,), what every merge added, in the order of the merges.
        merged_starts: int64 (T-1,), the start of the right one of the two segments of every merge.

    Raises:
        TypeError: no floating-point stream.
        ValueError: another shape, no embedding, NaN or infinity.

    Example:
        >>> import numpy as np
        >>> tree = WardTree(np.array([[0.0], [1], [1.5], [9]]), normalize=False)
        >>> tree.merged_starts.tolist(), tree.merge_costs[0]
        ([2, 1, 3], np.float64(0.125))
        >>> tree.cut(2).starts.tolist(), tree.cut(3).starts.tolist()
        ([0, 3], [0, 1, 3])
    """

    def __init__(self, stream: Stream, normalize: bool = True):
        self._stream, self._rows = stream_rows(stream, normalize)
        self.merged_starts, self.merge_costs = _merge_neighbours(self._rows)

    def cut(self, num_segments: int) -> Segments:
        """The segmentation into `num_segments` segments, 1 to T.

        Raises:
            TypeError: no whole number.
            ValueError: fewer than one segment or more than there are embeddings.
        """
        count = len(self._rows)
        check_segments(num_segments, count)
        kept = np.ones(count, dtype=bool)
        kept[self.merged_starts[: count - num_segments]] = False
        return _segments(self._stream, self._rows, np.flatnonzero(kept))


def ward_segments(stream: Stream, num_segments: int, normalize: bool = True) -> Segments:
    """Cut a stream where its embeddings change: `WardTree`, of which one cut is wanted.

    Args:
        stream: (T, D) embeddings in order of time, floating point.
        num_segments: N, 1 to T.
        normalize: compare directions, see `WardTree`. `exact` and `pooled` are of the stream as it came in any case.

    Returns:
        `Segments`

    Raises:
        TypeError: no floating-point stream, or a number that is not whole.
        ValueError: no embedding, NaN or infinity, fewer segments than one or more than embeddings.

    Example:
        >>> import numpy as np
        >>> stream = np.repeat(np.eye(3), [5, 1, 2], axis=0)
        >>> cut = ward_segments(stream, 3)
        >>> cut.starts.tolist(), cut.midpoints.tolist(), cut.within_ss
        ([0, 5, 6], [2, 5, 6], 0.0)
    """
    return WardTree(stream, normalize).cut(num_segments)


def uniform_segments(stream: Stream, num_segments: int, normalize: bool = True) -> Segments:
    """Cut a stream evenly, whatever is in it: segment i starts at floor(i T / N). The baseline of `ward_segments`.

    Args, returns and raises: as of `ward_segments`; `normalize` changes nothing but `within_ss`.

    Example:
        >>> import numpy as np
        >>> uniform_segments(np.eye(7), 3).starts.tolist()
        [0, 2, 4]
    """
    raw, rows = stream_rows(stream, normalize)
    check_segments(num_segments, len(rows))
    return _segments(raw, rows, np.arange(num_segments) * len(rows) // num_segments)


def stream_rows(stream: Stream, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """The stream as it came and as it is compared.

    Args:
        stream: (T, D) floating point.
        normalize: divide the rows to compare by their norm.

    Returns:
        two arrays (T, D): as it came (16 bits become 32), and float64.

    Raises:
        TypeError, ValueError: as of `check_features`.
    """
    raw = torch.as_tensor(stream).detach().cpu()
    rows = check_features(raw, "stream").numpy()
    raw = raw.numpy() if raw.dtype == torch.float64 else raw.float().numpy()
    return raw, unit_rows(rows) if normalize else rows


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows (..., D) of length one; rows of zeros stay zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def check_segments(num_segments: int, embeddings: int) -> None:
    """Raise TypeError or ValueError unless so many embeddings can be cut into so many segments."""
    if check_count(num_segments, "num_segments") > embeddings:
        raise ValueError(
            f"num_segments is {num_segments}, but the stream has {embeddings} embeddings: a segment holds at least one"
        )


def _segments(raw: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> Segments:
    sizes = np.diff(starts, append=len(rows))  # (N,)
    midpoints = starts + (sizes - 1) // 2
    labels = np.repeat(np.arange(len(starts)), sizes)
    spread = rows - _means(rows, starts, sizes)[labels]
    pooled = _means(raw.astype(np.float64), starts, sizes).astype(raw.dtype)
    return Segments(labels, starts, midpoints, raw[midpoints], pooled, float(np.square(spread).sum()))


def _means(rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.add.reduceat(rows, starts, axis=0) / sizes[:, None]


def _merge_neighbours(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts in the order in which merges remove them, and the costs of the merges.

    The heap holds a pair of neighbours as (cost, left start, right start, right end, cost). Pairs of which a part has
    grown since are not looked for in the heap but passed over when they come up.
    """
    count, means = len(rows), rows.copy()
    ends = list(range(1, count + 1))  # of the segment that starts here; 0 once it was merged to the left
    before = list(range(-1, count - 1))  # start of the segment on the left
    costs = (np.square(np.diff(rows, axis=0)).sum(axis=1) / 2).tolist()
    heap = [(_key(cost), left, left + 1, left + 2, cost) for left, cost in enumerate(costs)]
    heapq.heapify(heap)
    merged_starts, merge_costs = [], []

    def push(left: int, middle: int, end: int) -> None:
        gap = means[middle] - means[left]
        cost = (middle - left) * (end - middle) / (end - left) * float(gap @ gap)
        heapq.heappush(heap, (_key(cost), left, middle, end, cost))

    while heap:
        _, left, middle, end, cost = heapq.heappop(heap)
        if ends[left] != middle or ends[middle] != end:
            continue
        # Written so that equal rows keep their mean to the last bit: a stream that stands still costs exactly 0.
        means[left] += (end - middle) / (end - left) * (means[middle] - means[left])
        ends[left], ends[middle] = end, 0
        merged_starts.append(middle)
        merge_costs.append(cost)
        if left > 0:
            push(before[left], left, end)
        if end < count:
            before[end] = left
            push(left, end, ends[end])
    return np.array(merged_starts, dtype=np.int64), np.array(merge_costs, dtype=np.float64)


def _key(cost: float) -> float:
    """A cost to 40 bits: pairs that differ by rounding alone are equal, and then the leftmost goes first."""
    mantissa, exponent = math.frexp(cost)
    return math.ldexp(round(mantissa * 2**40), exponent - 40)


__all__ = ["Segments", "WardTree", "check_segments", "stream_rows", "uniform_segments", "unit_rows", "ward_segments"]
