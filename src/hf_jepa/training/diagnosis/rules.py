"""From the log and the settings of a run to the likely cause of its trouble.

Settings alone accuse nobody. A cause is named where the signals show its damage, or where the task itself was measured
to be broken (targets in plain sight, a target encoder that never moves), which by its nature no loss shows.
"""

from collections.abc import Callable
from math import log2
from statistics import fmean, median

from hf_jepa.training.diagnosis.findings import Diagnosis, Finding
from hf_jepa.training.diagnosis.runs import Run


MIN_LOGGED, MIN_STEPS = 6, 30  # below either a run is too short for what needs a trend
LOSES = 0.6  # of its first value: a signal that ends below has fallen
NOTHING = 0.05  # cosine of predictions with what is particular to an image: below it nothing of it is predicted
LEARNT = 0.1  # and above this something is
CLEARLY = 0.2  # from which on also the few images of a small batch show it
DISAGREE = 0.45  # cosine of successive gradients in the first half of a run
VISIBLE = 0.02  # share of target tokens that the context shows
NEIGHBOUR = 1.1  # tokens from a target to the nearest context, on average
SMALL_TARGET, LARGE_CONTEXT = 0.06, 0.75  # of all tokens
FAST_TARGET = 5.0  # steps after which half of the target encoder is new
SAME = 0.97  # cosine of the two encoders
SMALL_BATCH = 8
UNMOVED = 1e-6  # change of an encoder that never moved, up to rounding
UNTAUGHT = 1e-3  # change of an encoder that learnt nothing
BEHIND = 0.16  # change of an encoder that stays behind its predictor
TAKEN_OVER = 0.05  # share of the target encoder that comes from the context encoder
DROWNED = 0.3  # share of the targets' size that says anything of the image, before training
NO_WARMUP = 0.01  # of the steps


def diagnose(run: Run) -> Diagnosis:
    """Name the likely causes of a run's trouble.

    Args:
        run: from `read_run` or `run_of`.

    Returns:
        the diagnosis; docs/collapse.md explains the evidence.

    Example:
        >>> log = [{"step": s, "loss": 1 / s, "image_share": 0.6, "rankme": 30.0, "verdict": "healthy"}
        ...        for s in range(1, 61)]
        >>> diagnose(Run(log, steps=60, max_steps=60)).verdict
        'healthy'
    """
    if not run.log:
        return Diagnosis("too short", [], [f"no loss was logged in {run.steps} steps: lower logging_steps"])
    measured = [finding for rule in (_leak, _frozen_target) if (finding := rule(run))]
    notes = _notes(run)
    last = run.log[-1]["step"]
    if len(run.log) < MIN_LOGGED or last < MIN_STEPS:
        reason = f"{len(run.log)} logged steps up to step {last}: trends need {MIN_LOGGED} up to {MIN_STEPS} or more"
        return Diagnosis("sick" if measured else "too short", measured, [reason], notes)
    judged = [finding for rule in RULES if (finding := rule(run))]
    order = ("high", "medium", "low")
    findings = sorted(measured + judged, key=lambda finding: order.index(finding.confidence))
    named = {finding.cause for finding in findings}
    notes = [note for note in notes if not any(note.startswith(f"{cause}?") for cause in named)]
    if findings:
        return Diagnosis("sick", findings, _course(run), notes)
    ill = run.log[-1].get("verdict") in ("shrinking", "collapsed")
    return Diagnosis("unclear" if ill else "healthy", [], _course(run), notes)


# --- causes that the task itself shows -------------------------------------------------------------------------------


def _leak(run: Run) -> Finding | None:
    visible, tokens = run.now("visible_targets"), _tokens(run)
    if visible is not None:
        if visible < VISIBLE:
            return None
        evidence = [f"the context shows {visible:.0%} of the target tokens (visible_targets, fine: 0)"]
        evidence.append(f"prediction_image_cosine is {run.now('prediction_image_cosine'):.2f}")
        return Finding("leak", "high" if visible > 0.1 else "medium", evidence)
    shown = [run.now(f"{kind}_tokens") for kind in ("context", "target")]
    if tokens and None not in shown and (overlap := sum(shown) - tokens) > 0:
        text = f"context and target have {sum(shown):.0f} tokens, the image {tokens}: at least {overlap:.0f} are both"
        return Finding("leak", "high", [text])
    return None


