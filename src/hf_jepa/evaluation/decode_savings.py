"""What selective decoding saves: its decodes beside evenly spaced ones, at equal score."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_jepa.evaluation.segments import Segments, Stream, WardTree, uniform_segments
from hf_jepa.evaluation.selective_decoding import check_source, nearest_decode


Score = Callable[[np.ndarray, np.ndarray], float]  # of decoded indices (N,) and their embeddings (N, D)


def annotation_score(
    decode: Callable[[np.ndarray], Sequence[Any]],
    annotations: Sequence[Any],
    annotation_times: Sequence[float],
    times: Sequence[float] | None = None,
    agreement: Callable[[Any, Any], float] = operator.eq,
) -> Score:
    """How well the decodes of a stream tell what is known of it: every annotation beside the decode nearest in time.

    The protocol of VL-JEPA (2512.10942, section 4.5), where the agreement is CIDEr.

    Args:
        decode: called with (N, D) embeddings, returns N outputs.
        annotations: (A,) what is known.
        annotation_times: (A,) when.
        times: (T,) when the embeddings of the stream were; their indices unless given.
        agreement: of an output and an annotation, the more the better; 1 or 0 for equal or not unless given.

    Returns:
        a function of the decoded indices (N,) and their embeddings (N, D): the mean agreement.

    Raises:
        ValueError: no annotation or not one time for each; later, not one output for each embedding.

    Example:
        >>> import numpy as np
        >>> score = annotation_score(lambda rows: rows.argmax(axis=1), [0, 1, 2], annotation_times=[0, 1, 2])
        >>> score(np.array([0, 2]), np.eye(3)[[0, 2]])
        0.6666666666666666
    """
    if not len(annotations) or len(annotations) != len(annotation_times):
        counts = f"{len(annotations)} annotations at {len(annotation_times)} times"
        raise ValueError(f"{counts}: give at least one annotation, and each its time")

    def score(indices: np.ndarray, embeddings: np.ndarray) -> float:
        outputs = decode(embeddings)
        if len(outputs) != len(indices):
            raise ValueError(f"the decoder returned {len(outputs)} outputs for {len(indices)} embeddings")
        nearest = nearest_decode(indices if times is None else np.asarray(times)[indices], annotation_times)
        agreed = [agreement(outputs[i], wanted) for i, wanted in zip(nearest, annotations, strict=True)]
        return float(np.mean(agreed))

    return score


class UniformComparison(NamedTuple):
    """Selective decodes beside evenly spaced ones; print it for one line.

    Args:
        decodes: N of the selective rule.
        score: of these.
        uniform_score: of N evenly spaced ones.
        uniform_decodes: least number of evenly spaced ones that score no less; None if none of those tried does.
    """

    decodes: int
    score: float
    uniform_score: float
    uniform_decodes: int | None

    @property
    def saving(self) -> float | None:
        """How many times as many evenly spaced decodes are needed; None if there is no such number."""
        return None if self.uniform_decodes is None else self.uniform_decodes / self.decodes

    def __str__(self) -> str:
        need = (
            "no number of them that was tried scores as much"
            if self.uniform_decodes is None
            else f"{self.uniform_decodes} of them score as much, {self.saving:.2f} times as many"
        )
        return f"{self.decodes} decodes score {self.score:.3f}, evenly spaced {self.uniform_score:.3f}; {need}"


def compare_with_uniform(
    stream: Stream,
    score: Score,
    indices: Sequence[int],
    embeddings: Stream,
    counts: Iterable[int] | None = None,
    source: str = "pooled",
) -> UniformComparison:
    """How many evenly spaced decodes are worth the selective ones, at equal score.

    Evenly spaced decodes can hit by luck: the first number that scores as much counts, though the next may score less.

    Args:
        stream: (T, D) embeddings.
        score: of indices (N,) and their embeddings (N, D), the more the better, such as `annotation_score`.
        indices: where the selective rule decodes, such as `Segments.midpoints` or those of a `StreamMonitor`.
        embeddings: (N, D), what it decodes there, such as `Segments.pooled`.
        counts: numbers of evenly spaced decodes to try, in this order until one is enough; unless given 1 to T, which
            are many calls of the decoder: up to T (T + 1) / 2.
        source: what is decoded of the even segments, their mean ("pooled") or the middle ("exact").

    Returns:
        `UniformComparison`

    Raises:
        TypeError, ValueError: no stream, no decode, or a number of decodes that the stream does not have.

    Example:
        >>> import numpy as np
        >>> stream = np.repeat(np.eye(4), [20, 2, 2, 16], axis=0)
        >>> score = annotation_score(lambda rows: rows.argmax(axis=1), [0, 1, 2, 3], [10, 20.5, 22.5, 32])
        >>> from hf_jepa.evaluation.segments import ward_segments
        >>> cut = ward_segments(stream, 4)
        >>> print(compare_with_uniform(stream, score, cut.midpoints, cut.pooled))
        4 decodes score 1.000, evenly spaced 0.500; 14 of them score as much, 3.50 times as many
    """
    check_source(source)
    found = score(np.asarray(indices), np.asarray(embeddings))
    beside = _score_even(stream, len(indices), score, source)
    counts = range(1, len(stream) + 1) if counts is None else counts
    enough = (count for count in counts if _score_even(stream, count, score, source) >= found)
    return UniformComparison(len(indices), found, beside, next(enough, None))


def decode_curves(
    stream: Stream, score: Score, counts: Sequence[int], source: str = "pooled", normalize: bool = True
) -> dict[str, list[float]]:
    """Score of Ward segments and of even ones over the number of decodes.

    Args:
        stream, score, source: see `compare_with_uniform`.
        counts: numbers of decodes, each 1 to T.
        normalize: see `ward_segments`.

    Returns:
        {"selective": [...], "uniform": [...]}, a score for every count.

    Raises:
        TypeError, ValueError: as `compare_with_uniform`.

    Example:
        >>> import numpy as np
        >>> stream = np.repeat(np.eye(3), [6, 1, 5], axis=0)
        >>> score = annotation_score(lambda rows: rows.argmax(axis=1), [0, 1, 2], [3, 6, 9])
        >>> curves = decode_curves(stream, score, [1, 2, 3])
        >>> [round(value, 2) for value in curves["selective"]], [round(value, 2) for value in curves["uniform"]]
        ([0.33, 0.67, 1.0], [0.33, 0.67, 0.67])
    """
    check_source(source)
    tree = WardTree(stream, normalize)
    return {
        "selective": [_score_segments(tree.cut(count), score, source) for count in counts],
        "uniform": [_score_even(stream, count, score, source) for count in counts],
    }


def _score_even(stream: Stream, count: int, score: Score, source: str) -> float:
    return _score_segments(uniform_segments(stream, count, normalize=False), score, source)


def _score_segments(segments: Segments, score: Score, source: str) -> float:
    return score(segments.midpoints, getattr(segments, source))


__all__ = ["Score", "UniformComparison", "annotation_score", "compare_with_uniform", "decode_curves"]
