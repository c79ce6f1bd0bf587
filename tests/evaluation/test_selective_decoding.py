"""Segments and decodes of streams: golden numbers, ties, borders, and a monitor that sees parts of a stream."""

import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hf_jepa.evaluation.segments import WardTree, uniform_segments, ward_segments
from hf_jepa.evaluation.selective_decoding import (
    StreamMonitor,
    nearest_decode,
    online_decode_indices,
    window_variance,
)


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/vl_jepa/selective_decoding"
IO, SETTINGS = load_file(GOLDEN / "io.safetensors"), json.loads((GOLDEN / "config.json").read_text())
STREAM, TIMES = IO["stream"], IO["times"]
RULE = {name: SETTINGS[name] for name in ("window", "threshold", "min_gap", "normalize")}


def equal(found, golden):
    exact = golden.dtype.kind == "i"
    np.testing.assert_allclose(found, golden, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-5)
    assert not exact or found.dtype.kind == "i"


def plain_ward(rows, num_segments):
    """Starts by the definition: every cost anew before every merge, of equal ones (to rounding) the leftmost."""
    edges = list(range(len(rows) + 1))
    while len(edges) - 1 > num_segments:
        costs = []
        for first, middle, last in zip(edges, edges[1:], edges[2:], strict=False):
            a, b = rows[first:middle], rows[middle:last]
            costs.append(len(a) * len(b) / (len(a) + len(b)) * np.square(a.mean(0) - b.mean(0)).sum())
        equal_best = np.isclose(costs, min(costs), rtol=1e-10, atol=1e-20)
        del edges[1 + int(np.argmax(equal_best))]
    return edges[:-1]


@pytest.mark.parametrize("count", SETTINGS["n_segments"])
def test_ward_segments_are_the_recorded_ones(count):
    found = ward_segments(STREAM, count, SETTINGS["normalize"])
    golden = {name.split(".")[2]: value for name, value in IO.items() if name.startswith(f"ward.{count}.")}
    assert set(golden) == {"labels", "starts", "midpoints", "exact", "pooled", "within_ss", "nearest"}
    for name in found._fields:
        equal(np.asarray(getattr(found, name)), golden[name])
    equal(nearest_decode(TIMES[found.midpoints], IO["annotation_times"]), golden["nearest"])
    equal(uniform_segments(STREAM, count).midpoints, IO[f"uniform.{count}.midpoints"])


def test_merges_cost_what_was_recorded():
    tree = WardTree(STREAM, SETTINGS["normalize"])
    equal(tree.merge_costs, IO["ward.merge_costs"])
    # Every merge adds its cost to the squared distances: the two are counted apart.
    for count in (1, 2, 30, 60):
        assert tree.cut(count).within_ss == pytest.approx(tree.merge_costs[: 60 - count].sum(), abs=1e-10)


def test_online_rule_is_the_recorded_one():
    equal(window_variance(STREAM, RULE["window"], RULE["normalize"]), IO["online.variance"])
    equal(online_decode_indices(STREAM, **RULE), IO["online.decode_indices"])


@pytest.mark.parametrize("normalize", [True, False])
def test_every_cut_follows_the_definition(normalize):
    stream = np.random.default_rng(3).normal(size=(24, 3)).cumsum(axis=0)
    rows = stream / np.linalg.norm(stream, axis=1, keepdims=True) if normalize else stream
    tree = WardTree(stream, normalize)
    for count in range(1, 25):
        assert tree.cut(count).starts.tolist() == plain_ward(rows, count)


@pytest.mark.parametrize(
    "stream",
    [
        np.ones((9, 2)),  # all costs are 0
        np.eye(9),  # all costs are 1, whatever was merged
        np.arange(12.0)[:, None],
        0.1 * np.arange(12)[:, None],  # 0.1, but for the last bit, which is not the same everywhere
        np.tile([[0.0], [1.0]], (6, 1)),
    ],
    ids=["constant", "orthogonal", "ramp", "ramp of tenths", "alternating"],
)
def test_of_equal_costs_the_leftmost_goes_first(stream):
    tree = WardTree(stream, normalize=False)
    for count in range(1, len(stream) + 1):
        assert tree.cut(count).starts.tolist() == plain_ward(stream, count)


