"""Class-mean recall beside recorded numbers, and counted in parts."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.evaluation.recall import ClassMeanRecall, class_mean_recall
from hf_jepa.evaluation.results import topk_accuracy


IO = load_file(Path(__file__).parents[1] / "fixtures/golden/vjepa2/action_anticipation/io.safetensors")
SCORES, LABELS = IO["metric_logits"], IO["metric_labels"]


def percent(share):
    return torch.tensor(100 * share)


def test_recall_and_accuracy_equal_the_official_ones():
    counter = ClassMeanRecall(num_classes=7)
    counter.add(SCORES, LABELS)
    found = counter.compute()
    exact = {"rtol": 0, "atol": 1e-5}  # the last digit of 66.6667 in float32
    torch.testing.assert_close(percent(found["recall"]), IO["metric_recall_at5"], **exact)
    torch.testing.assert_close(percent(found["accuracy"]), IO["metric_accuracy_at5"], **exact)
    assert found["recall"] == class_mean_recall(SCORES, LABELS)
    assert found["accuracy"] == topk_accuracy(SCORES, LABELS, 5)
    # Labels outside the valid classes are misses; without them the mean were twice as high.
    found = class_mean_recall(SCORES, LABELS, k=3, valid_classes=[0, 2, 3, 5])
    torch.testing.assert_close(percent(found), IO["metric_recall_at3_valid0235"], **exact)
    assert found < class_mean_recall(SCORES, LABELS, k=3)


def test_rare_classes_count_as_much_as_frequent_ones():
    scores = torch.eye(4)[[0] * 97 + [1, 0, 2]]
    labels = torch.tensor([0] * 97 + [1, 2, 2])  # class 3 does not occur
    counter = ClassMeanRecall(4, k=1)
    counter.add(scores, labels)
    assert counter.compute() == {"recall": pytest.approx((1 + 1 + 0.5) / 3), "accuracy": 0.99}


def test_parts_add_up_in_any_order_and_process():
    torch.manual_seed(0)
    scores, labels = torch.randn(200, 9), torch.randint(0, 8, (200,))
    options = {"k": 3, "valid_classes": torch.tensor([0, 2, 3, 4, 7])}
    whole = ClassMeanRecall(9, **options)
    whole.add(scores, labels)
    parts = [ClassMeanRecall(9, **options) for _ in range(3)]
    order = torch.randperm(200)
    for number, rows in enumerate(order.split(17)):
        parts[number % 3].add(scores[rows], labels[rows])
    first, *others = pickle.loads(pickle.dumps(parts))  # as they travel between processes
    first.merge(*others)
    assert first.compute() == whole.compute() != parts[0].compute()
    assert first.rows.tolist() == torch.bincount(labels, minlength=9).tolist()
    # From the definition, class by class.
    valid = torch.full((9,), -torch.inf)
    valid[options["valid_classes"]] = 0
    hit = ((scores + valid).topk(3).indices == labels[:, None]).any(1)
    recalls = [hit[labels == label].double().mean() for label in labels.unique()]
    assert whole.compute()["recall"] == pytest.approx(torch.stack(recalls).mean().item(), rel=1e-12)


def test_videos_that_could_not_be_read_are_left_out():
    counter = ClassMeanRecall(7)
    counter.add(SCORES, LABELS)
    expected = counter.compute()
    counter.add(SCORES[:3], torch.full((3,), -100))
    assert counter.compute() == expected


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="k is 5, but there are 4 classes to guess from"):
        ClassMeanRecall(4)
    with pytest.raises(ValueError, match="k is 3, but there are 2 classes"):
        ClassMeanRecall(4, k=3, valid_classes=[1, 2])
    with pytest.raises(ValueError, match="valid_classes span 1 to 4"):
        ClassMeanRecall(4, k=1, valid_classes=[1, 4])
    with pytest.raises(TypeError, match="valid_classes must hold whole class indices"):
        ClassMeanRecall(2, k=1, valid_classes=torch.tensor([True, False]))
    counter = ClassMeanRecall(4, k=1)
    with pytest.raises(ValueError, match="the recall of no rows"):
        counter.compute()
    with pytest.raises(ValueError, match=r"must be \(rows, 4\) without NaN, got \(2, 3\)"):
        counter.add(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="without NaN"):
        counter.add(torch.full((2, 4), torch.nan), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels span 0 to 4"):
        counter.add(torch.zeros(2, 4), torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="labels span -1 to 0"):
        counter.add(torch.zeros(2, 4), torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="k=1 and of 4 classes with k=2 cannot be merged"):
        counter.merge(ClassMeanRecall(4, k=2))
    with pytest.raises(ValueError, match="same num_classes, k and valid_classes"):
        counter.merge(ClassMeanRecall(4, k=1), ClassMeanRecall(4, k=1, valid_classes=[0, 1]))
