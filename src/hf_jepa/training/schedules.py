"""Learning rate, weight decay, momentum and loss weights as pure functions of the optimizer step.

`step` counts from 0. The official code advances the counters of learning rate and weight decay before it uses them,
hence `step + 1` in these two.
"""

import math


SCHEDULES = ("cosine", "linear")


def learning_rate_at(
    step: int,
    total_steps: int,
    warmup_steps: int,
    start: float,
    peak: float,
    final: float,
    schedule: str = "cosine",
    decay_steps: int | None = None,
) -> float:
    """Linear warm-up from `start` to `peak`, then a decay to `final` that ends at `total_steps`.

    The official schedules are: warm-up and cosine, the default (I-JEPA, V-JEPA); warm-up and constant, `final` equal
    to `peak` (V-JEPA 2); cooldown, "linear" without warm-up (V-JEPA 2); warm-up, stable, decay, "linear" with
    `decay_steps`.

    Args:
        step: optimizer step, from 0.
        total_steps: where the decay ends; past it the rate stays at `final`.
        warmup_steps: steps of the warm-up.
        start, peak, final: learning rates.
        schedule: form of the decay, "cosine" or "linear".
        decay_steps: its length, before which the rate stays at `peak`; unless given, it begins after the warm-up.

    Raises:
        ValueError: unknown schedule, or a decay that would begin before the end of the warm-up or last no step.

    Example:
        >>> [round(learning_rate_at(step, 10, 2, 0.1, 1.0, 0.0), 2) for step in (0, 1, 9)]
        [0.55, 1.0, 0.0]
        >>> [learning_rate_at(step, 10, 2, 0.0, 1.0, 0.0, "linear", 4) for step in (0, 1, 5, 6, 7, 9)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.0]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is not one of {', '.join(SCHEDULES)}")
    if decay_steps is not None and not 1 <= decay_steps <= total_steps - warmup_steps:
        raise ValueError(
            f"decay_steps={decay_steps} must be at least 1 and at most the {total_steps - warmup_steps} of "
            f"{total_steps} steps that the warm-up of {warmup_steps} leaves"
        )
    count = step + 1
    if count < warmup_steps:
        return start + count / warmup_steps * (peak - start)
    begin = warmup_steps if decay_steps is None else total_steps - decay_steps
    progress = min(1.0, max(0, count - begin) / max(1, total_steps - begin))
    remaining = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return max(final, final + (peak - final) * remaining)


def weight_decay_at(step: int, total_steps: int, start: float, final: float) -> float:
    """A cosine from `start` to `final`, rising or falling; constant where they are equal (V-JEPA 2).

    Example:
        >>> [round(weight_decay_at(step, 4, 0.04, 0.4), 2) for step in range(4)]
        [0.09, 0.22, 0.35, 0.4]
    """
    progress = min(1.0, (step + 1) / max(1, total_steps))
    return final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def momentum_at(step: int, total_steps: float, start: float, end: float) -> float:
    """A straight line from `start` at step 0 towards `end` at `total_steps`; constant where they are equal (V-JEPA 2).

    Example:
        >>> [momentum_at(step, 4, 0.5, 1.0) for step in (0, 2, 4, 9)]
        [0.5, 0.75, 1.0, 1.0]
    """
    return start + min(1.0, step / max(1.0, total_steps)) * (end - start)


def context_loss_weight_at(step: int, weight: float, start_step: int = 15_000, end_step: int = 30_000) -> float:
    """Weight of the loss on context tokens (V-JEPA 2.1, "progressive lambda"): first nothing, then a straight line.

    Args:
        step: optimizer step, from 0.
        weight: reached at `end_step` and kept.
        start_step: last step of weight 0; the official numbers are the defaults.
        end_step: end of the line. With `start_step` and `end_step` 0 the weight is constant, as in the cooldown.

    Raises:
        ValueError: an end before the start.

    Example:
        >>> [context_loss_weight_at(step, 0.5, 10, 20) for step in (0, 10, 15, 20, 99)]
        [0.0, 0.0, 0.25, 0.5, 0.5]
    """
    if end_step < start_step:
        raise ValueError(f"the weight of the context loss cannot grow from step {start_step} back to {end_step}")
    if step >= end_step:
        return weight
    return weight * max(0, step - start_step) / (end_step - start_step)


__all__ = ["SCHEDULES", "context_loss_weight_at", "learning_rate_at", "momentum_at", "weight_decay_at"]
