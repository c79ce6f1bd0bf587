"""SIGReg, forward and backward, beside a plain restatement; how its cost grows with samples and features."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from counting import peak_memory
from timing import Row, medians

from hf_jepa.losses.draws import unit_directions
from hf_jepa.losses.sigreg import sigreg
from hf_jepa.visualization.figures import new_figure, save_figure


TIME_LIMIT, MEMORY_LIMIT = 0.6, 0.5
SAMPLES, FEATURES, SLICES = 1024, 512, 1024
SLICES_OF_PICTURE = 256
PICTURE = Path(__file__).parent / "results/sigreg_scaling.png"


def run(quick: bool) -> Iterator[Row]:
    """Time and memory; the full run also writes the picture."""
    sizes = (32, 16, 8) if quick else (SAMPLES, FEATURES, SLICES)
    repeats = 1 if quick else 5
    z = torch.randn(sizes[0], sizes[1], generator=torch.Generator().manual_seed(0)).requires_grad_()
    contestants = [_step(loss, z, sizes[2]) for loss in (sigreg, restated)]
    torch.testing.assert_close(*(contestant() for contestant in contestants), rtol=1e-4, atol=1e-6)
    what = f"SIGReg forward and backward, N {sizes[0]}, D {sizes[1]}, {sizes[2]} slices"
    other = "plain restatement"
    yield Row(what, other, *medians(*contestants, repeats=repeats), TIME_LIMIT)
    yield Row(f"{what}, memory", other, *(peak_memory(x) for x in contestants), MEMORY_LIMIT, "MiB")
    if not quick:
        plot_scaling(PICTURE)


def restated(z: torch.Tensor, step: int, num_slices: int, t_max: float = 3.0, n_points: int = 17) -> torch.Tensor:
    """The formula as the official package writes it: cosine and sine of all samples, slices and knots at once."""
    t = torch.linspace(0, t_max, n_points)
    window = torch.exp(-t.square() / 2)
    weights = torch.full((n_points,), 2 * t_max / (n_points - 1))
    weights[[0, -1]] /= 2
    turned = (z @ unit_directions(0, step, z.shape[-1], num_slices, z.device)).unsqueeze(-1) * t  # (N, S, K)
    error = (turned.cos().mean(0) - window).square() + turned.sin().mean(0).square()
    return (len(z) * (error @ (weights * window))).mean()


def _step(loss: Callable[..., torch.Tensor], z: torch.Tensor, slices: int) -> Callable[[], tuple[torch.Tensor, ...]]:
    def forward_and_backward() -> tuple[torch.Tensor, ...]:
        value = loss(z, 0, num_slices=slices)
        return value.detach(), *torch.autograd.grad(value, z)

    return forward_and_backward


def plot_scaling(path: Path) -> None:
    """Time against N and D, of both, beside straight lines."""
    figure = new_figure(7.0, 3.0)
    for panel, name, sizes in zip(
        figure.subplots(1, 2, sharey=True),
        ("samples N", "features D"),
        ([(n, FEATURES) for n in (256, 512, 1024, 2048, 4096)], [(SAMPLES, d) for d in (128, 256, 512, 1024, 2048)]),
        strict=True,
    ):
        measured = []
        for rows, features in sizes:
            z = torch.randn(rows, features, generator=torch.Generator().manual_seed(0)).requires_grad_()
            both = [_step(loss, z, SLICES_OF_PICTURE) for loss in (sigreg, restated)]
            measured.append(medians(*both, repeats=3))
        varied = [rows if name.endswith("N") else features for rows, features in sizes]
        for label, color, times in zip(
            ("hf_jepa", "plain restatement"), ("#2e86ab", "#d1495b"), zip(*measured, strict=True), strict=True
        ):
            slope, offset = _line(varied, times)
            panel.plot(varied, times, "o", color=color, label=label)
            panel.plot(varied, [offset + slope * x for x in varied], color=color, linewidth=0.8)
        panel.set(xlabel=name, xlim=(0, None), ylim=(0, None))
    figure.axes[0].set_ylabel("forward and backward, ms")
    figure.axes[0].legend()
    figure.suptitle(f"SIGReg, {SLICES_OF_PICTURE} slices, one thread; lines are least squares", fontsize="medium")
    save_figure(figure, path)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and offset of the straight line through points, by least squares."""
    table = torch.tensor([[value, 1.0] for value in x], dtype=torch.float64)
    slope, offset = torch.linalg.lstsq(table, torch.tensor(y, dtype=torch.float64)).solution.tolist()
    return slope, offset
