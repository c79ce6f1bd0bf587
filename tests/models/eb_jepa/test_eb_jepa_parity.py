"""EB-JEPA beside recorded numbers of the official code: forward, losses, gradients, checkpoints."""

import pytest
import torch
from golden_eb_jepa import checkpoint_of, config_of, frames_first, io_of, model_of

from hf_jepa.core.key_map import ConversionError
from hf_jepa.core.world_model import WorldModel
from hf_jepa.models.eb_jepa.official_eb_jepa import from_official, to_official


TERMS = {
    "loss": "loss",
    "reg_loss": "regularization_loss",
    "pred_loss": "prediction_loss",
    "cov_loss": "covariance_loss",
    "std_loss": "variance_loss",
    "sim_loss_t": "similarity_loss",
    "idm_loss": "inverse_dynamics_loss",
}


def assert_close(found, expected):
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-5)


def assert_gradients(model, io, prefix):
    """Official names of parameters -> theirs: the gradients travel the way of the weights."""
    gradients = {name: p.grad for name, p in model.named_parameters()}
    state = {name: gradients.get(name, value) for name, value in model.state_dict().items()}
    for name, value in to_official_state(model, state).items():
        if (key := f"{prefix}{name}") in io:
            torch.testing.assert_close(value, io[key], rtol=0, atol=1e-4 * io[key].abs().max().item(), msg=name)
            del io[key]
    assert not [key for key in io if key.startswith(prefix)]


def to_official_state(model, state):
    model.load_state_dict(state)
    return to_official(model)["model_state_dict"]


def test_the_action_conditioned_model():
    io, model = io_of("unroll_ac"), model_of("unroll_ac")
    clips, actions = frames_first(io["observations"]), frames_first(io["actions"])
    out = model(clips, actions=actions[:, :-1])  # the official last action leads nowhere
    assert_close(out.context, frames_first(io["state"]))
    assert_close(out.predictions, frames_first(io["predicted_states"])[:, 1:])
    assert_close(out.targets, frames_first(io["state"])[:, 1:5])
    for name, field in TERMS.items():
        assert_close(getattr(out, field), io[name])
    out.loss.backward()
    assert_gradients(model, io, "grad/")


def test_it_unrolls_for_planning():
    io, model = io_of("unroll_ac"), model_of("unroll_ac").eb_jepa
    assert isinstance(model, WorldModel)
    actions, expected = frames_first(io["actions"]), frames_first(io["plan_style_unroll"])
    state = model.encode(frames_first(io["observations"])[:, :1])
    assert_close(state.last, expected[:, 0])
    candidates = torch.stack([actions, -actions], dim=1)  # (B, 2, 6, 2)
    found = model.unroll(state, candidates)
    assert_close(found[:, 0], expected[:, 1:])
    assert not torch.allclose(found[:, 1], expected[:, 1:], atol=1e-2)


def test_the_video_model_in_evaluation():
    io, model = io_of("unroll_video"), model_of("unroll_video").eb_jepa
    latents = model.encode(frames_first(io["observations"])).latents
    assert_close(latents, frames_first(io["eval/state"]))
    steps = model.predict_parallel(latents, None, 3)
    for number, found in enumerate(steps):
        assert_close(found, frames_first(io[f"eval/step{number}"]))
    assert_close(torch.cat([latents[:, :2], steps[-1]], dim=1), frames_first(io["eval/final"]))
    assert_close(steps[0], frames_first(io["eval/infer"]))
    found = model.unroll(model.encode(frames_first(io["observations"])[:, :2]), torch.zeros(2, 1, 3, 0))
    assert_close(found[:, 0], frames_first(io["eval/autoregressive_window2"])[:, 2:])


def test_the_video_model_in_training():
    io, model = io_of("unroll_video"), model_of("unroll_video").train()
    out = model(frames_first(io["observations"]))
    for name, field in TERMS.items():
        if f"train/{name}" in io:
            assert_close(getattr(out, field), io[f"train/{name}"])
    assert out.similarity_loss is None and out.inverse_dynamics_loss is None
    final = frames_first(io["train/final"])[:, 2:]  # (B, 4, D, H, W)
    assert_close(out.predictions, final.flatten(3).transpose(2, 3).flatten(1, 2))
    assert_close(model.context_encoder.norm.running_mean, io["train/after/encoder.bn1.running_mean"])
    out.loss.backward()
    assert_gradients(model, io, "train/grad/")


@pytest.mark.parametrize("case", ["unroll_ac", "unroll_video"])
def test_checkpoints_go_both_ways(case):
    official = checkpoint_of(case)["model_state_dict"]
    found = to_official(model_of(case))["model_state_dict"]
    assert found.keys() == official.keys()
    assert all(torch.equal(found[key], value) for key, value in official.items())
    compiled = {"model_state_dict": {f"_orig_mod.{key}": value for key, value in official.items()}}
    assert to_official(from_official(compiled, config_of(case)))["model_state_dict"].keys() == official.keys()


def test_files_that_do_not_fit_are_refused():
    state = checkpoint_of("unroll_ac")["model_state_dict"]

    def refused(message, case="unroll_ac", **changes):
        changed = {key: value for key, value in (state | changes).items() if value is not None}
        with pytest.raises(ConversionError, match=message):
            from_official({"model_state_dict": changed}, config_of(case))

    refused("1 keys are missing: .*rnn.bias_hh", **{"predictor.rnn.bias_hh_l0": None})
    refused("no place in this architecture: encoder.other", **{"encoder.other": torch.zeros(1)})
    refused("should repeat encoder.final_ln.*differs", **{"predictor.final_ln.bias": torch.full((12,), 9.0)})
    refused("no counterpart: predictor.final_ln.bias", **{"predictor.final_ln.bias": None})
    refused("shapes differ: .*projection.weight is", **{"encoder.mlp.weight": torch.zeros(12, 73)})
    refused("is no tensor", **{"encoder.mlp.weight": "x"})
    refused("with and without", **{"_orig_mod.encoder.mlp.weight": torch.zeros(1)})
    refused("no counterpart", case="unroll_video")
    with pytest.raises(ConversionError, match=r"found \['epoch'\]"):
        from_official({"epoch": 1}, config_of("unroll_ac"))
    with pytest.raises(ConversionError, match="predictor_type='transformer'.*the official library has"):
        from_official({"model_state_dict": state}, config_of("unroll_ac", predictor_type="transformer"))
