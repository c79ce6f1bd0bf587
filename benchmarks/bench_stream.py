"""Ward segments of a stream beside scikit-learn's clustering under a chain, and how the time grows with the stream."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction import grid_to_graph
from timing import Row, medians

from hf_jepa.evaluation.segments import ward_segments


EMBEDDINGS, WIDTH, SEGMENTS = 2000, 256, 100
TIME_LIMIT = 1.0
SHORT, LONG = 2_000, 32_000  # embeddings of the streams that tell the growth
GROWTH_WIDTH = 32
GROWTH_LIMIT = 1.5  # of the growth of T log T; that of T^2 would be 11


def run(quick: bool) -> Iterator[Row]:
    """The same segments first, then times."""
    count, width, segments = (60, 8, 6) if quick else (EMBEDDINGS, WIDTH, SEGMENTS)
    repeats = 1 if quick else 5
    stream = scenes(count, width)
    ours, other = (cut(stream, segments) for cut in (_ours, _scikit_learn))
    np.testing.assert_array_equal(ours(), other())
    what = f"Ward segments of {count} embeddings, D {width}"
    yield Row(what, "scikit-learn, chain", *medians(ours, other, repeats=repeats), TIME_LIMIT)
    short, long = (50, 200) if quick else (SHORT, LONG)
    few, many = medians(*(_ours(scenes(n, GROWTH_WIDTH), 10) for n in (short, long)), repeats=repeats)
    expected = long * math.log(long) / (short * math.log(short))
    limit = None if quick else GROWTH_LIMIT
    yield Row(f"Ward segments, time of {long} over {short}", "T log T", many / few, expected, limit, "times")


def scenes(count: int, width: int) -> np.ndarray:
    """A stream of scenes of random lengths, float32 (count, width): directions that change at once, with noise."""
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, count), size=count // 20, replace=False))
    means = rng.normal(size=(len(cuts) + 1, width))
    scene = np.searchsorted(cuts, np.arange(count), side="right")
    return (means[scene] + 0.3 * rng.normal(size=(count, width))).astype(np.float32)


def _ours(stream: np.ndarray, segments: int) -> Callable[[], np.ndarray]:
    return lambda: ward_segments(stream, segments).labels


def _scikit_learn(stream: np.ndarray, segments: int) -> Callable[[], np.ndarray]:
    def cut() -> np.ndarray:
        rows = stream.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        chain = grid_to_graph(len(rows), 1)
        found = AgglomerativeClustering(segments, connectivity=chain, linkage="ward").fit_predict(rows)
        return np.cumsum(np.diff(found, prepend=found[0]) != 0)  # numbered in order of time

    return cut