def _frozen_target(run: Run) -> Finding | None:
    source, momenta = run.config.get("target_source", "ema"), run.values("momentum")
    stands = source == "frozen" or (momenta and min(momenta) >= 1.0)
    why = (
        'target_source is "frozen"' if source == "frozen" else f"momentum is {min(momenta, default=1.0):g} throughout"
    )
    evidence = [why]
    if not stands and source == "ema" and momenta:
        share, steps = _taken_over(run), max(run.steps, run.max_steps)
        if share >= TAKEN_OVER or run.now("context_change") is None or run.now("context_change") < UNTAUGHT:
            return None
        if run.steps < MIN_STEPS:
            return None
        evidence = [
            f"of {steps} steps {share:.1%} of the target encoder come from the context encoder "
            f"(momentum {min(momenta):g} and more; fine: above {TAKEN_OVER:.0%} by then)"
        ]
    elif not stands or _has_teacher(run) or _learns_pixels(run):
        return None
    changes = [run.now(f"{name}_change") for name in ("context", "target")]
    if None not in changes:
        if changes[1] > max(UNMOVED, TAKEN_OVER * changes[0]):
            return None
        evidence.append(f"target_change {changes[1]:.1g} while context_change is {changes[0]:.2g}")
    cosine = run.values("context_target_cosine")
    if len(cosine) > 1 and cosine[-1] < cosine[0]:
        evidence.append(f"context_target_cosine goes from {cosine[0]:.2f} to {cosine[-1]:.2f}: the encoders part")
    known = "model" in run.settings
    evidence.append("the weights started from scratch" if known else "no run.json says that there was a teacher")
    return Finding("frozen target", "high" if known and stands else "medium", evidence)


# --- causes that the course of the run shows -------------------------------------------------------------------------


def _small_masks(run: Run) -> Finding | None:
    distance, tokens = run.now("target_distance"), _tokens(run)
    context, target = run.now("context_tokens"), run.now("target_tokens")
    if None in (tokens, context, target) or _leak(run):
        return None
    if target / tokens > SMALL_TARGET or context / tokens < LARGE_CONTEXT:
        return None
    if distance is not None and distance > NEIGHBOUR:
        return None
    evidence = [
        f"a target block is {target:.0f} of {tokens} tokens ({target / tokens:.1%}, tiny: up to {SMALL_TARGET:.0%})",
        f"the context shows {context:.0f} of {tokens} tokens ({context / tokens:.0%}, most: {LARGE_CONTEXT:.0%})",
    ]
    if distance is not None:
        evidence.append(
            f"a target is {distance:.2f} tokens from the nearest visible one (target_distance, 1: beside it)"
        )
    return Finding("masks too small", "medium" if distance is not None else "low", evidence)


def _low_learning_rate(run: Run) -> Finding | None:
    loss, first = run.now("loss"), run.first("loss")
    change = run.now("context_change")
    lowest = -1.0 if run.config.get("loss_type") == "cosine" else 0.0
    kept = (loss - lowest) / (first - lowest) if first > lowest else 1.0
    if kept < 0.95 or (change is not None and change > UNTAUGHT) or run.log[-1].get("verdict") == "collapsed":
        return None
    if change is None and kept > 1.05:  # something has moved
        return None
    above = f" above {lowest:g}, its lowest," if lowest else ""
    evidence = [
        f"the loss{above} keeps {kept:.0%} of its first value ({first:.3g} to {loss:.3g}; learning: below 95 %)"
    ]
    if change is not None:
        evidence.append(f"context_change is {change:.1g} (learning: above {UNTAUGHT:g})")
    rates = run.values("learning_rate")
    if rates:
        evidence.append(f"learning_rate is {max(rates):.2g} at most")
    return Finding("learning rate too low", "high" if change is not None else "medium", evidence)


