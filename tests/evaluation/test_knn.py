"""k-NN classification against a brute-force vote and on geometries with a known answer."""

import math

import pytest
import torch

from hf_jepa.evaluation import knn
from hf_jepa.evaluation.knn import knn_classify


def clusters(seed=0, rows=60, classes=6, dim=10, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (rows,), generator=g)
    return centres[labels] + spread * torch.randn(rows, dim, generator=g), labels


def brute_force(train_x, train_y, row, k, metric, temperature, weighted):
    """One test row, one neighbour at a time, in Python floats: labels that got a vote, best first."""
    if metric == "cosine":
        near = [torch.nn.functional.cosine_similarity(row.double(), x.double(), dim=0).item() for x in train_x]
    else:
        near = [-math.dist(row.tolist(), x.tolist()) for x in train_x]
    votes = {}
    for i in sorted(range(len(near)), key=lambda i: -near[i])[:k]:
        weight = (math.exp(near[i] / temperature) if metric == "cosine" else -1 / near[i]) if weighted else 1
        votes[train_y[i].item()] = votes.get(train_y[i].item(), 0) + weight
    return sorted(votes, key=lambda label: (-votes[label], label))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_brute_force(metric, weighted):
    train_x, train_y = clusters(0)
    test_x, test_y = clusters(1, rows=40)
    result = knn_classify(train_x, train_y * 10, test_x, test_y * 10, k=9, metric=metric, weighted=weighted)
    expected = [brute_force(train_x, train_y * 10, row, 9, metric, 0.07, weighted) for row in test_x]
    assert result.predictions.tolist() == [labels[0] for labels in expected]
    right = [y.item() * 10 in labels[:1] for y, labels in zip(test_y, expected, strict=True)]
    in_five = [y.item() * 10 in labels[:5] for y, labels in zip(test_y, expected, strict=True)]
    assert 0.2 < result.accuracy < 1  # the case is neither trivial nor hopeless
    assert result.accuracy == pytest.approx(sum(right) / 40)
    assert result.top5 == pytest.approx(sum(in_five) / 40)


