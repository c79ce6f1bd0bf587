"""What a diagnosis says: causes with their evidence, advice, and the verdict on the run."""

from dataclasses import asdict, dataclass, field
from typing import Any


ADVICE = {
    "leak": "take targets out of the context (allow_overlap: false), and check a sampler of your own",
    "frozen target": "let the target follow the context encoder (target_source: ema, start_momentum below 1), or give "
    "a trained teacher",
    "masks too small": "predict more and show less: official I-JEPA has 4 targets of 15 to 20 % of the image each, "
    "and contexts of a third of it",
    "learning rate too low": "raise learning_rate, shorten the warm-up, or train longer",
    "initialisation": "raise initializer_range, to about 1/sqrt(hidden_size) in narrow models: position codes drown "
    "the pixels, and targets that are all alike are easy to predict",
    "momentum too low": "bring start_momentum closer to 1: 0.99 for thousands of steps, 0.996 and more for longer "
    "runs; half of the target should be older than tens of steps",
    "batch too small": "use a larger batch (gradient_accumulation_steps costs no memory), and with a small one a "
    "lower learning_rate and a momentum closer to 1",
    "learning rate too high": "lower learning_rate, by 3 to begin with, warm up over a tenth of the steps from close "
    "to 0 (start_learning_rate); it was made for a batch of 2048 in the official recipes",
    "predictor too strong": "make the predictor narrower than the encoder and shallower (pred_hidden_size, "
    "pred_num_hidden_layers), or the encoder larger",
}


@dataclass(frozen=True)
class Finding:
    """A likely cause.

    Args:
        cause: its name, a key of `ADVICE`.
        confidence: "high", "medium" or "low".
        evidence: what was measured, with the thresholds.
    """

    cause: str
    confidence: str
    evidence: list[str]

    @property
    def advice(self) -> str:
        return ADVICE[self.cause]


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter with a run.

    Args:
        verdict: "healthy", "sick" (then `findings` name causes), "unclear" (sick of no known cause) or "too short".
        findings: causes, the likeliest first.
        evidence: what speaks for the verdict.
        notes: odd settings that did no harm, and what could not be judged.
    """

    verdict: str
    findings: list[Finding] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [asdict(finding) | {"advice": finding.advice} for finding in self.findings]
        return asdict(self) | {"findings": findings}


__all__ = ["ADVICE", "Diagnosis", "Finding"]
