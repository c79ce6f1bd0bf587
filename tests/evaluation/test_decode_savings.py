"""What selective decoding saves on streams whose events are known."""

import operator

import numpy as np
import pytest

from hf_jepa.evaluation.decode_savings import annotation_score, compare_with_uniform, decode_curves
from hf_jepa.evaluation.segments import uniform_segments, ward_segments
from hf_jepa.evaluation.selective_decoding import StreamMonitor, online_decode_indices


LENGTHS = [60, 5, 4, 6, 80, 5, 40]  # of events: long quiet ones and short ones close together
LABELS = list(range(len(LENGTHS)))
ENDS = np.cumsum(LENGTHS)
MIDDLES = ENDS - np.array(LENGTHS) / 2


def decode(rows):
    return rows[:, : len(LENGTHS)].argmax(axis=1)


@pytest.fixture(scope="module")
def stream():
    noise = np.random.default_rng(0).normal(size=(sum(LENGTHS), 16))
    return (np.repeat(np.eye(len(LENGTHS), 16), LENGTHS, axis=0) + 0.05 * noise).astype(np.float32)


def test_as_many_decodes_as_events_tell_all_of_them(stream):
    score = annotation_score(decode, LABELS, MIDDLES)
    cut = ward_segments(stream, len(LENGTHS))
    assert cut.starts.tolist() == [0, *ENDS[:-1]]
    found = compare_with_uniform(stream, score, cut.midpoints, cut.pooled)
    assert (found.decodes, found.score) == (7, 1.0) and found.uniform_score < 0.6
    # By the definition: no smaller number of even segments is enough.
    even = [uniform_segments(stream, n) for n in range(1, found.uniform_decodes + 1)]
    scores = [score(cut.midpoints, cut.pooled) for cut in even]
    assert max(scores[:-1]) < 1.0 == scores[-1]
    assert found.saving == found.uniform_decodes / 7 > 2
    assert "times as many" in str(found)


def test_a_monitor_beside_even_decodes(stream):
    score = annotation_score(decode, LABELS, MIDDLES, times=np.arange(len(stream)))
    monitor = StreamMonitor(window=4, threshold=0.1, min_gap=4)
    decodes = monitor.push(stream)
    indices, embeddings = [d.index for d in decodes], np.array([d.embedding for d in decodes])
    assert indices == online_decode_indices(stream, 4, 0.1, 4).tolist()
    found = compare_with_uniform(stream, score, indices, embeddings, source="exact")
    assert found.decodes == len(indices) == monitor.report().decodes
    assert found.saving > 1.5


def test_it_is_said_when_no_number_is_enough(stream):
    score = annotation_score(decode, LABELS, MIDDLES)
    cut = ward_segments(stream, 7)
    found = compare_with_uniform(stream, score, cut.midpoints, cut.pooled, counts=[1, 2, 3])
    assert found.uniform_decodes is None and found.saving is None and "no number" in str(found)


def test_curves_meet_where_every_embedding_is_decoded(stream):
    score = annotation_score(decode, LABELS, MIDDLES)
    curves = decode_curves(stream, score, [1, 3, 7, len(stream)])
    assert curves["selective"][2] == 1.0 > curves["uniform"][2]
    assert curves["selective"][0] == curves["uniform"][0] and curves["selective"][3] == curves["uniform"][3]
    exact = decode_curves(stream, score, [7], source="exact")
    assert exact["selective"] == [1.0]


@pytest.mark.parametrize("source", ["pooled", "exact"])
def test_what_is_decoded_is_what_was_asked_for(stream, source):
    given = []

    def score(indices, rows):
        given.append((indices.tolist(), rows.tolist()))
        return 1.0

    decode_curves(stream, score, [3], source)
    compare_with_uniform(stream, score, [4, 8], stream[:2], counts=[5], source=source)
    cuts = [ward_segments(stream, 3), *(uniform_segments(stream, count) for count in (3, 2, 5))]
    wanted = [(cut.midpoints.tolist(), getattr(cut, source).tolist()) for cut in cuts]
    assert given == [*wanted[:2], ([4, 8], stream[:2].tolist()), *wanted[2:]]


def test_annotations_are_compared_with_the_nearest_decode():
    asked = []

    def say(rows):
        asked.append(rows)
        return ["a", "b"]

    score = annotation_score(say, ["A", "b", "b"], [0.0, 9.0, 90.0], times=[0.0, 10.0, 20.0], agreement=operator.eq)
    rows = np.ones((2, 4))
    assert score(np.array([0, 2]), rows) == pytest.approx(1 / 3) and asked[0] is rows
    loose = annotation_score(say, ["A", "B", "b"], [0.0, 0.9, 9.0], agreement=lambda x, y: float(x == y.lower()))
    assert loose(np.array([0, 2]), rows) == pytest.approx(2 / 3)  # 0.9 is nearer to the first


def test_what_says_nothing_is_refused(stream):
    with pytest.raises(ValueError, match="2 annotations at 1 times"):
        annotation_score(decode, [1, 2], [0.0])
    with pytest.raises(ValueError, match="0 annotations"):
        annotation_score(decode, [], [])
    score = annotation_score(lambda rows: [1], LABELS, MIDDLES)
    with pytest.raises(ValueError, match="1 outputs for 2 embeddings"):
        score(np.array([0, 1]), np.ones((2, 3)))
    with pytest.raises(ValueError, match="source 'middle'"):
        compare_with_uniform(stream, score, [0], stream[:1], source="middle")
    with pytest.raises(ValueError, match="num_segments is 0"):
        compare_with_uniform(stream, lambda indices, rows: 0.0, [], stream[:0])
