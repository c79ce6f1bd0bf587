"""Recorded plans of official code: every candidate, cost, mean and deviation, from recorded noise."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.core.world_model import WorldState
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.official_eb_jepa import from_official
from hf_jepa.models.vjepa2_ac.configuration_vjepa2_ac import VJepa2ACConfig
from hf_jepa.models.vjepa2_ac.convert_vjepa2_ac import PREDICTOR
from hf_jepa.models.vjepa2_ac.modeling_vjepa2_ac import VJepa2ACModel
from hf_jepa.planning import LatentCost, RecordedNoise, eb_jepa_planner, encode_goal, vjepa2_ac_planner


GOLDEN = Path(__file__).parents[1] / "fixtures/golden"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PLANNED = [0, 1, 2, 6]


def read(case):
    folder = GOLDEN / case
    return (
        json.loads((folder / "config.json").read_text()),
        load_file(folder / "io.safetensors"),
        read_torch_checkpoint(folder / "checkpoint.pt"),
    )


class Listening:
    """A cost that keeps what it was asked and what it said."""

    def __init__(self, cost):
        self.cost, self.actions, self.costs = cost, [], []

    def __call__(self, actions):
        costs = self.cost(actions)
        self.actions.append(actions)
        self.costs.append(costs)
        return costs


def robot(facts, official):
    predictor = facts["predictor"]
    model = VJepa2ACModel(
        VJepa2ACConfig(
            hidden_size=predictor["embed_dim"],
            num_hidden_layers=1,
            num_attention_heads=2,
            crop_size=predictor["img_size"],
            patch_size=predictor["patch_size"],
            pred_hidden_size=predictor["predictor_embed_dim"],
            pred_num_hidden_layers=predictor["depth"],
            pred_num_attention_heads=predictor["num_heads"],
        )
    )
    bare = {key.replace("module.", ""): value for key, value in official["predictor"].items()}
    model.predictor.load_state_dict(PREDICTOR.to_ours(bare))
    return model.eval()


@pytest.mark.parametrize(
    ("case", "settings"), [("cem_plan", "notebook"), ("cem_plan_constrained", "function")], ids=["free", "constrained"]
)
def test_plans_of_vjepa2_ac(case, settings):
    facts, io, official = read(f"vjepa2_ac/{case}")
    args, model = facts["mpc_args"], robot(facts, official)
    held = {int(axis): value for axis, value in facts["axis"].items()}
    sizes = {"num_samples": args["samples"], "num_elites": args["topk"], "num_iterations": args["cem_steps"]}
    planner = vjepa2_ac_planner(
        settings, horizon=args["rollout"], held=held, close_gripper=facts["close_gripper"], **sizes
    )
    assert planner.space.high[:3] == (args["maxnorm"],) * 3
    assert {planner.momentum[0], planner.momentum[6]} == {args["momentum_mean"], args["momentum_mean_gripper"]}
    assert {planner.std_momentum[0], planner.std_momentum[6]} == {args["momentum_std"], args["momentum_std_gripper"]}
    state = WorldState(io["frame0"][:, None], poses=io["state0"])
    cost = Listening(LatentCost(model, state, io["goal"]))
    noise = io["noise"].transpose(1, 2)[:, None]  # (I, B, S, H, 4)
    plan = planner.plan(cost, 1, noise=noise)
    for i, entry in enumerate(plan.history):
        torch.testing.assert_close(cost.actions[i][0], io["sampled_actions"][i], **CLOSE)
        torch.testing.assert_close(cost.costs[i][0], io["energies"][i], **CLOSE)
        elites = cost.costs[i][0].topk(args["topk"], largest=False).indices.sort().values
        assert torch.equal(elites, io["topk_indices_sorted"][i])
        torch.testing.assert_close(entry.mean[0], io["mean_trace"][i], **CLOSE)
        torch.testing.assert_close(entry.std[0], io["std_trace"][i], **CLOSE)
        torch.testing.assert_close(entry.best_cost[0], io["energies"][: i + 1].min(), **CLOSE)
    assert len(plan.history) == args["cem_steps"]
    torch.testing.assert_close(plan.actions[0], io["action_plan"], **CLOSE)
    assert not plan.actions[..., 3:6].any()


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_plans_of_eb_jepa(name):
    facts, io, official = read(f"eb_jepa/planner_{name}")
    settings, sizes = facts["plan"], facts["model"]
    config = EbJepaConfig(
        image_size=sizes["img_size"],
        hidden_size=sizes["mlp_output_dim"],
        encoder_hidden_sizes=sizes["stack_sizes"],
        inverse_dynamics_hidden_size=sizes["idm_hidden"],
    )
    model = from_official(official, config).base_model.eval()
    goal = encode_goal(model, io["goal_observation"].transpose(1, 2))
    torch.testing.assert_close(goal, io["goal_encoding"].flatten(1), **CLOSE)
    with torch.no_grad():
        state = model.encode(io["observation"].transpose(1, 2))
    cost = Listening(LatentCost(model, state, goal, distance="mse", over="sum", include_start=True))
    planner = eb_jepa_planner(
        name,
        horizon=settings["plan_length"],
        num_samples=settings["num_samples"],
        num_elites=settings["num_elites"],
        num_iterations=settings["n_iters"],
    )
    uniforms = None
    if name == "mppi":  # the middle of what the elite that was drawn holds of [0, 1)
        share = io["choice_probabilities"]
        uniforms = (share.cumsum(0) - share / 2)[io["choice_index"]].reshape(1, 1)
    plan = planner.plan(cost, 1, noise=RecordedNoise(io["noise"].transpose(1, 2)[:, None], uniforms))
    for i, entry in enumerate(plan.history):
        torch.testing.assert_close(cost.actions[i][0].transpose(0, 1), io["actions_evaluated"][i], **CLOSE)
        torch.testing.assert_close(cost.costs[i][0], io["costs"][i], **CLOSE)
        elites = cost.costs[i][0].topk(settings["num_elites"], largest=False)
        assert torch.equal(elites.indices.sort().values, io["elite_indices_sorted"][i])
        torch.testing.assert_close(elites.values.min(), io["min_cost"][i], **CLOSE)
        torch.testing.assert_close(entry.elite_cost_mean[0], io["elite_mean"][i], **CLOSE)
        torch.testing.assert_close(entry.elite_cost_std[0], io["elite_std"][i], **CLOSE)
        torch.testing.assert_close(entry.mean[0], io["mean_trace"][i], **CLOSE)
        torch.testing.assert_close(entry.std[0], io["std_trace"][i], **CLOSE)
    torch.testing.assert_close(plan.actions[0], io["plan"], **CLOSE)
