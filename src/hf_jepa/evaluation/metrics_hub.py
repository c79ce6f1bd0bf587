"""The metrics of this package as `evaluate.Metric`s: made directly, never downloaded, so they work offline.

Importing this module imports `evaluate`, which takes seconds; import it only where it is used.

    metric = TopKAccuracy()
    for batch in batches:
        metric.add_batch(predictions=logits, references=labels)
    metric.compute()  # {"top1": 0.81, "top5": 0.95}
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import torch

from hf_jepa.evaluation.metrics import alpha_req, effective_rank, lidar, rankme
from hf_jepa.evaluation.results import confusion_matrix, topk_accuracy
from hf_jepa.evaluation.text_scoring import score_texts


EMBEDDINGS = {"embeddings": datasets.List(datasets.Value("float32"))}
SCORES = {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
CLASSES = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
TEXTS = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


def _info(description: str, inputs: str, features: dict[str, Any], citation: str = "") -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs,
        features=datasets.Features(features),
    )


def _matrix(rows: list[list[float]], name: str) -> torch.Tensor:
    """The rows that evaluate hands back as lists -> (N, D); rows of different lengths are refused."""
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise ValueError(f"{name} must have rows of one length, got lengths {sorted(lengths)[:10]}")
    return torch.tensor(rows, dtype=torch.float32)


class _OfEmbeddings(evaluate.Metric):
    """A function of `hf_jepa.evaluation.metrics` over embeddings gathered by `add_batch(embeddings=...)`.

    Further arguments of the function are options of `compute`.
    """

    function: Callable[..., float]
    inputs: str
    reference = ""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.function.__name__, self.inputs, EMBEDDINGS, self.reference)

    def _compute(self, embeddings: Any, **options: Any) -> dict[str, float]:
        return {self.function.__name__: self.function(_matrix(embeddings, "embeddings"), **options)}


class RankMe(_OfEmbeddings):
    """RankMe, see `rankme`.

    Example:
        >>> import numpy as np
        >>> round(RankMe().compute(embeddings=np.eye(4, dtype=np.float32))["rankme"], 3)
        4.0
    """

    function = staticmethod(rankme)
    inputs = "embeddings: (N, D); eps, center: see rankme"
    reference = "arXiv:2210.02885"


class LiDAR(_OfEmbeddings):
    """LiDAR, see `lidar`; `compute` needs `samples_per_class`.

    Example:
        >>> import numpy as np
        >>> views = np.repeat(np.concatenate([np.eye(3), -np.eye(3)]), 2, axis=0).astype(np.float32)
        >>> round(LiDAR().compute(embeddings=views, samples_per_class=2)["lidar"], 3)
        3.0
    """

    function = staticmethod(lidar)
    inputs = "embeddings: (n * q, D), the q views of a sample in consecutive rows; samples_per_class: q"
    reference = "arXiv:2312.04000"


class AlphaReQ(_OfEmbeddings):
    """alpha-ReQ, see `alpha_req`.

    Example:
        >>> import numpy as np
        >>> scale = np.diag(np.arange(1, 17) ** -0.5).astype(np.float32)
        >>> round(AlphaReQ().compute(embeddings=np.concatenate([scale, -scale]), fit_range=None)["alpha_req"], 3)
        1.0
    """

    function = staticmethod(alpha_req)
    inputs = "embeddings: (N, D); fit_range, weighted: see alpha_req"


class EffectiveRank(_OfEmbeddings):
    """Effective rank, see `effective_rank`.

    Example:
        >>> import numpy as np
        >>> round(EffectiveRank().compute(embeddings=np.eye(4, dtype=np.float32))["effective_rank"], 3)
        4.0
    """

    function = staticmethod(effective_rank)
    inputs = "embeddings: (N, D); spectrum: see effective_rank"


class TopKAccuracy(evaluate.Metric):
    """Top-1 accuracy and, with five classes or more, top-5 accuracy of logits.

    Example:
        >>> import numpy as np
        >>> TopKAccuracy().compute(predictions=np.eye(6, dtype=np.float32), references=[0, 1, 2, 3, 4, 0])
        {'top1': 0.8333333333333334, 'top5': 1.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Top-1 and top-5 accuracy", "predictions: logits (N, C); references: class indices (N,)", SCORES)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        scores, labels = _matrix(predictions, "predictions"), torch.as_tensor(references)
        result = {"top1": topk_accuracy(scores, labels)}
        return result | {"top5": topk_accuracy(scores, labels, k=5)} if scores.shape[1] >= 5 else result


class ConfusionMatrix(evaluate.Metric):
    """Counts (C, C) of [true class, predicted class] from predicted class indices.

    Example:
        >>> ConfusionMatrix().compute(predictions=[0, 1, 1], references=[0, 0, 1])
        {'confusion_matrix': [[1, 1], [0, 1]]}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Confusion matrix", "predictions, references: class indices (N,); num_classes: C", CLASSES)

    def _compute(self, predictions: Any, references: Any, num_classes: int | None = None) -> dict[str, list]:
        counts = confusion_matrix(torch.as_tensor(predictions), torch.as_tensor(references), num_classes)
        return {"confusion_matrix": counts.tolist()}


class TextAccuracy(evaluate.Metric):
    """Share of right answers of a language model, see `score_texts`; `compute` needs the `task`.

    Example:
        >>> TextAccuracy().compute(predictions=["a", "b"], references=["a", "c"], task="exact")["accuracy"]
        0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        inputs = "predictions, references: texts; task, scoring, users, database: see score_texts"
        return _info("Accuracy of generated texts", inputs, TEXTS, "arXiv:2509.14252")

    def _compute(self, predictions: Any, references: Any, task: str, **options: Any) -> dict[str, float]:
        scores = score_texts(task, predictions, references, **options)
        low, high = scores.interval
        return {"accuracy": scores.accuracy, "accuracy_low": low, "accuracy_high": high}


__all__ = ["AlphaReQ", "ConfusionMatrix", "EffectiveRank", "LiDAR", "RankMe", "TextAccuracy", "TopKAccuracy"]
