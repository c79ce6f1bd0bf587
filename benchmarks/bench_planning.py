"""What planners add to the time of the world model they ask, on a small V-JEPA 2-AC."""

from collections.abc import Iterator

import torch
from timing import Row, medians

from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACModel
from hf_jepa.planning import ActionSpace, ICEMPlanner, LatentCost, MPPIPlanner, vjepa2_ac_planner


OVERHEAD_LIMIT = 1.10  # of the model's time
SAMPLES, ITERATIONS, HORIZON = 32, 4, 2


def run(quick: bool) -> Iterator[Row]:
    """Plans beside the same predictions without a planner, then a planner whose cost takes no time."""
    samples, side, repeats = (8, 32, 1) if quick else (SAMPLES, 64, 3)
    model, state, goal = robot(side)
    space = ActionSpace(7, low=-0.05, high=0.05)
    sizes = {"num_samples": samples, "num_iterations": ITERATIONS, "horizon": HORIZON}
    planners = {
        "CEM": vjepa2_ac_planner("wrapper", num_elites=4, **sizes),
        "iCEM": ICEMPlanner(space, num_elites=4, keep_elites=2, sample_decay=1.0, **sizes),
        "MPPI": MPPIPlanner(space, **sizes),
    }
    cost, generator = LatentCost(model, state, goal, distance="l1"), torch.Generator().manual_seed(0)
    candidates = 0.05 * torch.randn(1, samples, HORIZON, 7, generator=generator)
    for name, planner in planners.items():
        ours, other = medians(
            lambda planner=planner: planner.plan(cost, generator=generator),
            lambda: predict(model, state, candidates),
            repeats=repeats,
        )
        what = f"{name}, {ITERATIONS} iterations of {samples} samples, horizon {HORIZON}"
        yield Row(what, "the model's predictions alone", ours, other, OVERHEAD_LIMIT)
    free = planners["CEM"]
    (alone,) = medians(lambda: free.plan(sum_of, 1, generator=generator), repeats=3 * repeats)
    yield Row("CEM with a cost of no time, per iteration", "", alone / ITERATIONS, None, None)


def robot(side: int) -> tuple[VJepa2ACModel, object, torch.Tensor]:
    """A small model with the tokens of a frame of `side` pixels, a state and a goal."""
    torch.manual_seed(0)
    config = VJepa2ACConfig(
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        crop_size=side,
        patch_size=8,
        pred_hidden_size=128,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=4,
    )
    model = VJepa2ACModel(config).eval()
    with torch.no_grad():
        state = model.encode(torch.randn(1, 1, 3, side, side), states=torch.rand(1, 1, 7))
        goal = model.encode(torch.randn(1, 1, 3, side, side)).last
    return model, state, goal


def sum_of(actions: torch.Tensor) -> torch.Tensor:
    """A cost of no time."""
    return actions.sum(dim=(2, 3))


@torch.no_grad()
def predict(model: VJepa2ACModel, state, candidates: torch.Tensor) -> None:
    """As often as a plan asks: every iteration, and the plan itself."""
    for _ in range(ITERATIONS):
        model.unroll(state, candidates)
    model.unroll(state, candidates[:, :1])
