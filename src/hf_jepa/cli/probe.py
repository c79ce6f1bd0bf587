"""`hf-jepa probe`: k-NN and linear probe of a checkpoint's frozen features, also with few labels."""

import argparse
from typing import TYPE_CHECKING

from hf_jepa.cli.main import add_encoder_options, command_parser


if TYPE_CHECKING:
    import datasets

_USUAL_K = 20
_USUAL_WEIGHT_DECAY = 1e-2
_NONE_HELD_OUT = 2  # rows of a class, of which a fifth, rounded, is none


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "probe",
        "The encoder stays frozen. Both probes learn from the training split and are scored on the test split. Files "
        "that cannot be read, and videos shorter than a clip, are named and left out.",
        "hf-jepa probe runs/tiny photos --test-split test --per-class 5; of videos listed as `path label`: "
        "hf-jepa probe facebook/vjepa2-vitl-fpc64-256 train.csv --test-data test.csv --frames 16",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a model; of a pretraining one the target encoder")
    parser.add_argument(
        "data",
        help="labelled images or videos: folder with train/ and test/, parquet folder, Hub id, or csv list of videos",
    )
    parser.add_argument("--train-split", default="train", help="split the probes learn from")
    parser.add_argument(
        "--test-data", help="where the test split is, unless in the data: a second csv list, for example"
    )
    parser.add_argument("--test-split", help="split they are scored on (default: test; train with --test-data)")
    parser.add_argument(
        "--k", type=int, help=f"neighbours (default: {_USUAL_K}, or all training rows where there are fewer)"
    )
    few = parser.add_mutually_exclusive_group()
    few.add_argument("--fraction", type=float, help="learn from this share of the labels of each class (0.01: 1 %%)")
    few.add_argument("--per-class", type=int, help="learn from this many samples of each class")
    parser.add_argument("--weight-decay", type=float, help="of the linear probe (default: chosen on held-out rows)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of few labels and of held-out rows")
    add_encoder_options(parser)
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from hf_jepa.cli.checkpoints import Embedder
    from hf_jepa.cli.tables import table
    from hf_jepa.data.columns import check_same_classes
    from hf_jepa.evaluation.knn import knn_classify
    from hf_jepa.evaluation.linear import WEIGHT_DECAYS, linear_probe
    from hf_jepa.evaluation.low_shot import low_shot_indices

    embedder = Embedder(args.checkpoint, args)
    test_split = args.test_split
    if test_split is None:
        test_split = "test" if args.test_data is None else "train"
    places = [(args.data, args.train_split), (args.test_data or args.data, test_split)]
    splits = [_labelled(embedder.open(data, split), data, split) for data, split in places]
    names = [getattr(dataset.features["label"], "names", None) for dataset in splits]
    shown = [split if args.test_data is None else data for data, split in places]
    check_same_classes(shown[0], names[0], shown[1], names[1])
    embedder.load()
    train, test = (embedder.embed(dataset) for dataset in splits)
    train_x, train_y = train.features, train.labels
    if args.fraction is not None or args.per_class is not None:
        chosen = low_shot_indices(train_y, args.fraction, args.per_class, args.seed)
        train_x, train_y = train_x[chosen], train_y[chosen]
    k = min(_USUAL_K, len(train_x)) if args.k is None else args.k
    knn = knn_classify(train_x, train_y, test.features, test.labels, k=k)
    decays = WEIGHT_DECAYS if args.weight_decay is None else (args.weight_decay,)
    if len(decays) > 1 and train_y.unique(return_counts=True)[1].max() <= _NONE_HELD_OUT:
        decays = (_USUAL_WEIGHT_DECAY,)
        print(f"too few labels to choose a weight decay by: {decays[0]} is taken (--weight-decay)")
    linear = linear_probe(train_x, train_y, test.features, test.labels, decays, seed=args.seed)
    print(f"{len(train_x)} training and {len(test.features)} test {embedder.samples}, read-out {embedder.readout}\n")
    rows = [[f"k-NN (k={k})", knn], [f"linear (weight decay {linear.weight_decay:g})", linear]]
    scored = [[name, *(_percent(value) for value in (result.accuracy, result.top5))] for name, result in rows]
    print(table(["probe", "top-1", "top-5"], scored))
    return 0


def _labelled(dataset: "datasets.Dataset", data: str, split: str) -> "datasets.Dataset":
    """The data set, unless rows of it have no label."""
    if "label" not in dataset.features:
        raise ValueError(f"split {split!r} of {data} has no labels, only {dataset.column_names}")
    if None in (labels := dataset["label"]) or min(labels) < 0:
        row = next(row for row, label in enumerate(labels) if label is None or label < 0)
        raise ValueError(f"row {row} of split {split!r} of {data} has no label")
    return dataset


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


__all__ = ["main", "parser"]
