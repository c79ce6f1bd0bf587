"""Counting of right answers, and what importing the evaluation costs."""

import subprocess
import sys

import pytest
import torch

from hf_jepa.evaluation.results import confusion_matrix, topk_accuracy


def test_features_and_metrics_import_nothing_heavy():
    code = """
import sys
import hf_jepa.evaluation.features, hf_jepa.evaluation.knn, hf_jepa.evaluation.linear
import hf_jepa.evaluation.low_shot, hf_jepa.evaluation.metrics
assert not {"datasets", "transformers", "sklearn"} & set(sys.modules), sorted(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("labels", "k", "expected"), [([0, 1, 2, 3], 1, 0.5), ([0, 1, 2, 3], 2, 0.75), ([3, 3, 3, 3], 4, 1.0)]
)
def test_topk_accuracy(labels, k, expected):
    scores = torch.tensor([[9.0, 1, 0, 0], [0, 9, 1, 0], [9, 0, 1, 0], [9, 8, 7, 6]])
    assert topk_accuracy(scores, torch.tensor(labels), k) == expected


def test_counting_refuses_what_it_cannot_count():
    scores = torch.zeros(3, 4)
    assert topk_accuracy(scores, torch.tensor([0, 1, 2])) == 1 / 3  # equal scores are one guess, not a hit for all
    with pytest.raises(ValueError, match="k is 5, but there are 4 classes"):
        topk_accuracy(scores, torch.tensor([0, 1, 2]), 5)
    with pytest.raises(ValueError, match="labels span 0 to 4, but there are 4 classes"):
        topk_accuracy(scores, torch.tensor([0, 1, 4]))
    with pytest.raises(ValueError, match="without NaN"):
        topk_accuracy(scores * float("nan"), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="span -1 to 1"):
        confusion_matrix(torch.tensor([0, -1]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no rows"):
        confusion_matrix(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long))
