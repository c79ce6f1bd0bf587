"""Recall of retrieval by hand and by draws, and the accuracy of answers."""

import itertools

import pytest
import torch

from hf_jepa.evaluation.retrieval import retrieval_recalls, vqa_accuracy


def drawn(row, right, k):
    """Share of all orders of equal items in which a right one is among the first k, tried one by one."""
    levels = [[i for i, value in enumerate(row) if value == level] for level in sorted(set(row), reverse=True)]
    hits = []
    for orders in itertools.product(*(list(itertools.permutations(level)) for level in levels)):
        first = [item for order in orders for item in order][:k]
        hits.append(any(right[item] for item in first))
    return sum(hits) / len(hits)


def test_pairs_without_ties():
    similarities = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.7], [0.1, 0.6, 0.5]])
    found = retrieval_recalls(similarities, ks=[1, 2, 3, 10])
    # Video 0 finds its text first, video 1 third, video 2 second; text 0 first, text 1 second, text 2 second.
    third = 1 / 3
    assert found["video_to_text"] == pytest.approx({"R@1": third, "R@2": 2 * third, "R@3": 1.0})
    assert found["text_to_video"] == pytest.approx({"R@1": third, "R@2": 1.0, "R@3": 1.0})


def test_against_every_order_of_ties():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        similarities = torch.randint(0, 3, (4, 5), generator=generator).float()
        videos = torch.tensor([0, 1, 2, 2])
        texts = torch.tensor([0, 0, 1, 2, 1])[torch.randperm(5, generator=generator)]
        found = retrieval_recalls(similarities, videos, texts, ks=[1, 2, 3])
        right = videos[:, None] == texts
        for direction, rows, truth in (
            ("video_to_text", similarities, right),
            ("text_to_video", similarities.T, right.T),
        ):
            for k in (1, 2, 3):
                shares = [drawn(row, own, k) for row, own in zip(rows.tolist(), truth.tolist(), strict=True)]
                assert found[direction][f"R@{k}"] == pytest.approx(sum(shares) / len(shares))


def test_a_collapsed_model_is_no_better_than_chance():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.ones(50, 8) + 1e-8 * torch.randn(50, 8, generator=generator), dim=1)
    noise = 5e-7 * torch.eye(50)
    for similarities in (torch.zeros(50, 50), rows @ rows.T, noise, -noise):
        found = retrieval_recalls(similarities, ks=[1, 5, 10])
        for direction in found.values():
            assert direction == pytest.approx({"R@1": 0.02, "R@5": 0.1, "R@10": 0.2})
    assert retrieval_recalls(1e-7 * torch.eye(50), tie_tolerance=0)["video_to_text"]["R@1"] == 1.0


def test_many_queries_are_counted_in_parts(monkeypatch):
    similarities = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    whole = retrieval_recalls(similarities)
    monkeypatch.setattr("hf_jepa.evaluation.retrieval._ROWS", 7)
    assert retrieval_recalls(similarities) == {name: pytest.approx(value) for name, value in whole.items()}
    places = (similarities > similarities.diagonal()[:, None]).sum(dim=1)
    assert whole["video_to_text"] == {f"R@{k}": pytest.approx((places < k).double().mean().item()) for k in (1, 5, 10)}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(2, 3),), ValueError, "2 videos and 3 texts are no pairs"),
        ((torch.zeros(2, 3), torch.arange(2)), ValueError, "groups are needed of both"),
        ((torch.zeros(2, 3), torch.arange(3), torch.arange(3)), ValueError, "video_groups has shape"),
        ((torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0, 0])), ValueError, "video 1 has no partner"),
        ((torch.zeros(2, 2), torch.tensor([0, 0]), torch.tensor([1, 0])), ValueError, "text 0 has no partner"),
        ((torch.tensor([[float("nan")]]),), ValueError, "NaN"),
        ((torch.zeros(0, 0),), ValueError, "0 rows"),
        ((torch.zeros(2, 2), None, None, [0]), ValueError, "k is 0"),
        ((torch.zeros(2, 2), None, None, [1], -1.0), ValueError, "tie_tolerance is -1.0"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        retrieval_recalls(*arguments)


def test_accuracy_of_answers():
    answers = ["Yes", "no", " no ", "3"]
    found = vqa_accuracy(answers, ["yes", "yes", "No", "4"])
    assert found["accuracy"] == 0.5 and found["accuracy_low"] < 0.5 < found["accuracy_high"]
    found = vqa_accuracy(answers, ["yes", "yes", "No", "4"], ["random", "random", "popular", "adversarial"])
    assert found["groups"] == {"random": 0.5, "popular": 1.0, "adversarial": 0.0}
    assert found["group_mean"] == pytest.approx(0.5) and found["accuracy"] == 0.5
    with pytest.raises(ValueError, match="2 groups for 4 answers"):
        vqa_accuracy(answers, answers, ["a", "b"])
    with pytest.raises(ValueError, match="4 answers, 3 references"):
        vqa_accuracy(answers, answers[:3])
