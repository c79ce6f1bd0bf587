"""`hf-jepa embed`: the features of images or videos, written as a data set, parquet or safetensors."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hf_jepa.cli.main import add_encoder_options, command_parser


if TYPE_CHECKING:
    import datasets

    from hf_jepa.cli.checkpoints import Features


def parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "embed",
        "Rows keep the order of the data. A data set has the columns `file`, `features` and, where there are labels, "
        "`label`; a safetensors file has `features`, `sample_index` (row in the data) and `labels` (-1: none). Files "
        "that cannot be read, and videos shorter than a clip, are named and left out. A video has one vector, the "
        "mean over its tokens and clips. --push-to-hub uploads a data set of the same rows, with the folders of this "
        "machine left out of `file`.",
        "hf-jepa embed facebook/ijepa_vith14_1k photos --output features.parquet; of videos: hf-jepa embed "
        "facebook/vjepa2-vitl-fpc64-256 clips/ --frames 16 --clips 4 --output features.parquet",
    )
    parser.add_argument("checkpoint", help="folder or Hub id of a model; of a pretraining one the target encoder")
    parser.add_argument(
        "data",
        help="images: folder, parquet file or folder, or Hub id of a data set; videos, for a model of videos: "
        "these too, csv list, video file, or folder of one video's frames",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="new folder, or new *.parquet or *.safetensors file"
    )
    parser.add_argument("--split", default="train", help='split of the data, also as a slice: "train[:10%%]"')
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload the rows as a data set to this repository too")
    parser.add_argument("--private", action="store_true", help="make that repository private, if it is new")
    add_encoder_options(parser)
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.output.exists():
        raise FileExistsError(f"{args.output} already exists: choose another --output, or remove it first")
    if args.output.suffix not in ("", ".parquet", ".safetensors"):
        raise ValueError(f"--output {args.output}: expected a folder name, *.parquet or *.safetensors")
    if args.private and not args.push_to_hub:
        raise ValueError("--private says nothing without --push-to-hub: leave it out")
    if args.push_to_hub:
        _require_repo(args.push_to_hub)

    from hf_jepa.cli.checkpoints import Embedder

    embedder = Embedder(args.checkpoint, args)
    dataset = embedder.open(args.data, args.split)
    embedder.load()
    result = embedder.embed(dataset)
    _write(args.output, dataset, result)
    rows, width = result.features.shape
    left_out = f"{len(result.skipped)} {embedder.samples} skipped"
    print(f"{args.output}: {rows} rows of {width} features, split {args.split!r}, {left_out}")
    if args.push_to_hub:
        told = f"Features of {_public(args.checkpoint, '')}, readout {embedder.readout}"
        print(f"uploaded: {push(_as_dataset(dataset, result), args, told)}")
    return 0


def _require_repo(repo: str) -> None:
    """Refuse before the work what would be refused after it.

    Raises:
        ValueError: it is no id of a repository.
        PermissionError: there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo)
    if get_token() is None:
        raise PermissionError(f"no token to write to {repo} with: log in (hf auth login) or set HF_TOKEN")


def push(rows: "datasets.Dataset", args: argparse.Namespace, message: str) -> str:
    """Upload rows as a split of a data set, and say where it is.

    Args:
        rows: of `_as_dataset`.
        args: of the command.
        message: of the commit.
    """
    data = os.path.abspath(args.data)
    rows = rows.map(lambda row: {"file": _public(row["file"], data)}, features=rows.features)
    split = args.split.partition("[")[0]
    private = True if args.private else None  # None: as the owner has set
    return rows.push_to_hub(args.push_to_hub, split=split, private=private, commit_message=message).commit_url


def _public(path: str, data: str) -> str:
    """A path of this machine as others may see it: what lies below the data, else the name alone.

    Example:
        >>> _public("/home/me/photos/dark/0.png", "/home/me/photos"), _public("/tmp/clip.mp4", "/home/me/photos")
        ('dark/0.png', 'clip.mp4')
        >>> _public("someone/model", "")
        'someone/model'
    """
    if not os.path.isabs(path):
        return path
    below = os.path.relpath(path, data) if data else os.pardir
    return os.path.basename(path) if below.startswith(os.pardir) else Path(below).as_posix()


def _write(output: Path, dataset: "datasets.Dataset", result: "Features") -> None:
    """Write under a temporary name, then rename: the output is complete or absent."""
    from hf_jepa.hub.files import new_name

    with new_name(output) as temporary:
        if output.suffix == ".safetensors":
            from safetensors.torch import save_file

            tensors = {"features": result.features, "sample_index": result.sample_index, "labels": result.labels}
            save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, temporary)
        elif output.suffix == ".parquet":
            _as_dataset(dataset, result).to_parquet(temporary)
        else:
            _as_dataset(dataset, result).save_to_disk(temporary)


def _as_dataset(dataset: "datasets.Dataset", result: "Features") -> "datasets.Dataset":
    import datasets

    from hf_jepa.cli.checkpoints import source_column
    from hf_jepa.data.decoding import describe_source

    rows = result.sample_index.tolist()
    sources = dataset.select_columns(source := source_column(dataset))
    columns = {"file": [describe_source(sources[row][source], row) for row in rows]}
    kinds = {"file": datasets.Value("string")}
    if result.labels is not None:
        columns["label"] = dataset.select_columns("label").select(rows)["label"][:]
        kinds["label"] = dataset.features["label"]
    columns["features"] = list(result.features.numpy())
    kinds["features"] = datasets.List(datasets.Value("float32"), length=result.features.shape[1])
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


__all__ = ["main", "parser", "push"]
