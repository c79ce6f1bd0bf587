"""k-nearest-neighbour classification: the probe without training."""

import torch
from torch.nn.functional import normalize

from hf_jepa.evaluation.inputs import check_count, check_features, check_labels, check_same_width
from hf_jepa.evaluation.results import ProbeResult, check_known_classes, rank_classes


METRICS = ("cosine", "euclidean")
BLOCK_ELEMENTS = 2**25  # entries of one block of similarities: 128 MiB in float32


@torch.no_grad()
def knn_classify(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor | None = None,
    k: int = 20,
    metric: str = "cosine",
    temperature: float = 0.07,
    weighted: bool = True,
) -> ProbeResult:
    """Label each test row by a vote of its k nearest training rows.

    The cosine vote is weighted by exp(cosine / temperature) (Wu et al., 1805.01978, section 3.4; the protocol of DINO,
    2104.14294). The euclidean vote is weighted by 1 / distance. Equal votes go to the lower label. Test rows are taken
    in blocks, so that besides a float32 copy of the features (float64 while they are scaled) at most a block of
    `BLOCK_ELEMENTS` similarities is held, whatever the number of rows.

    Args:
        train_x: (N, D) features on any device; the work is done where they are.
        train_y: (N,) class labels, any whole numbers.
        test_x: (M, D)
        test_y: (M,) labels to score against; None only predicts.
        k: neighbours, at most N.
        metric: "cosine" or "euclidean".
        temperature: of the weighted cosine vote; the euclidean vote has none.
        weighted: False counts each neighbour as one.

    Returns:
        `ProbeResult`; `top5` is given for five classes or more, and counts only classes that got a vote.

    Raises:
        ValueError: unusable features or labels, k outside 1..N, unknown metric, temperature not positive, test labels
            that training never saw.

    Example:
        >>> import torch
        >>> train_x, train_y = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([3, 3, 8])
        >>> print(knn_classify(train_x, train_y, torch.tensor([[2.0, 0.1], [0.1, 5.0]]), torch.tensor([3, 8]), k=1))
        accuracy 1.0000 on 2 rows
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it must be positive")
    train_x = check_features(train_x, "train_x")
    test_x = check_features(test_x, "test_x").to(train_x.device)
    check_same_width(train_x, test_x)
    # Neither metric sees a common factor, and float32 does not hold the squares of very large or small numbers.
    exponent = torch.frexp(torch.stack([train_x.abs().max(), test_x.abs().max()]).max()).exponent
    train_x, test_x = (torch.ldexp(x, -exponent).float() for x in (train_x, test_x))
    train_y = check_labels(train_y, len(train_x), "train_y").to(train_x.device)
    if check_count(k, "k") > len(train_x):
        raise ValueError(f"k is {k}, but there are {len(train_x)} training rows to choose neighbours from")
    classes, votes_for = train_y.unique(return_inverse=True)
    if test_y is not None:
        test_y = check_labels(test_y, len(test_x), "test_y").to(train_x.device)
        check_known_classes(classes, test_y)

    if metric == "cosine":
        train_x, test_x = normalize(train_x, dim=1), normalize(test_x, dim=1)
    else:  # distances do not see a shift, but their expansion |a|^2 - 2ab + |b|^2 loses digits to a large common one
        centre = train_x.mean(dim=0)
        train_x, test_x = train_x - centre, test_x - centre
    rows = max(1, BLOCK_ELEMENTS // max(len(train_x), len(classes), k * train_x.shape[1]))
    with torch.autocast(train_x.device.type, enabled=False):  # half precision would reorder the neighbours
        blocks = []
        for block in test_x.split(rows):
            neighbours, weights = _neighbours(block, train_x, k, metric, temperature)
            votes = block.new_zeros(len(block), len(classes))
            votes.scatter_add_(1, votes_for[neighbours], weights if weighted else torch.ones_like(weights))
            order = rank_classes(votes, 5)
            blocks.append(torch.where(votes.gather(1, order) > 0, classes[order], classes[order[:, :1]]))
    ranking = torch.cat(blocks)  # (M, min(5, C)) labels; places without a vote repeat the first guess
    if test_y is None:
        return ProbeResult(ranking[:, 0])
    hits = ranking == test_y[:, None]
    top5 = hits.any(dim=1).double().mean().item() if len(classes) >= 5 else None
    return ProbeResult(ranking[:, 0], hits[:, 0].double().mean().item(), top5)


def _neighbours(
    block: torch.Tensor, train_x: torch.Tensor, k: int, metric: str, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and vote weights of the k nearest training rows, each (m, k)."""
    if metric == "cosine":
        similarity, index = (block @ train_x.T).topk(k, dim=1)
        return index, ((similarity - similarity[:, :1]) / temperature).exp()  # the best weighs 1, nothing overflows
    squared = torch.addmm(train_x.square().sum(dim=1), block, train_x.T, alpha=-2)  # |b|^2 is the same for all
    index = squared.topk(k, dim=1, largest=False).indices
    distance = (block[:, None] - train_x[index]).norm(dim=2)  # exact for the chosen ones
    return index, distance.clamp(min=1e-12).reciprocal()  # an equal row outvotes all others


__all__ = ["METRICS", "knn_classify"]
