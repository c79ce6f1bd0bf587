"""The tables of docs/scaling.md: memory by variant and strategy, and how throughput grows with machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_jepa.training.estimate import GIB, Estimate, Estimator
from hf_jepa.training.estimate_recipes import read_job
from hf_jepa.training.estimate_strategies import FLOAT, STRATEGIES, Sizes, Strategy


# Recipe in training_scripts/configs, and the size where it is not that of the recipe.
ROWS = (
    ("ijepa/vitb16.yaml", None),
    ("ijepa/vith14_in1k.yaml", None),
    ("ijepa/vith14_in1k.yaml", "vit_giant"),
    ("vjepa/vitl16_224.yaml", None),
    ("vjepa/vith16_224.yaml", None),
    ("vjepa2/vitl16_256.yaml", None),
    ("vjepa2/vith16_256.yaml", None),
    ("vjepa2/vitg16_256.yaml", None),
    ("vjepa2_1/vitl16_256.yaml", None),
    ("vjepa2_1/vitg16_256.yaml", None),
    ("vjepa2_1/vitgg16_256.yaml", None),
    ("lejepa/vitl14_in1k.yaml", None),
    ("nepa/large_patch14.yaml", None),
)
PROCESSES = 8
BEGIN, END = "<!-- memory: hf-jepa estimate --table -->", "<!-- end of memory -->"
NVLINK = 300e9  # bytes per second and direction that a GPU sends to others of its machine, assumed
BACKWARD = 2 / 3  # share of a step that is the backward pass, behind which gradients travel


def memory_table(configs: Path, rows: Sequence[tuple[str, str | None]] = ROWS) -> str:
    """Memory per GPU in GiB at the batch of each recipe, as Markdown.

    Args:
        configs: folder of the recipes.
        rows: recipe in it, and a named size instead of its own.
    """
    shared = [name for name in STRATEGIES if name != "single"]
    head = ["recipe", "size", "batch per GPU", "checkpointing", "trained", "one GPU", *shared]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for recipe, size in rows:
        estimator = Estimator(read_job(str(configs / recipe), ["--model_size", size] if size else []))
        training = estimator.job.training
        totals = [estimator(Strategy(name, 1 if name == "single" else PROCESSES)).total for name in STRATEGIES]
        lines.append(
            [
                recipe.removesuffix(".yaml"),
                estimator.job.name.split()[1],
                str(training.per_device_train_batch_size),
                "yes" if training.gradient_checkpointing else "no",
                f"{estimator.sizes.trained / 1e6:.0f} M",
                *(f"{total / GIB:.1f}" for total in totals),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_between_markers(path: Path, table: str) -> None:
    """Replace the table of a document, which stands between two lines of comment.

    Raises:
        ValueError: the document lacks them.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path} lacks the lines {BEGIN} and {END}, between which the table belongs")
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


@dataclass(frozen=True)
class Cluster:
    """Machines, on paper.

    Args:
        gpus: of a machine.
        bandwidth: of its network in bit/s and direction, all adapters together.
        flops: that a GPU computes per second in such a model.
    """

    gpus: int
    bandwidth: float
    flops: float


def traffic(sizes: Sizes, frozen: int, strategy: str) -> tuple[float, float]:
    """Bytes that one optimizer step moves in one direction of a ring of very many: hidden behind compute, or not.

    A ring of W sends (W - 1) / W of it. All-reduce is 2 S, all-gather and reduce-scatter are S each.

    Args:
        sizes: of the model.
        frozen: parameters that are only used forward.
        strategy: one of `STRATEGIES`.

    Example:
        >>> sizes = Sizes(trained=100, persistent=0, unit=10, rest=0)
        >>> traffic(sizes, 80, "ddp"), traffic(sizes, 80, "fsdp2")
        ((800.0, 0.0), (1520.0, 0.0))
    """
    trained = sizes.trained
    if strategy == "single":
        return 0.0, 0.0
    if strategy == "ddp":
        return 2.0 * FLOAT * trained, 0.0
    if strategy in ("zero1", "zero2"):  # gradients behind the backward pass, then new weights, which nothing hides
        return float(FLOAT * trained), float(FLOAT * trained)
    return float(FLOAT * (3 * trained + frozen)), 0.0  # weights forward and backward, gradients; targets forward


def step_seconds(estimate: Estimate, moved: tuple[float, float], strategy: str, cluster: Cluster, machines: int):
    """(compute, exposed communication) of a step in seconds."""
    compute = estimate.flops / cluster.flops
    hidden, open_ = (_seconds(size, cluster, machines) for size in moved)
    behind = compute * (1.0 if strategy in ("zero3", "zero3_offload", "fsdp2") else BACKWARD)
    return compute, max(0.0, hidden - behind) + open_


def _seconds(size: float, cluster: Cluster, machines: int) -> float:
    """Of one collective operation: the slower of the machine's inside and of its network."""
    inside = (cluster.gpus - 1) / cluster.gpus * size / NVLINK
    outside = (machines - 1) / machines * size * 8 / cluster.bandwidth
    return max(inside, outside)


def growth_rows(
    estimator: Estimator, strategy: str, nodes: Sequence[int], cluster: Cluster, strong: bool
) -> list[list[str]]:
    """How throughput grows with machines: (machines, GPUs, batch per GPU, compute, exposed, samples/s, efficiency).

    Args:
        estimator: of a recipe.
        strategy: one of `STRATEGIES`.
        nodes: numbers of machines.
        cluster: what they are.
        strong: the global batch stays that of the first number of machines; else that of a GPU stays.

    Raises:
        ValueError: a global batch that so many GPUs cannot share.
    """
    batch = estimator.job.training.per_device_train_batch_size
    at_recipe = estimator(Strategy(strategy, cluster.gpus * nodes[0]), batch)
    model = estimator.job.model("meta")
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    moved = traffic(estimator.sizes, frozen, strategy)
    rows, first = [], None
    for machines in nodes:
        samples, left = divmod(batch * nodes[0], machines) if strong else (batch, 0)
        if left or not samples:
            raise ValueError(
                f"a global batch of {batch * nodes[0] * cluster.gpus} is not shared by {machines} machines"
            )
        estimate = Estimate({}, {}, samples, round(at_recipe.flops * samples / batch))
        compute, exposed = step_seconds(estimate, moved, strategy, cluster, machines)
        rate = samples * cluster.gpus * machines / (compute + exposed)
        first = first or rate / machines
        rows.append(
            [
                str(machines),
                str(machines * cluster.gpus),
                str(samples),
                f"{1000 * compute:.0f} ms",
                f"{1000 * exposed:.0f} ms",
                f"{rate:.0f}",
                f"{100 * rate / machines / first:.0f} %",
            ]
        )
    return rows


__all__ = ["BEGIN", "END", "ROWS", "Cluster", "growth_rows", "memory_table", "step_seconds", "traffic",
           "write_between_markers"]  # fmt: skip
