"""What all world models promise: how they are called, what they say of their parts, checkpoints that are whole."""

import inspect

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_trajectories import draw, make_model

from hf_jepa.core.world_model import WorldModel
from hf_jepa.registry import VARIANTS


NAMES = [name for name, variant in VARIANTS.items() if variant.inputs == "trajectory"]


@pytest.mark.parametrize("name", NAMES)
def test_all_are_called_alike(name):
    model = make_model(name).eval()
    assert isinstance(model.base_model, WorldModel)
    sample = draw(model.config, 1)[0]
    inputs = {key: torch.stack([value, value]) for key, value in sample.items() if key != "sample_index"}
    with torch.no_grad():
        out = model(**inputs, step=0)
    assert out.loss.isfinite() and len(out.context) == len(out.predictions) == len(out.targets) == 2
    for part, extra in ((model, ["step"]), (model.base_model, [])):
        parameters = list(inspect.signature(part.forward).parameters)
        assert parameters[:3] == ["pixel_values_videos", "actions", "states"] and set(extra) <= set(parameters)
        with pytest.raises(TypeError, match="argument 'action'"):
            part(inputs["pixel_values_videos"], inputs["actions"], action=inputs["actions"])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_pretraining_model_says_of_its_parts(name):
    model = make_model(name)
    own = {id(module) for module in model.base_model.modules()}
    assert {id(model.context_encoder), id(model.predictor)} <= own
    assert model.get_input_embeddings() is model.base_model.get_input_embeddings()
    assert model.accepts_loss_kwargs is False and model.fewest_samples >= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_without_a_weight_of_the_predictor_is_refused(name, tmp_path):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    inside = {f"{model.base_model_prefix}.{key}" for key, _ in model.base_model.named_parameters()}
    own = {id(p) for p in model.predictor.parameters()}
    lost = next(key for key, p in model.named_parameters() if id(p) in own and key in weights and key in inside)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for each in (type(model), type(model.base_model)):
        with pytest.raises(ValueError, match=rf"lacks \d weights of {each.__name__}, among them"):
            each.from_pretrained(tmp_path)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert lost in info["missing_keys"]
