"""What a run of VL-JEPA tells people: how well pairs are told apart, in logs, in the summary and on the card."""

import math
from typing import Any

import torch
from torch import nn

from hf_jepa.training.reports import first_and_last, last_logged


_LOGGED = ("loss", "regularization_loss", "accuracy", "true_cosine", "other_cosine", "logit_scale")


class VisionLanguageReportMixin:
    """A `Trainer` of a VL-JEPA that logs, of the last batch before a log, what `pair_signals` says of its embeddings.

    The class that mixes this in sets `shown`, predictions, targets and groups of that batch, and `regularization`.
    """

    shown: tuple[torch.Tensor | None, ...] | None = None
    regularization: torch.Tensor | None = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.shown is not None:
            logs |= self._signals()
        super().log(logs, start_time)

    def _signals(self) -> dict[str, float]:
        """Of the last batch, the mean over processes: how many find their text, and how alike pairs are."""
        found = pair_signals(*self.shown)
        if self.regularization is not None:
            found["regularization_loss"] = self.regularization.float()
        values = self.accelerator.reduce(torch.stack(list(found.values())), reduction="mean").tolist()
        scale = self.accelerator.unwrap_model(self.model).base_model.logit_scale.detach()
        scale = scale.full_tensor() if hasattr(scale, "full_tensor") else scale
        shown = dict(zip(found, values, strict=True))
        return shown | ({"logit_scale": math.exp(float(scale))} if scale.numel() else {})  # empty under ZeRO-3

    def summary(self) -> dict[str, Any]:
        """The run in a few lines: steps, negatives, first and last of what was logged, pairs left out."""
        rows: dict[str, Any] = {"steps": self.state.global_step, "negatives of a pair": self.negatives()}
        rows |= first_and_last(self.state.log_history, _LOGGED)
        rows |= self.throughput() | {f"skipped {self.samples}": len(self.skipped)}
        return rows | self.nonfinite_summary()

    def negatives(self) -> int:
        """Other pairs that each pair is told from in a full batch."""
        args = self.args
        joined = args.gradient_accumulation_steps if args.cached_infonce else 1
        return (
            args.per_device_train_batch_size * joined * (args.world_size if self.model.config.gather_negatives else 1)
            - 1
        )

    def card_details(self) -> dict[str, Any]:
        last = last_logged(self.state.log_history)
        facts = {"Trained values": "{:,} of {:,}".format(*self._sizes), "Negatives of a pair": f"{self.negatives():,}"}
        if found := [f"{name} {last[name]:.4g}" for name in _LOGGED if name in last]:
            facts["At the end"] = ", ".join(found)
        if measured := [f"{name} {value:.4g}" for name, value in last.items() if "_R@" in name]:
            facts["On evaluation pairs"] = ", ".join(measured)
        return {"facts": facts, "unverified": "No task beside retrieval in its own data was measured in this run."}


@torch.no_grad()
def pair_signals(
    predictions: torch.Tensor, targets: torch.Tensor, group: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """How well a batch of embeddings tells its pairs apart, as scalars on the device.

    Args:
        predictions, targets: (B, D), rows in pairs.
        group: int64 (B,), equal where target strings are equal, which are then no mistake of each other.

    Returns:
        "accuracy", the share of predictions whose nearest target is theirs; "true_cosine", the mean of pairs;
        "other_cosine", the mean of all others (0 where there are none).

    Example:
        >>> found = pair_signals(torch.eye(2), torch.eye(2).flip(0))
        >>> found["accuracy"].item(), found["other_cosine"].item()
        (0.0, 1.0)
        >>> pair_signals(torch.eye(2), torch.eye(2).flip(0), torch.tensor([7, 7]))["accuracy"].item()
        1.0
    """
    cosines = nn.functional.normalize(predictions.float(), dim=-1) @ nn.functional.normalize(targets.float(), dim=-1).T
    group = torch.arange(len(cosines), device=cosines.device) if group is None else group.to(cosines.device)
    same = group[:, None] == group
    right = same.gather(1, cosines.argmax(1, keepdim=True)).float().mean()
    others = (cosines * ~same).sum() / (~same).sum().clamp(min=1)
    return {"accuracy": right, "true_cosine": cosines.diagonal().mean(), "other_cosine": others}


__all__ = ["VisionLanguageReportMixin", "pair_signals"]
