"""What a run of LLM-JEPA logs: means of its two losses, and how alike the embeddings of pairs are."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaOutput


class LossTerms:
    """Sums of the two losses and of the cosines of pairs, on the device until somebody wants to read them.

    Args:
        trainer: an `LlmJepaTrainer`, whose steps count from now on.

    Example:
        >>> from types import SimpleNamespace
        >>> alone = SimpleNamespace(reduce=lambda sums: sums)
        >>> terms = LossTerms(SimpleNamespace(accelerator=alone, state=SimpleNamespace(global_step=0)))
        >>> for loss, tokens in ((1.0, 3), (2.0, 1)):
        ...     terms.add(LlmJepaOutput(loss=torch.tensor(loss), lm_loss=torch.tensor(loss)), tokens=tokens)
        >>> terms.means()["lm_loss"]
        1.25
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.step = trainer, trainer.state.global_step
        self.sums: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, outputs: LlmJepaOutput, tokens: Any = 1, pairs: Any = 1) -> None:
        """Of a batch; the losses weighted by what they are the mean of, where they are such means."""
        loss = outputs.loss.detach().float()
        zero = loss.new_zeros(())
        lm, jepa = (zero if term is None else term.float() for term in (outputs.lm_loss, outputs.jepa_loss))
        rows = [lm * tokens, zero + tokens, jepa * pairs, zero + pairs, zero, zero, zero, zero]
        if outputs.text_embedding is not None:
            text, code = outputs.text_embedding.float(), outputs.code_embedding.float()
            rows[4:6] = nn.functional.cosine_similarity(text, code).sum(), zero + len(text)
            if len(text) > 1:
                rows[6:] = nn.functional.cosine_similarity(text, code.roll(1, 0)).sum(), zero + len(text)
        rows = torch.stack(rows)
        self.sums = rows if self.sums is None else self.sums + rows

    def _reduced(self) -> list[float]:
        return self.trainer.accelerator.reduce(self.sums).tolist()

    def means(self) -> dict[str, float]:
        """Over all that was added, in all processes."""
        lm, tokens, jepa, pairs, *cosines = self._reduced()
        losses = {"lm_loss": (lm, tokens), "jepa_loss": (jepa, pairs)} | _cosines(cosines)
        return {name: total / count for name, (total, count) in losses.items() if count}

    def of_steps(self) -> dict[str, float]:
        """Per optimizer step since the last call, where what was added are shares of a step's mean."""
        if self.sums is None:
            return {}
        steps = self.trainer.state.global_step - self.step
        if not self.trainer._counts_everywhere:  # every process has a mean of its own
            steps *= self.trainer.args.world_size
        lm, _, jepa, _, *cosines = self._reduced()
        terms = {"lm_loss": lm / steps}
        if cosines[1]:
            terms["jepa_loss"] = jepa / steps
        terms |= {name: total / count for name, (total, count) in _cosines(cosines).items() if count}
        self.sums, self.step = None, self.trainer.state.global_step
        return terms


def _cosines(sums: list[float]) -> dict[str, tuple[float, float]]:
    true, true_count, shuffled, shuffled_count = sums
    return {"true_cosine": (true, true_count), "shuffled_cosine": (shuffled, shuffled_count)}


__all__ = ["LossTerms"]
