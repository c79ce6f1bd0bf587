"""NEPA beside the recorded numbers of the official code."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_jepa.layers.rotary_2d import patch_centres, rotary_tables_2d
from hf_jepa.models.nepa.configuration_nepa import NepaConfig
from hf_jepa.models.nepa.convert_nepa import CLASSIFIER_LAYOUT, LAYOUT, hub_entries, layout_of
from hf_jepa.models.nepa.modeling_nepa import NepaForImageClassification, NepaForPreTraining


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/nepa"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PRETRAINING = ["pretrain_step", "pretrain_swiglu"]
CLASSIFIERS = ["classifier", "classifier_last_token"]


def read(case):
    """Our model with the official weights, in eval mode, and the recorded numbers."""
    config = NepaConfig.from_pretrained(GOLDEN / case)
    entries = hub_entries(load_file(GOLDEN / case / "model.safetensors"))
    layout = layout_of(entries)
    model = layout.model_class(config)
    model.load_state_dict(layout.convert(entries, config))
    return model.eval(), load_file(GOLDEN / case / "io.safetensors")


def recorded_gradients(model, io):
    official = hub_entries({name.removeprefix("grad."): value for name, value in io.items() if name[:5] == "grad."})
    layout = CLASSIFIER_LAYOUT if isinstance(model, NepaForImageClassification) else LAYOUT
    return layout.convert(official, model.config)


def inputs(io):
    return {name: io[name] for name in ("pixel_values", "labels") if name in io}


@pytest.mark.parametrize("case", [*PRETRAINING, *CLASSIFIERS])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_stage_of_the_encoder(case, implementation):
    model, io = read(case)
    model.set_attn_implementation(implementation)
    out = model.nepa(io["pixel_values"], output_hidden_states=True)
    torch.testing.assert_close(out.input_embeddings, io["input_embedding"], **CLOSE)
    for found, name in zip(out.hidden_states, ("layer_input", "layer_0", "layer_1"), strict=True):
        torch.testing.assert_close(found, io[name], **CLOSE)
    torch.testing.assert_close(out.last_hidden_state, io["last_hidden_state"], **CLOSE)


@pytest.mark.parametrize("case", [*PRETRAINING, *CLASSIFIERS])
def test_loss_logits_and_gradients(case):
    model, io = read(case)
    out = model(**inputs(io))
    torch.testing.assert_close(out.loss, io["loss"], rtol=0, atol=1e-5)
    if case in CLASSIFIERS:
        torch.testing.assert_close(out.logits, io["logits"], **CLOSE)
    else:
        torch.testing.assert_close(out.context, io["last_hidden_state"], **CLOSE)
        assert torch.equal(out.predictions, out.context[:, :-1])
        torch.testing.assert_close(out.targets, io["input_embedding"][:, 1:], **CLOSE)
    out.loss.backward()
    expected = recorded_gradients(model, io)
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_an_optimizer_step():
    model, io = read("pretrain_step")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model(io["pixel_values"]).loss.backward()
    optimizer.step()
    torch.testing.assert_close(model(io["pixel_values"]).loss, io["loss_after_step"], rtol=0, atol=1e-5)


def test_other_image_sizes():
    model, io = read("pretrain_step")
    found = model.nepa(io["pixel_values_24x40"]).last_hidden_state
    torch.testing.assert_close(found, io["last_hidden_state_24x40"], **CLOSE)


@pytest.mark.parametrize("case", PRETRAINING)
def test_rotary_tables(case):
    io = load_file(GOLDEN / case / "io.safetensors")
    config = NepaConfig.from_pretrained(GOLDEN / case)
    cos, sin = rotary_tables_2d(patch_centres(config.grid_size), 8, config.rope_theta)
    torch.testing.assert_close(cos, io["rope_cos"], rtol=0, atol=1e-6)
    sign = torch.tensor([-1.0, 1.0]).repeat_interleave(4)  # ours carries the sign of the rotation
    torch.testing.assert_close(sin * sign, io["rope_sin"], rtol=0, atol=1e-6)


def test_random_places_while_training():
    model, io = read("pretrain_step")
    model.train()
    torch.manual_seed(io["train_seed"].item())
    cos, _ = model.nepa._rotary((4, 4), torch.device("cpu"))
    torch.testing.assert_close(cos[1:], io["train_rope_cos"], rtol=0, atol=1e-5)
    assert (cos[1:] - io["rope_cos"]).abs().max() > 0.01
    torch.manual_seed(io["train_seed"].item())
    torch.testing.assert_close(model(io["pixel_values"]).loss, io["train_loss"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "pretraining", "classification", "tensors"),
    [("vit_base", 85_527_552, 86_299_624, 249), ("vit_large", 302_967_808, 303_994_856, 489)],
)
def test_parameter_counts_of_the_released_models(size, pretraining, classification, tensors):
    """Counted in the official classes, built from the released configs."""
    tuned = {"is_causal": False, "qk_norm_affine": True, "num_labels": 1000}  # as the configs of fine-tuning say
    with torch.device("meta"):
        model = NepaForPreTraining(NepaConfig.from_size(size))
        classifier = NepaForImageClassification(NepaConfig.from_size(size, **tuned))
    assert model.num_parameters() == pretraining
    assert classifier.num_parameters() == classification and len(classifier.state_dict()) == tensors