def _drowned_pixels(run: Run) -> Finding | None:
    first, now, cosine = run.first("image_share"), run.now("image_share"), run.now("prediction_image_cosine")
    if first is None or first > DROWNED or now > first or (cosine or 0.0) > NOTHING or _low_learning_rate(run):
        return None
    evidence = [
        f"image_share is {first:.2f} at step {run.log[0]['step']}, before training could spoil it (drowned: below "
        f"{DROWNED:g}), and {now:.2f} at the end"
    ]
    if cosine is not None:
        evidence.append(_predicts_nothing(cosine))
    if (width := run.config.get("hidden_size")) and (std := run.config.get("initializer_range")):
        evidence.append(f"initializer_range is {std:g}, 1/sqrt(hidden_size) would be {width**-0.5:.2g}")
    return Finding("initialisation", "high" if cosine is not None else "medium", evidence)


def _low_momentum(run: Run) -> Finding | None:
    momenta, cosines = run.values("momentum"), run.values("context_target_cosine")
    if run.config.get("target_source", "ema") != "ema" or not momenta or not cosines:
        return None
    half_life = _half_life(median(momenta))
    followed = median(cosines[len(cosines) // 5 :])
    share, rank = (run.now(name) / run.first(name) for name in ("image_share", "rankme"))
    if half_life > FAST_TARGET or followed < SAME or min(share, rank) > LOSES:
        return None
    evidence = [
        f"half of the target encoder is at most {half_life:.1f} steps old (momentum {median(momenta):g}; fast: below "
        f"{FAST_TARGET:g} steps)",
        f"context_target_cosine is {followed:.3f} from the first fifth on (the same encoder: above {SAME:g})",
        f"targets keep {share:.0%} of their first image_share and {rank:.0%} of their first rankme (fallen: below "
        f"{LOSES:.0%})",
    ]
    return Finding("momentum too low", "high", evidence)


def _small_batch(run: Run) -> Finding | None:
    batch, cosine = run.settings.get("batch_size"), run.now("prediction_image_cosine")
    agreements = run.values("gradient_agreement")
    if batch is None or batch > SMALL_BATCH or cosine is None or cosine > CLEARLY or not agreements:
        return None
    if _low_learning_rate(run) or (agreement := fmean(agreements[: -(-len(agreements) // 2)])) > DISAGREE:
        return None
    evidence = [
        f"{batch} images per step (small: up to {SMALL_BATCH}), {batch * run.steps} in all",
        f"gradient_agreement of the first half is {agreement:.2f} (noise: below {DISAGREE:g})",
        f"prediction_image_cosine is {cosine:.2f} (clearly learnt: above {CLEARLY:g})",
    ]
    return Finding("batch too small", "high" if agreement < 0.9 * DISAGREE else "medium", evidence)


def _high_learning_rate(run: Run) -> Finding | None:
    rank, cosine = run.now("rankme"), run.now("prediction_image_cosine")
    rates = run.values("learning_rate")
    if rank is None or not rates or _small_batch(run) or _low_momentum(run) or _drowned_pixels(run):
        return None
    kept = rank / run.first("rankme")
    # Features of views lose rank where a healthy run forgets what differs between views.
    if not _has_masks(run) and run.log[-1].get("verdict") != "collapsed":
        return None
    if (kept > LOSES and run.log[-1].get("verdict") != "collapsed") or (cosine or 0.0) > NOTHING:
        return None
    warmup, steps = run.settings.get("warmup_steps"), run.settings.get("max_steps")
    evidence = [
        f"targets keep {kept:.0%} of their first rankme ({run.first('rankme'):.1f} to {rank:.1f}; fallen: below "
        f"{LOSES:.0%})"
    ]
    if cosine is not None:
        evidence.append(_predicts_nothing(cosine))
    evidence.append(f"learning_rate is {max(rates):.2g} at most; momentum, batch and masks do not explain it")
    abrupt = warmup is not None and warmup <= NO_WARMUP * steps
    if abrupt:
        evidence.append(f"there is no warm-up ({warmup} of {steps} steps)")
    sure = cosine is not None and kept < LOSES
    return Finding("learning rate too high", ("low", "medium", "high")[sure + abrupt], evidence)


def _strong_predictor(run: Run) -> Finding | None:
    encoder, predictor = run.parameters("context_encoder"), run.parameters("predictor")
    change, cosine = run.now("context_change"), run.now("prediction_image_cosine")
    if None in (encoder, predictor, change, cosine) or predictor < encoder or _leak(run) or _frozen_target(run):
        return None
    if change > BEHIND or change < UNTAUGHT or cosine < LEARNT:
        return None
    evidence = [
        f"the predictor has {predictor / encoder:.1f} times the parameters of the encoder (usual: below 1)",
        f"context_change is {change:.2f} (behind: below {BEHIND:g}): the encoder says what it said at the start",
        f"yet prediction_image_cosine is {cosine:.2f} (learnt: above {LEARNT:g})",
    ]
    return Finding("predictor too strong", "medium", evidence)


RULES: tuple[Callable[[Run], Finding | None], ...] = (
    _small_masks,
    _low_learning_rate,
    _drowned_pixels,
    _low_momentum,
    _small_batch,
    _high_learning_rate,
    _strong_predictor,
)


# --- what several of them ask ----------------------------------------------------------------------------------------


def _tokens(run: Run) -> int | None:
    """Tokens of an image; None where the masks do not say it."""
    grid = run.settings.get("masks", {}).get("grid_size")
    if grid is None and isinstance(size := run.config.get("image_size"), int):
        grid = [size // run.config["patch_size"]] * 2 if isinstance(run.config.get("patch_size"), int) else None
    return grid[0] * grid[1] if grid and len(grid) == 2 else None


def _half_life(momentum: float) -> float:
    """Steps after which half of an average is new."""
    return 0.0 if momentum <= 0 else float("inf") if momentum >= 1 else -1 / log2(momentum)


def _taken_over(run: Run) -> float:
    """Share of the target encoder that is not what it started as, when all steps are done."""
    momenta = [max(value, 1e-30) for value in run.values("momentum")]
    return 1.0 - 2.0 ** (max(run.steps, run.max_steps) * sum(map(log2, momenta)) / len(momenta))


def _has_masks(run: Run) -> bool:
    """Whether targets are blocks of an image; not where views are compared, or tokens hidden in their places."""
    return run.first("target_tokens") is not None


def _has_teacher(run: Run) -> bool:
    return bool(run.settings.get("model", {}).get("starts_from"))


def _learns_pixels(run: Run) -> bool:
    """Whether there is no target encoder that could stand still (SALT without a teacher)."""
    return run.config.get("teacher_config", "none has it") is None


def _predicts_nothing(cosine: float) -> str:
    return (
        f"predictions have a cosine of {cosine:.2f} with what is particular to an image (nothing: below {NOTHING:g})"
    )


def _course(run: Run) -> list[str]:
    """The signals from their first values to the last quarter of the run."""
    names = ("loss", "image_share", "rankme", "context_target_cosine", "prediction_image_cosine", "context_change")
    found = [f"{name} {run.first(name):.3g} to {run.now(name):.3g}" for name in names if run.first(name) is not None]
    verdict = run.log[-1].get("verdict")
    return found + ([f"collapse monitor: {verdict}"] if verdict else [])


def _notes(run: Run) -> list[str]:
    """What is odd or missing; a note that begins with a cause and '?' is dropped where that cause is found."""
    notes = []
    if not run.settings:
        notes.append("no run.json: batch size, warm-up and the size of the predictor are not known")
    if _has_masks(run) and run.first("visible_targets") is None:
        notes.append("visible_targets, target_distance, prediction_image_cosine and the changes were not logged")
    if run.steps < run.max_steps:
        notes.append(f"the log ends at step {run.log[-1]['step']} of {run.max_steps}")
    if (momenta := run.values("momentum")) and _half_life(median(momenta)) < FAST_TARGET:
        notes.append(f"momentum too low? it is {median(momenta):g}, and no harm shows")
    if run.settings.get("batch_size", SMALL_BATCH + 1) <= SMALL_BATCH:
        notes.append(f"batch too small? it is {run.settings['batch_size']}, and no harm shows")
    if run.config.get("target_source") == "frozen" and _has_teacher(run):
        notes.append(f"the frozen target is a teacher: {run.settings['model']['starts_from']}")
    sizes = [run.parameters(part) for part in ("predictor", "context_encoder")]
    if None not in sizes and sizes[0] > sizes[1]:
        notes.append(f"predictor too strong? it has {sizes[0] / sizes[1]:.1f} times the parameters of the encoder")
    return notes


__all__ = ["diagnose"]
