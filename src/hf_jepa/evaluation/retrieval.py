"""Recall of retrieval in both directions, and the accuracy of answers; ties are no hits by luck."""

from collections.abc import Mapping, Sequence

import torch

from hf_jepa.evaluation.inputs import check_count, check_features, check_labels
from hf_jepa.evaluation.text_scoring import TextScores, score_texts


_ROWS = 1024  # queries at a time


def retrieval_recalls(
    similarities: torch.Tensor,
    video_groups: torch.Tensor | None = None,
    text_groups: torch.Tensor | None = None,
    ks: Sequence[int] = (1, 5, 10),
    tie_tolerance: float = 1e-6,
) -> dict[str, dict[str, float]]:
    """Recall@k of retrieval, both directions, as VL-JEPA (2512.10942) and CLIP-like models report it.

    A query counts as found if any right item is among the k most similar ones. Where items tie over the last of the k
    places, the query counts with the probability that a right one is drawn when ties are broken at random: a model
    that gives all items one score has recall k / N, not 1 and not 0.

    Args:
        similarities: (V, T) of every video and every text, such as `Retrieval.similarities`.
        video_groups, text_groups: (V,) and (T,) whole numbers: a text is right for a video if theirs are equal. Unless
            given, text i belongs to video i alone. Equal captions of different videos should share a group with all of
            these.
        ks: numbers of places; those above the number of items are left out.
        tie_tolerance: similarities that differ by no more are ties: rounding alone differs by so much between places
            in a batch.

    Returns:
        {"text_to_video": {"R@1": ..., "R@5": ..., "R@10": ...}, "video_to_text": {...}}, all 0 to 1.

    Raises:
        TypeError: similarities that are no floating-point tensor, numbers that are not whole.
        ValueError: NaN, no row, groups that do not fit, an item without partner (named), or k below 1.

    Example:
        >>> import torch
        >>> found = retrieval_recalls(torch.eye(3) - 0.5 * torch.eye(3)[[1, 0, 2]], ks=[1])
        >>> found, retrieval_recalls(torch.zeros(4, 4), ks=[1, 2])["text_to_video"]
        ({'text_to_video': {'R@1': 1.0}, 'video_to_text': {'R@1': 1.0}}, {'R@1': 0.25, 'R@2': 0.5})
    """
    dtype = torch.float64 if getattr(similarities, "dtype", None) == torch.float64 else torch.float32
    similarities = check_features(similarities, "similarities", dtype=dtype).cpu()
    videos, texts = _groups(similarities, video_groups, text_groups)
    ks = [check_count(k, "k") for k in ks]
    if not tie_tolerance >= 0:
        raise ValueError(f"tie_tolerance is {tie_tolerance}: it must be 0 or more")
    return {
        "text_to_video": _recalls(similarities.T, texts, videos, "text", ks, tie_tolerance),
        "video_to_text": _recalls(similarities, videos, texts, "video", ks, tie_tolerance),
    }


def _groups(
    similarities: torch.Tensor, videos: torch.Tensor | None, texts: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = similarities.shape
    if (videos is None) != (texts is None):
        raise ValueError("groups are needed of both videos and texts, or of neither")
    if videos is not None and texts is not None:
        return check_labels(videos, rows, "video_groups").cpu(), check_labels(texts, columns, "text_groups").cpu()
    if rows != columns:
        raise ValueError(f"{rows} videos and {columns} texts are no pairs: say by groups which belong together")
    return torch.arange(rows), torch.arange(columns)


def _recalls(
    similarities: torch.Tensor,
    queries: torch.Tensor,
    items: torch.Tensor,
    name: str,
    ks: list[int],
    tie_tolerance: float,
) -> dict[str, float]:
    """Mean over queries (Q, N) of the probability that a right item is among the first k, for every k up to N."""
    ks = [k for k in ks if k <= len(items)]
    found = torch.zeros(len(ks), dtype=torch.float64)
    for start in range(0, len(queries), _ROWS):
        rows = similarities[start : start + _ROWS]
        right = queries[start : start + _ROWS, None] == items  # (R, N)
        if len(alone := (~right.any(dim=1)).nonzero()):
            raise ValueError(f"{name} {start + alone[0].item()} has no partner of its group: leave it out")
        best = rows.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # of the right ones
        above = (rows > best + tie_tolerance).sum(dim=1)  # wrong, all of them
        tied = (rows - best).abs() <= tie_tolerance
        found += torch.stack([_hit(tied.sum(dim=1), (tied & right).sum(dim=1), k - above) for k in ks]).sum(dim=1)
    return dict(zip([f"R@{k}" for k in ks], (found / len(queries)).tolist(), strict=True))


def _hit(tied: torch.Tensor, right: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Probability that of `tied` items in random order one of the `right` ones is among the first `places`, (R,)."""
    places = places.clamp(min=0).minimum(tied)
    wrong = (tied - right).double()
    miss = torch.ones(len(tied), dtype=torch.float64)  # all places are taken by wrong ones
    for place in range(int(places.max())):
        share = ((wrong - place) / (tied - place)).clamp(min=0)
        miss = torch.where(places > place, miss * share, miss)
    return 1 - miss


def vqa_accuracy(
    answers: Sequence[str],
    references: Sequence[str],
    groups: Sequence[str] | None = None,
) -> dict[str, float | Mapping[str, float]]:
    """Share of questions that are answered right: the same words, whatever the case and the outer blanks.

    Args:
        answers: (N) such as the first label of each ranking of `VisionLanguageTasks.answer`.
        references: (N) right answers.
        groups: (N) kinds of questions, such as the three of POPE, of which the mean is reported, or the two of
            TallyQA, of which the mean weighted by questions is: that is the accuracy of all.

    Returns:
        {"accuracy": of all, "accuracy_low" and "accuracy_high": its interval of 95 % (Wilson)}; with groups also
        "groups", the accuracy of each, and "group_mean", their plain mean.

    Raises:
        ValueError: different lengths, or no question.

    Example:
        >>> found = vqa_accuracy(["Two", "red", "no"], ["two", "green", "no"], ["count", "count", "other"])
        >>> round(found["accuracy"], 3), found["groups"], found["group_mean"]
        (0.667, {'count': 0.5, 'other': 1.0}, 0.75)
    """
    scores = _exact(answers, references)
    low, high = scores.interval
    found: dict[str, float | Mapping[str, float]] = {
        "accuracy": scores.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
    }
    if groups is None:
        return found
    if len(groups) != len(answers):
        raise ValueError(f"{len(groups)} groups for {len(answers)} answers: give one for each")
    of: dict[str, list[bool]] = {}
    for group, sample in zip(groups, scores.samples, strict=True):
        of.setdefault(group, []).append(sample.correct)
    shares = {group: sum(correct) / len(correct) for group, correct in of.items()}
    return found | {"groups": shares, "group_mean": sum(shares.values()) / len(shares)}


def _exact(answers: Sequence[str], references: Sequence[str]) -> TextScores:
    plain = [[text.strip().casefold() for text in texts] for texts in (answers, references)]
    return score_texts("exact", *plain)


__all__ = ["retrieval_recalls", "vqa_accuracy"]
