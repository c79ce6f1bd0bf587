"""How Text embeddings lie to Code embeddings: near their own, in which directions they differ, how linear the map is.

What a language model gains by LLM-JEPA (2509.14252) shows in the difference Enc(Text) - Enc(Code), which the paper
finds to lie in a narrow subspace, and in the map from Enc(Text) to Enc(Code), which it finds to be nearly linear.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.linalg import svdvals
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from hf_jepa.core.data2vec import without_dropout
from hf_jepa.evaluation.inputs import check_features
from hf_jepa.evaluation.metrics import rankme
from hf_jepa.evaluation.ridge import WEIGHT_DECAYS, ridge_probe


MIN_PAIRS = 20
QUANTILES = (0.05, 0.5, 0.95)
SAME_COSINE = 1e-6  # embeddings of equal texts differ by rounding when their batches differ
_HELD_OUT = 0.25  # share of the pairs that the linear map is judged by
_WEIGHT_DECAYS = (1e-8, 1e-6, *WEIGHT_DECAYS)  # a map that is linear needs none
_BLOCK_ELEMENTS = 2**24  # of a matrix of cosines


@dataclass(frozen=True, eq=False, kw_only=True)
class EmbeddingGeometry:
    """Figures of N pairs of embeddings; print it for a table.

    Args:
        true_cosines: (N,) cosine of each Text embedding with that of its own Code.
        shuffled_cosines: (N,) with that of the Code of another pair.
        auc: probability that a true pair has the higher cosine than a shuffled one: 0.5 says nothing, 1 tells all.
        recall_at_1: share of Text embeddings whose nearest Code embedding, of all N, is their own. Where several are
            equally near (Code that occurs twice), each counts as a share.
        spectra: singular values, descending and not centred, of the matrices "text", "code" and "difference" (N, D).
        ranks: RankMe of each: how many directions it fills.
        difference_size: Frobenius norm of the difference over that of the Code embeddings.
        linear_residual: squared error of the best linear map from Text to Code on pairs that it was not fitted to,
            over that of the mean Code embedding: 0 for a linear relation, 1 for none. NaN where Code does not vary.
        weight_decay: of that map, chosen on pairs held out from the fit.
        fitted_pairs, held_out_pairs: how many pairs the map was fitted to and judged by.
    """

    true_cosines: torch.Tensor
    shuffled_cosines: torch.Tensor
    auc: float
    recall_at_1: float
    spectra: dict[str, torch.Tensor]
    ranks: dict[str, float]
    difference_size: float
    linear_residual: float
    weight_decay: float
    fitted_pairs: int
    held_out_pairs: int

    def as_dict(self) -> dict[str, Any]:
        """Figures as plain values, without the single cosines and singular values.

        Returns:
            `pairs`, `auc`, `recall_at_1`, `difference_size`, `linear_residual`, and for each of the cosines a mean and
            quantiles ("true_mean", "true_q05", ...), for each of the spectra a rank and the largest value
            ("rank_text", "top_text", ...).
        """
        figures: dict[str, Any] = {"pairs": len(self.true_cosines)}
        for name, values in (("true", self.true_cosines), ("shuffled", self.shuffled_cosines)):
            figures[f"{name}_mean"] = values.mean().item()
            for quantile in QUANTILES:
                figures[f"{name}_q{round(100 * quantile):02d}"] = values.quantile(quantile).item()
        figures |= {"auc": self.auc, "recall_at_1": self.recall_at_1, "difference_size": self.difference_size}
        for name, values in self.spectra.items():
            figures |= {f"rank_{name}": self.ranks[name], f"top_{name}": values[0].item()}
        fit = {"linear_residual": self.linear_residual, "weight_decay": self.weight_decay}
        return figures | fit | {"fitted_pairs": self.fitted_pairs, "held_out_pairs": self.held_out_pairs}

    def __str__(self) -> str:
        figures = self.as_dict()
        return "\n".join(
            f"{name:<16}  {value:.6g}" if isinstance(value, float) else f"{name:<16}  {value}"
            for name, value in figures.items()
        )


@torch.no_grad()
def embedding_geometry(text: torch.Tensor, code: torch.Tensor, seed: int = 0) -> EmbeddingGeometry:
    """Measure how the embeddings of two views lie to each other.

    Embeddings of language models share a large common direction, so that any two have a high cosine: read that of the
    true pairs beside that of the shuffled ones. All is computed in float64.

    Args:
        text: (N, D) Text embeddings, on any device; the work is done where they are.
        code: (N, D) Code embeddings of the same pairs, in the same order.
        seed: of the shuffled pairs, and of the choice of pairs that the linear map is judged by.

    Returns:
        `EmbeddingGeometry`

    Raises:
        TypeError, ValueError: no matrices of finite numbers, of different shapes, fewer than 20 pairs, or an embedding
            of zeros only, which has no direction.

    Example:
        >>> import torch
        >>> text = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> turned = text @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
        >>> found = embedding_geometry(text, turned)
        >>> round(found.linear_residual, 4), found.recall_at_1 < 0.2
        (0.0, True)
    """
    text = check_features(text, "text", min_rows=MIN_PAIRS)
    code = check_features(code, "code", min_rows=MIN_PAIRS).to(text.device)
    if text.shape != code.shape:
        raise ValueError(f"text has shape {tuple(text.shape)} and code {tuple(code.shape)}: they must be pairs")
    for name, rows in (("text", text), ("code", code)):
        if len(zeros := (rows.norm(dim=1) == 0).nonzero().flatten()):
            raise ValueError(f"row {zeros[0].item()} of {name} is zero: it has no direction")
    unit_text, unit_code = normalize(text, dim=1), normalize(code, dim=1)
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(seed)).to(text.device)
    true = (unit_text * unit_code).sum(dim=1)
    shuffled = (unit_text[order] * unit_code[order.roll(1)]).sum(dim=1)  # one circle through all pairs: none is true
    matrices = {"text": text, "code": code, "difference": text - code}
    return EmbeddingGeometry(
        true_cosines=true,
        shuffled_cosines=shuffled,
        auc=_auc(true, shuffled),
        recall_at_1=_recall_at_1(unit_text, unit_code),
        spectra={name: svdvals(matrix) for name, matrix in matrices.items()},
        ranks={name: rankme(matrix) for name, matrix in matrices.items()},
        difference_size=(matrices["difference"].norm() / code.norm()).item(),
        **_linear_map(text[order], code[order]),
    )


def _auc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """Share of pairs of a positive and a negative in which the positive is higher; equal ones count half."""
    ascending = negative.sort().values
    below = torch.searchsorted(ascending, positive, side="left") + torch.searchsorted(
        ascending, positive, side="right"
    )
    return (below.double().mean() / 2 / len(negative)).item()


def _recall_at_1(unit_text: torch.Tensor, unit_code: torch.Tensor) -> float:
    found = torch.zeros((), dtype=unit_text.dtype, device=unit_text.device)
    for rows in torch.arange(len(unit_text), device=unit_text.device).split(max(1, _BLOCK_ELEMENTS // len(unit_code))):
        cosines = unit_text[rows] @ unit_code.T
        nearest = cosines >= cosines.max(dim=1, keepdim=True).values - SAME_COSINE  # (rows, N)
        own = nearest[torch.arange(len(rows), device=rows.device), rows]
        found += (own / nearest.sum(dim=1)).sum()
    return (found / len(unit_text)).item()


def _linear_map(text: torch.Tensor, code: torch.Tensor) -> dict[str, Any]:
    """The map from Text to Code, fitted to the first rows and judged by the last; rows come in random order."""
    held_out = round(_HELD_OUT * len(text))
    fitted = len(text) - held_out
    spread = code.var(dim=0, correction=0).sum().clamp(min=torch.finfo(code.dtype).tiny)
    fit = ridge_probe(
        text[:fitted],
        code[:fitted],
        text[fitted:],
        weight_decays=_WEIGHT_DECAYS,
        # All dimensions together, not each by its own variance: one that hardly varies must not decide.
        score=lambda found, wanted: -((found - wanted).square().sum(dim=1).mean() / spread).item(),
    )
    wanted = code[fitted:]
    guess = (wanted - code[:fitted].mean(dim=0)).square().sum()
    residual = ((fit.predictions - wanted).square().sum() / guess).item() if guess > 0 else float("nan")
    return {
        "linear_residual": residual,
        "weight_decay": fit.weight_decay,
        "fitted_pairs": fitted,
        "held_out_pairs": held_out,
    }


@torch.inference_mode()
def pair_embeddings(
    model: nn.Module, loader: Iterable[Mapping[str, Any]], progress: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Text and Code embeddings of all pairs of a loader.

    Args:
        model: whose output has `text_embedding` and `code_embedding` (B, D), such as `LlmJepaForCausalLM`; in eval
            mode for the time, where it is.
        loader: batches of the collator, each a mapping to tensors.
        progress: show a bar.

    Returns:
        two (N, D) float32 tensors on the CPU.

    Raises:
        ValueError: no batch.

    Example:
        >>> from types import SimpleNamespace
        >>> class Halves(nn.Linear):
        ...     def forward(self, x):
        ...         return SimpleNamespace(text_embedding=x[:, :2], code_embedding=x[:, 2:])
        >>> text, code = pair_embeddings(Halves(1, 1), [{"x": torch.ones(3, 4)}] * 2, progress=False)
        >>> text.shape
        torch.Size([6, 2])
    """
    device = next(model.parameters()).device
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    with without_dropout(model):
        for batch in tqdm(loader, disable=not progress, unit="batch"):
            inputs = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
            output = model(**inputs)
            found.append((output.text_embedding.float().cpu(), output.code_embedding.float().cpu()))
    if not found:
        raise ValueError("there is no batch to embed: the data is empty")
    text, code = (torch.cat(views) for views in zip(*found, strict=True))
    return text, code


__all__ = ["EmbeddingGeometry", "embedding_geometry", "pair_embeddings"]
