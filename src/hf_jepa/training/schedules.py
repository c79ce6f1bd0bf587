"""Learning rate, weight decay and momentum as pure functions of the optimizer step (I-JEPA, official recipe).

`step` counts from 0. The official code advances its counters before it uses them, hence `step + 1` in two of three.
"""

import math


def learning_rate_at(step: int, total_steps: int, warmup_steps: int, start: float, peak: float, final: float) -> float:
    """Linear warm-up from `start` to `peak`, then a cosine down to `final`.

    Args:
        step: optimizer step, from 0.
        total_steps: horizon of the cosine; past it the rate stays at `final`.
        warmup_steps: steps of the warm-up.
        start, peak, final: learning rates.

    Example:
        >>> [round(learning_rate_at(step, 10, 2, 0.1, 1.0, 0.0), 2) for step in (0, 1, 9)]
        [0.55, 1.0, 0.0]
    """
    count = step + 1
    if count < warmup_steps:
        return start + count / warmup_steps * (peak - start)
    progress = min(1.0, (count - warmup_steps) / max(1, total_steps - warmup_steps))
    return max(final, final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def weight_decay_at(step: int, total_steps: int, start: float, final: float) -> float:
    """A cosine from `start` to `final`, rising or falling.

    Example:
        >>> [round(weight_decay_at(step, 4, 0.04, 0.4), 2) for step in range(4)]
        [0.09, 0.22, 0.35, 0.4]
    """
    progress = min(1.0, (step + 1) / max(1, total_steps))
    return final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def momentum_at(step: int, total_steps: float, start: float, end: float) -> float:
    """A straight line from `start` at step 0 towards `end` at `total_steps`.

    Example:
        >>> [momentum_at(step, 4, 0.5, 1.0) for step in (0, 2, 4, 9)]
        [0.5, 0.75, 1.0, 1.0]
    """
    return start + min(1.0, step / max(1.0, total_steps)) * (end - start)


__all__ = ["learning_rate_at", "momentum_at", "weight_decay_at"]