def test_metrics_differ_where_length_matters():
    train_x, train_y = torch.tensor([[10.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    point = torch.tensor([[1.0, 0.5]])  # points along the first row, lies near the second
    assert knn_classify(train_x, train_y, point, k=1).predictions.tolist() == [0]
    assert knn_classify(train_x, train_y, point, k=1, metric="euclidean").predictions.tolist() == [1]


def test_weighting_lets_a_close_neighbour_outvote_two_far_ones():
    train_x = torch.tensor([[1.0, 0.02], [0.5, 1.0], [0.5, -1.0]])
    train_y, point = torch.tensor([7, 3, 3]), torch.tensor([[1.0, 0.0]])
    assert knn_classify(train_x, train_y, point, k=3, weighted=False).predictions.tolist() == [3]
    assert knn_classify(train_x, train_y, point, k=3, weighted=True).predictions.tolist() == [7]
    # So hot a temperature makes all weights equal.
    assert knn_classify(train_x, train_y, point, k=3, temperature=1e3).predictions.tolist() == [3]
    assert knn_classify(train_x, train_y, point, k=3, metric="euclidean").predictions.tolist() == [7]


def test_blocks_change_nothing_and_bound_memory(monkeypatch):
    train_x, train_y = clusters(0, rows=200)
    test_x, test_y = clusters(1, rows=70)
    whole = knn_classify(train_x, train_y, test_x, test_y)
    largest = 0
    neighbours = knn._neighbours

    def watch(block, *args):
        nonlocal largest
        largest = max(largest, len(block))
        return neighbours(block, *args)

    monkeypatch.setattr(knn, "_neighbours", watch)
    monkeypatch.setattr(knn, "BLOCK_ELEMENTS", 3 * 200)
    parts = knn_classify(train_x, train_y, test_x, test_y)
    assert largest == 3  # 3 rows x 200 similarities
    assert (parts.accuracy, parts.top5) == (whole.accuracy, whole.top5)
    assert torch.equal(parts.predictions, whole.predictions)


def test_top5_counts_only_classes_with_a_vote():
    train_x, train_y = torch.eye(6), torch.arange(6)
    # One neighbour votes; the four other places of the top five must not be filled by low class numbers.
    result = knn_classify(train_x, train_y, torch.eye(6), torch.tensor([5, 4, 3, 2, 1, 0]), k=1)
    assert result.predictions.tolist() == [0, 1, 2, 3, 4, 5]
    assert (result.accuracy, result.top5) == (0.0, 0.0)
    assert knn_classify(train_x[:4], train_y[:4], torch.eye(6)[:4], train_y[:4], k=1).top5 is None


def test_euclidean_keeps_its_digits_far_from_the_origin():
    g = torch.Generator().manual_seed(0)
    train_x = torch.randn(50, 4, generator=g)
    test_x = train_x + 0.01 * torch.randn(50, 4, generator=g)
    shift = 3000.0  # |a|^2 is near 4e7, the distances to compare near 1e-4
    result = knn_classify(train_x + shift, torch.arange(50), test_x + shift, torch.arange(50), 1, "euclidean")
    assert result.accuracy == 1.0


def test_equal_row_and_half_precision():
    train_x, train_y = clusters(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for metric in ("cosine", "euclidean"):
            assert knn_classify(train_x.half(), train_y, train_x.half(), train_y, k=5, metric=metric).accuracy == 1.0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("scale", [1e-40, 1e-19, 1e19, 1e40])
def test_the_scale_of_the_features_does_not_matter(metric, scale):
    train_x, train_y = clusters(0)
    test_x, _ = clusters(1)
    expected = knn_classify(train_x, train_y, test_x, k=5, metric=metric).predictions
    scaled = (train_x.double() * scale, train_y, test_x.double() * scale)
    assert torch.equal(knn_classify(*scaled, k=5, metric=metric).predictions, expected)


def test_prints_one_line():
    train_x, train_y = clusters(0, spread=0.01)
    assert str(knn_classify(train_x, train_y, train_x, train_y)) == "accuracy 1.0000, top-5 1.0000 on 60 rows"
    assert str(knn_classify(train_x, train_y, train_x)) == "60 predictions, no labels to score them"


def test_refuses_what_cannot_be_answered():
    train_x, train_y = clusters(0)
    with pytest.raises(ValueError, match="k is 61, but there are 60"):
        knn_classify(train_x, train_y, train_x, k=61)
    with pytest.raises(ValueError, match=r"test labels \[9, 11\] do not occur among the 6"):
        knn_classify(train_x, train_y, train_x[:3], torch.tensor([11, 0, 9]))
    with pytest.raises(ValueError, match="10 dimensions and test features 4"):
        knn_classify(train_x, train_y, train_x[:, :4])
    with pytest.raises(ValueError, match="each of 60 rows"):
        knn_classify(train_x, train_y[:59], train_x)
    with pytest.raises(TypeError, match="train_y must hold whole class indices"):
        knn_classify(train_x, train_y.float(), train_x)
    with pytest.raises(ValueError, match="'dot' is not one of cosine, euclidean"):
        knn_classify(train_x, train_y, train_x, metric="dot")
    with pytest.raises(TypeError, match="k must be a whole number, got 2.5"):
        knn_classify(train_x, train_y, train_x, k=2.5)
    with pytest.raises(ValueError, match="temperature is nan"):
        knn_classify(train_x, train_y, train_x, temperature=float("nan"))
    with pytest.raises(ValueError, match="temperature is 0"):
        knn_classify(train_x, train_y, train_x, temperature=0)
    with pytest.raises(ValueError, match="train_x has 0 rows"):
        knn_classify(train_x[:0], train_y[:0], train_x)
