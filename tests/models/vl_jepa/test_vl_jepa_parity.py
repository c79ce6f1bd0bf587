"""Parity with the formulas of the paper, restated outside this repository (golden/vl_jepa)."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel

from hf_jepa.losses.infonce import infonce
from hf_jepa.models.vl_jepa.configuration_vl_jepa import VLJepaConfig
from hf_jepa.models.vl_jepa.language_model_vl_jepa import predictor_of
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining
from hf_jepa.models.vl_jepa.parts_vl_jepa import pooled_states


GOLDEN = Path(__file__).resolve().parents[2] / "fixtures/golden/vl_jepa"
SETTINGS = json.loads((GOLDEN / "predictor_forward/config.json").read_text())
IO = load_file(GOLDEN / "predictor_forward/io.safetensors")
INFONCE = load_file(GOLDEN / "infonce/io.safetensors")
LAYERS = SETTINGS["last_n_layers"]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class Words(torch.nn.Module):
    """In place of a text encoder: the golden case gives its states."""

    def forward(self, input_ids, attention_mask, return_dict):
        return type("Output", (), {"last_hidden_state": IO["target_tokens"]})


@pytest.fixture
def build():
    weights = load_file(GOLDEN / "predictor_forward/weights.safetensors")

    def make(attention: str = "sdpa", **fields) -> VLJepaForPreTraining:
        source = LlamaModel(LlamaConfig(**SETTINGS["llama"]))
        source.load_state_dict(
            {name.removeprefix("llama."): x for name, x in weights.items() if name.startswith("llama.")}
        )
        config = VLJepaConfig(
            vision_config={
                "model_type": "vjepa2",
                "hidden_size": SETTINGS["vision_hidden_size"],
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "crop_size": 32,
            },
            predictor_config=source.config,
            text_config={
                "model_type": "bert",
                "hidden_size": SETTINGS["target_hidden_size"],
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vocab_size": 8,
            },
            num_predictor_layers=LAYERS,
            projection_dim=SETTINGS["shared_dim"],
            logit_scale_init=float(torch.tensor(SETTINGS["logit_scale"]).log()),
            **fields,
        )
        model = VLJepaForPreTraining(config, language_model=predictor_of(source, LAYERS, config.causal))
        own = {
            "vision_proj": model.vl_jepa.predictor.vision_projection,
            "predictor_proj": model.vl_jepa.predictor.projection,
            "target_proj": model.vl_jepa.text_projection,
        }
        for name, layer in own.items():
            layer.load_state_dict({key: weights[f"{name}.{key}"] for key in ("weight", "bias")})
        model.vl_jepa.text_model = Words()
        model.set_attn_implementation(attention)
        return model

    return make


def inputs(**changed) -> dict:
    return {name: IO[name] for name in ("vision_tokens", "query_ids", "query_mask")} | changed


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_states_of_every_layer(build, attention):
    predictor = build(attention).vl_jepa.predictor
    found = []
    for layer in predictor.language_model.layers:
        layer.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    predictor.language_model.norm.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    out = predictor(**inputs())
    assert len(found) == LAYERS + 1
    for index, states in enumerate(found):
        close(states[out.mask], IO[f"hidden_states.{index}"][out.mask])
    close(out.last_hidden_state[out.mask], IO["last_hidden_state"][out.mask])
    close(out.pooled, IO["pooled"])
    close(out.predictions, IO["predicted"])


def test_the_ablations(build):
    model = build().vl_jepa
    close(model.predict(vision_tokens=IO["vision_tokens"]), IO["predicted_no_query"])
    padding = inputs(query_mask=torch.zeros_like(IO["query_mask"]))
    close(model.predict(**padding), IO["predicted_no_query"])
    close(build(pooling="query").vl_jepa.predict(**inputs()), IO["predicted_query_pool"])
    close(build(causal=True).vl_jepa.predict(**inputs()), IO["predicted_causal"])
    assert (IO["predicted_causal"] - IO["predicted"]).abs().max() > 0.01  # or nothing would be shown


def test_without_padding_no_mask_is_made_and_nothing_becomes_causal(build):
    """With a mask of ones transformers gives the kernel none, which then asks the module whether it is causal."""
    full = inputs(query_mask=torch.ones_like(IO["query_mask"]))
    found = {attention: build(attention).vl_jepa.predict(**full) for attention in ("sdpa", "eager")}
    close(found["sdpa"], found["eager"])


def test_targets_loss_and_gradients(build):
    model = build()
    model.vl_jepa.predictor.language_model.embed_tokens.requires_grad_(True)
    target_ids = torch.ones_like(IO["target_mask"])
    close(pooled_states(IO["target_tokens"], IO["target_mask"].bool(), "mean"), IO["target_pooled"])
    out = model(**inputs(), target_ids=target_ids, target_mask=IO["target_mask"])
    close(out.predictions, IO["predicted"])
    close(out.targets, IO["target"])
    close(out.loss, IO["loss"])
    out.loss.backward()
    places = {
        "llama.": "predictor.language_model.",
        "predictor_proj.": "predictor.projection.",
        "vision_proj.": "predictor.vision_projection.",
        "target_proj.": "text_projection.",
    }
    checked = 0
    for name, expected in IO.items():
        if not name.startswith("grad."):
            continue
        name = name.removeprefix("grad.")
        part = next(part for part in places if name.startswith(part))
        close(model.vl_jepa.get_parameter(places[part] + kept(name.removeprefix(part))).grad, expected)
        checked += 1
    assert checked == 6


def kept(name: str) -> str:
    """Name of a weight of the source in the predictor."""
    first = SETTINGS["llama"]["num_hidden_layers"] - LAYERS
    return re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) - first}", name)


# --- the loss by itself ---


@pytest.mark.parametrize("index", [0, 1])
def test_infonce_with_a_learnt_scale(index):
    predicted, target = (INFONCE[name].clone().requires_grad_() for name in ("predicted", "target"))
    logit_scale = INFONCE["scales"][index].log().requires_grad_()
    one = infonce(predicted, target, logit_scale=logit_scale)
    other = infonce(target, predicted, logit_scale=logit_scale)
    close(one.mean(), INFONCE[f"loss_p2t.s{index}"])
    close(other.mean(), INFONCE[f"loss_t2p.s{index}"])
    loss = infonce(predicted, target, symmetric=True, logit_scale=logit_scale)
    close(loss.mean(), INFONCE[f"loss.s{index}"])
    for rank, rows in enumerate(loss.chunk(2)):  # what each of two processes computes
        close(rows.mean(), INFONCE[f"ddp.loss_rank{rank}.s{index}"])
    loss.mean().backward()
    close(predicted.grad, INFONCE[f"grad_predicted.s{index}"])
    close(target.grad, INFONCE[f"grad_target.s{index}"])
    close(logit_scale.grad, INFONCE[f"grad_log_scale.s{index}"])


@pytest.mark.parametrize("loss_type", ["cosine", "l1", "l2"])
def test_regression_losses(build, loss_type):
    model = build(loss_type=loss_type, regularization_type="vicreg", regularization_weight=1)
    out = model.objective(INFONCE["predicted"], INFONCE["target"])
    close(out.prediction_loss, INFONCE[loss_type])
    close(out.loss, out.prediction_loss + out.regularization_loss)
