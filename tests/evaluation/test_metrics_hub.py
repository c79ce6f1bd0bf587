"""The `evaluate.Metric` wrappers: same numbers as the plain functions, no network, no cost until they are used."""

import os
import subprocess
import sys

import pytest
import torch


OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError("a metric opened a connection")

socket.socket.connect = socket.create_connection = refuse

import torch
from hf_jepa.evaluation.metrics import alpha_req, effective_rank, lidar, rankme
from hf_jepa.evaluation.metrics_hub import AlphaReQ, ConfusionMatrix, EffectiveRank, LiDAR, RankMe, TopKAccuracy

x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
metric = RankMe()
for batch in x.split(10):  # gathered over batches, as in a training loop
    metric.add_batch(embeddings=batch)
assert metric.compute() == {"rankme": rankme(x)}
assert RankMe().compute(embeddings=x.numpy(), eps=1e-5, center=True) == {"rankme": rankme(x, 1e-5, True)}
assert LiDAR().compute(embeddings=x, samples_per_class=4) == {"lidar": lidar(x, 4)}
assert AlphaReQ().compute(embeddings=x, fit_range=(2, 9)) == {"alpha_req": alpha_req(x, (2, 9))}
assert EffectiveRank().compute(embeddings=x, spectrum="covariance") == {
    "effective_rank": effective_rank(x, "covariance")
}

labels = torch.arange(64) % 12
order = x.argsort(dim=1, descending=True)
expected = {f"top{k}": (order[:, :k] == labels[:, None]).any(1).double().mean().item() for k in (1, 5)}
assert 0 < expected["top1"] < expected["top5"] < 1
assert TopKAccuracy().compute(predictions=x, references=labels) == expected
assert TopKAccuracy().compute(predictions=x[:, :3], references=labels % 3).keys() == {"top1"}

guesses = order[:, 0]
matrix = ConfusionMatrix().compute(predictions=guesses, references=labels, num_classes=13)["confusion_matrix"]
assert sum(map(sum, matrix)) == 64 and len(matrix) == 13
for label in range(12):
    for guess in range(12):
        assert matrix[label][guess] == int(((labels == label) & (guesses == guess)).sum())
try:
    ConfusionMatrix().compute(predictions=[0, 3], references=[0, 1], num_classes=3)
except ValueError as error:
    assert "0 to 3, outside 0 to 2" in str(error)
else:
    raise AssertionError("a class beyond num_classes was accepted")
try:
    RankMe().compute(embeddings=[[1.0, 2.0], [3.0]])
except ValueError as error:
    assert "lengths [1, 2]" in str(error)
else:
    raise AssertionError("ragged rows were accepted")
"""


def run_python(code, tmp_path, **environment):
    cache = {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    env = {**os.environ, **cache, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.hub  # a process of its own
def test_offline_in_a_process_that_cannot_connect(tmp_path):
    result = run_python(OFFLINE, tmp_path, HF_HUB_OFFLINE="1", HF_EVALUATE_OFFLINE="1")
    assert result.returncode == 0, result.stderr


def test_the_other_modules_do_not_import_evaluate(tmp_path):
    code = """
import sys
import hf_jepa.evaluation.features, hf_jepa.evaluation.knn, hf_jepa.evaluation.linear
import hf_jepa.evaluation.low_shot, hf_jepa.evaluation.metrics
assert not {"evaluate", "datasets", "transformers", "sklearn"} & set(sys.modules), sorted(sys.modules)
"""
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("labels", "k", "expected"), [([0, 1, 2, 3], 1, 0.5), ([0, 1, 2, 3], 2, 0.75), ([3, 3, 3, 3], 4, 1.0)]
)
def test_topk_accuracy(labels, k, expected):
    from hf_jepa.evaluation.results import topk_accuracy

    scores = torch.tensor([[9.0, 1, 0, 0], [0, 9, 1, 0], [9, 0, 1, 0], [9, 8, 7, 6]])
    assert topk_accuracy(scores, torch.tensor(labels), k) == expected


def test_counting_refuses_what_it_cannot_count():
    from hf_jepa.evaluation.results import confusion_matrix, topk_accuracy

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