@pytest.mark.parametrize(("count", "segments"), [(7, 3), (10, 4), (11, 11), (60, 7), (5, 1)])
def test_even_segments_differ_by_one_embedding_at_most(count, segments):
    cut = uniform_segments(STREAM[:count], segments)
    assert cut.starts.tolist() == [i * count // segments for i in range(segments)]
    sizes = np.bincount(cut.labels)
    assert len(sizes) == segments and sizes.max() - sizes.min() <= 1
    middles = [(i * count // segments + (i + 1) * count // segments - 1) // 2 for i in range(segments)]
    assert cut.midpoints.tolist() == middles
    np.testing.assert_allclose(cut.pooled[-1], STREAM[:count][cut.labels == segments - 1].mean(axis=0), rtol=1e-5)


def test_small_streams_and_many_segments():
    one = ward_segments(np.ones((1, 4)), 1)
    assert one.starts.tolist() == one.midpoints.tolist() == one.labels.tolist() == [0]
    assert WardTree(np.ones((1, 4))).merge_costs.shape == (0,)
    every = ward_segments(STREAM, len(STREAM))
    assert every.midpoints.tolist() == list(range(60)) and every.within_ss == 0
    np.testing.assert_array_equal(every.exact, STREAM)
    np.testing.assert_array_equal(every.pooled, STREAM)
    assert online_decode_indices(np.ones((1, 4)), window=4, threshold=0.1).tolist() == [0]
    assert window_variance(np.ones((2, 4)), window=4).tolist() == [0, 0]


@pytest.mark.parametrize("cut", [ward_segments, uniform_segments])
@pytest.mark.parametrize(
    ("stream", "count", "error", "words"),
    [
        (STREAM, 61, ValueError, "num_segments is 61, but the stream has 60 embeddings"),
        (STREAM, 0, ValueError, "num_segments is 0"),
        (STREAM, 2.5, TypeError, "num_segments must be a whole number, got 2.5"),
        (np.zeros((0, 4)), 1, ValueError, "stream has 0 rows"),
        (np.zeros(4), 1, ValueError, r"stream has shape \(4,\)"),
        (np.zeros((4, 2), int), 1, TypeError, "floating-point"),
        (np.where(np.arange(60)[:, None] == 7, np.nan, STREAM), 2, ValueError, "the first in row 7"),
    ],
    ids=["too many", "none", "half", "empty", "flat", "whole numbers", "nan"],
)
def test_what_cannot_be_cut_is_refused(cut, stream, count, error, words):
    with pytest.raises(error, match=words):
        cut(stream, count)


def test_streams_of_any_precision_and_library():
    wanted = ward_segments(STREAM, 6)
    tensor = torch.from_numpy(STREAM).requires_grad_()
    for stream in (tensor, tensor.double(), STREAM.astype(np.float64)):
        found = ward_segments(stream, 6)
        assert found.labels.tolist() == wanted.labels.tolist()
        assert found.pooled.dtype == found.exact.dtype == (np.float32 if stream is tensor else np.float64)
    assert ward_segments(tensor.bfloat16(), 6).exact.dtype == np.float32
    before = STREAM.copy()
    ward_segments(STREAM, 6, normalize=False)
    np.testing.assert_array_equal(STREAM, before)


def test_a_row_of_zeros_has_no_direction():
    stream = np.array([[0.0, 0], [0, 0], [3, 0], [5, 0]])
    found = ward_segments(stream, 2)
    assert found.starts.tolist() == [0, 2] and found.pooled.tolist() == [[0, 0], [4, 0]]


@pytest.mark.parametrize(
    ("decodes", "times", "nearest"),
    [
        ([5.0], [-1, 5, 99], [0, 0, 0]),
        ([0, 2, 4], [1, 3, 1.0001, -5, 4, 9], [0, 1, 1, 0, 2, 2]),
        ([0, 0, 2], [0, 1], [0, 1]),
    ],
)
def test_nearest_decode(decodes, times, nearest):
    found = nearest_decode(decodes, times)
    wanted = [min(range(len(decodes)), key=lambda i: abs(decodes[i] - time)) for time in times]
    assert [abs(decodes[i] - time) for i, time in zip(found, times, strict=True)] == [
        abs(decodes[i] - time) for i, time in zip(wanted, times, strict=True)
    ]
    assert found.tolist() == nearest


@pytest.mark.parametrize(
    ("decodes", "times", "words"),
    [([], [1.0], r"\(0,\)"), ([2.0, 1.0], [1.0], "ascending"), ([1.0], [np.nan], "finite")],
)
def test_times_that_say_nothing_are_refused(decodes, times, words):
    with pytest.raises(ValueError, match=words):
        nearest_decode(decodes, times)


def chunks(stream, sizes):
    """Parts of a stream of these sizes in turn; a size of 0 is a single row without its first dimension."""
    start = turn = 0
    while start < len(stream):
        size = sizes[turn % len(sizes)]
        yield stream[start] if size == 0 else stream[start : start + size]
        start, turn = start + max(size, 1), turn + 1


@pytest.mark.parametrize("sizes", [[1], [0], [7], [3, 0, 11, 1], [1000]])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_monitor_decides_as_if_it_saw_everything(sizes, normalize):
    rng = np.random.default_rng(1)
    scenes = rng.normal(size=(25, 8))[np.sort(rng.integers(0, 25, 300))]
    stream = (scenes + 0.2 * rng.normal(size=(300, 8))).astype(np.float32)
    # The threshold is one of the variances: a decision that rests on their last bit.
    threshold = np.sort(window_variance(stream, 5, normalize))[-40]
    wanted = online_decode_indices(stream, 5, threshold, 4, normalize)
    assert 8 < len(wanted) < 39
    monitor = StreamMonitor(window=5, threshold=threshold, min_gap=4, normalize=normalize)
    found = [decode for part in chunks(stream, sizes) for decode in monitor.push(part)]
    assert [decode.index for decode in found] == wanted.tolist()
    np.testing.assert_array_equal([decode.embedding for decode in found], stream[wanted])
    assert monitor.report().decodes == len(wanted) and monitor.report().embeddings == 300


@pytest.mark.parametrize(
    ("lengths", "window", "min_gap", "decoded"),
    [
        ([3, 3, 3, 3], 2, 3, [0, 3, 6, 9]),  # a gap as long as the least one is enough
        ([3, 3, 3, 3], 2, 4, [0, 6]),
        ([1, 6], 4, 1, [0, 3]),  # nothing is decided before the window is full
        ([5, 5], 4, 1, [0, 5, 6, 7]),  # one change is decoded while it is in the window
    ],
)
def test_the_online_rule_by_hand(lengths, window, min_gap, decoded):
    stream = np.repeat(np.eye(len(lengths)), lengths, axis=0)
    settings = {"window": window, "threshold": 0.1, "min_gap": min_gap}
    assert online_decode_indices(stream, **settings).tolist() == decoded
    assert [decode.index for decode in StreamMonitor(**settings).push(stream)] == decoded


@pytest.mark.parametrize("sizes", [[1], [13, 2]])
def test_a_monitor_decodes_the_mean_since_the_last_decode(sizes):
    wanted = online_decode_indices(STREAM, **RULE)
    given = []
    monitor = StreamMonitor(lambda row: given.append(row) or len(given), source="pooled", **RULE)
    found = [decode for part in chunks(torch.from_numpy(STREAM), sizes) for decode in monitor.push(part)]
    edges = [-1, *wanted]
    means = [STREAM[a + 1 : b + 1].mean(axis=0) for a, b in pairwise(edges)]
    np.testing.assert_allclose(given, means, rtol=0, atol=1e-6)
    assert [decode.output for decode in found] == list(range(1, len(wanted) + 1))
    assert all(decode.embedding is row and row.dtype == np.float32 for decode, row in zip(found, given, strict=True))


def test_a_monitor_keeps_as_much_after_a_long_stream_as_after_a_short_one():
    stream = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
    monitor = StreamMonitor(window=4, threshold=0.5, source="pooled")
    monitor.push(stream[:100])
    short = len(pickle.dumps(monitor))
    assert len(monitor.push(stream[100:])) > 1000
    assert len(pickle.dumps(monitor)) < short + 50


def test_a_monitor_counts_its_decodes():
    scenes = np.repeat(np.eye(3), [10, 4, 6], axis=0)
    monitor = StreamMonitor(lambda row: int(row.argmax()), window=2, threshold=0.1, fps=4.0)
    assert str(monitor.report()) == "0 decodes of 0 embeddings, 0 Hz"
    assert [(decode.index, decode.output) for decode in monitor.push(scenes)] == [(0, 0), (10, 1), (14, 2)]
    assert monitor.report().rate == pytest.approx(3 / 20 * 4) and str(monitor.report()).endswith("0.6 Hz")
    unknown = StreamMonitor(window=2, threshold=0.1)
    unknown.push(scenes)
    assert unknown.report().rate == pytest.approx(3 / 20) and "per embedding" in str(unknown.report())


def test_a_chunk_that_is_refused_changes_nothing():
    monitor = StreamMonitor(window=4, threshold=0.12, min_gap=3)
    first = monitor.push(STREAM[:30])
    for wrong in (np.full((3, 16), np.nan), np.ones((3, 5)), np.ones((2, 3, 16)), np.zeros((0, 16))):
        with pytest.raises(ValueError):
            monitor.push(wrong)
    second = monitor.push(STREAM[30:])
    assert [decode.index for decode in first + second] == IO["online.decode_indices"].tolist()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"window": 1}, ValueError, "window is 1"),
        ({"threshold": float("nan")}, ValueError, "threshold is nan"),
        ({"threshold": -0.1}, ValueError, "threshold is -0.1"),
        ({"min_gap": 0}, ValueError, "min_gap is 0"),
        ({"min_gap": 1.5}, TypeError, "min_gap"),
        ({"source": "mean"}, ValueError, "source 'mean' is not one of pooled, exact"),
        ({"fps": 0.0}, ValueError, "fps is 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        StreamMonitor(**{"window": 4, "threshold": 0.1} | settings)
    if settings.keys() <= {"window", "threshold", "min_gap"}:
        with pytest.raises(error, match=words):
            online_decode_indices(STREAM, **{"window": 4, "threshold": 0.1} | settings)


def test_segmentation_takes_t_log_t_merges():
    """Counted, not timed: no merge gives the heap more than two new pairs."""
    import heapq

    import hf_jepa.evaluation.segments as segments

    pushes = 0

    class Counting:
        heapify, heappop = heapq.heapify, heapq.heappop

        @staticmethod
        def heappush(heap, entry):
            nonlocal pushes
            pushes += 1
            heapq.heappush(heap, entry)

    original, segments.heapq = segments.heapq, Counting
    try:
        WardTree(np.random.default_rng(0).normal(size=(3000, 4)))
    finally:
        segments.heapq = original
    assert 3000 < pushes <= 2 * 3000
