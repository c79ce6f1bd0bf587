"""C-JEPA beside recorded numbers of its formulas, and what its options do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import IJepaModel as NativeIJepaModel

from hf_jepa.models.cjepa.configuration_cjepa import CJepaConfig
from hf_jepa.models.cjepa.modeling_cjepa import CJepaForPreTraining, CJepaModel, CJepaProjector, block_agreement
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS
from hf_jepa.training.optimizer import parameter_groups


GOLDEN = Path(__file__).parents[2] / "fixtures/golden/regularizers/cjepa"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LOSS = {"rtol": 1e-5, "atol": 1e-5}
TINY = VARIANTS["cjepa"].tiny


@pytest.fixture
def golden():
    """The projector of the recording, and its numbers."""
    sizes, io = json.loads((GOLDEN / "config.json").read_text()), load_file(GOLDEN / "io.safetensors")
    projector = CJepaProjector(sizes["D"], sizes["hidden"], sizes["out"])
    projector.load_state_dict(
        {"0.weight": io["projector_w1"], "0.bias": io["projector_b1"], "2.weight": io["projector_w2"]}
    )
    return projector, io


def make(**fields) -> CJepaForPreTraining:
    """A model whose weights do not depend on the options of the loss, large enough to matter."""
    model = CJepaForPreTraining(CJepaConfig(**(TINY | {"initializer_range": 0.3} | fields)))
    return model.eval()


def batch(images: int = 6, contexts: int = 1, targets: int = 3) -> dict:
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(64, generator=generator) for _ in range(images)])
    return {
        "pixel_values": torch.randn(images, 3, 32, 32, generator=generator),
        "context_mask": list(order[:, : 8 * contexts].split(8, dim=1)),
        "target_mask": list(order[:, 40 : 40 + 4 * targets].split(4, dim=1)),
    }


@pytest.mark.parametrize("statistics", ["per_block", "flat"])
def test_terms_are_those_of_the_recording(golden, statistics):
    projector, io = golden
    model = make(vicreg_statistics=statistics)
    tokens = io["context_tokens"].transpose(0, 1).requires_grad_()  # (M, B, P, D)
    blocks = projector(tokens.mean(dim=2))
    torch.testing.assert_close(tokens.mean(dim=2).transpose(0, 1), io["pooled"], **CLOSE)
    torch.testing.assert_close(blocks.transpose(0, 1), io["projected"], **CLOSE)
    torch.testing.assert_close(block_agreement(blocks), io["sim"][0], **LOSS)
    loss = model.vicreg(blocks)
    torch.testing.assert_close(loss, io[f"vicreg_{statistics}"][0], **LOSS)
    only = {"vicreg_invariance_weight": 0.0, "vicreg_variance_weight": 0.0, "vicreg_covariance_weight": 0.0}
    for term, name in (("variance", "std"), ("covariance", "cov")):
        alone = make(vicreg_statistics=statistics, **(only | {f"vicreg_{term}_weight": 1.0}))
        torch.testing.assert_close(alone.vicreg(blocks), io[f"{name}_{statistics}"][0], **LOSS)
    if statistics == "per_block":
        total = io["ijepa_loss"][0] + model.config.vicreg_weight * loss
        torch.testing.assert_close(total, io["total_per_block"][0], **LOSS)
        (gradient,) = torch.autograd.grad(loss, tokens)
        expected = io["grad_context_tokens_of_vicreg_per_block"].transpose(0, 1)
        torch.testing.assert_close(gradient, expected, **CLOSE)


def test_the_loss_is_that_of_ijepa_and_the_terms():
    model, inputs = make(vicreg_weight=0.5), batch()
    plain = IJepaForPreTraining(model.config).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "projector" not in name})
    out, expected = model(**inputs), plain(**inputs)
    assert torch.equal(out.prediction_loss, expected.loss) and torch.equal(out.predictions, expected.predictions)
    torch.testing.assert_close(out.loss, out.prediction_loss + out.regularization_loss)
    of_blocks = out.predictions.unflatten(0, (3, 6)).mean(dim=2)  # rows are ordered (target, context, image)
    torch.testing.assert_close(out.regularization_loss, 0.5 * model.vicreg(model.projector(of_blocks)))


def test_files_with_the_old_names_of_the_projector_are_read():
    config = CJepaConfig.from_dict(TINY | {"projector_size": 12, "projector_batch_norm": True})
    assert (config.proj_size, config.proj_batch_norm) == (12, True) and "projector_size" not in config.to_dict()


def test_the_projector_and_both_networks_learn_from_the_terms():
    model = make(proj_batch_norm=True).train()
    model(**batch()).regularization_loss.backward()
    for name, parameter in model.projector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert model.predictor.proj.weight.grad.abs().sum() > 0
    assert model.context_encoder.embeddings.patch_embeddings.projection.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.target_encoder.parameters())
    trained = {id(parameter) for group in parameter_groups(model, 0.1) for parameter in group["params"]}
    assert all(id(parameter) in trained for parameter in model.projector.parameters())


@pytest.mark.parametrize("statistics", ["per_block", "flat"])
def test_from_the_context_the_predictor_gets_no_gradient(statistics):
    model = make(vicreg_source="context", vicreg_statistics=statistics, vicreg_weight=1.0)
    out = model(**batch(contexts=2))
    pooled = out.context.unflatten(0, (2, 6)).mean(dim=2)
    torch.testing.assert_close(out.regularization_loss, model.vicreg(model.projector(pooled)))
    out.regularization_loss.backward()
    assert all(parameter.grad is None for parameter in model.predictor.parameters())
    assert model.context_encoder.layernorm.weight.grad.abs().sum() > 0


def test_a_context_alone_needs_no_second_block():
    assert make(vicreg_source="context")(**batch(targets=1)).regularization_loss > 0
    with pytest.raises(ValueError, match="1 block has nothing to agree with"):
        make()(**batch(targets=1))


def test_one_image_has_no_variance():
    with pytest.raises(ValueError, match="at least 2 rows"):
        make()(**batch(images=1))


def test_collapsed_predictions_pay_the_whole_variance_term():
    model = make()
    for parameter in model.predictor.proj.parameters():
        parameter.data.zero_()
    found = model(**batch()).regularization_loss.item()
    assert found == pytest.approx(0.001 * 25 * (1 - 1e-4**0.5))  # nothing else: what is equal agrees


def test_a_weight_of_zero_is_an_ijepa(tmp_path):
    model, inputs = make(vicreg_weight=0.0), batch()
    out = model(**inputs)
    assert not hasattr(model, "projector") and out.regularization_loss is None
    assert torch.equal(out.loss, out.prediction_loss)
    model.save_pretrained(tmp_path)
    started = CJepaForPreTraining.from_pretrained(tmp_path, vicreg_weight=0.001)  # goes on with the terms
    assert started.projector[0].weight.std() > 0.1


def test_stock_ijepa_reads_the_encoder(tmp_path):
    model, pixels = make(), batch()["pixel_values"]
    model.save_pretrained(tmp_path)
    stock, info = NativeIJepaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    expected = CJepaModel.from_pretrained(tmp_path).eval()(pixels).last_hidden_state
    torch.testing.assert_close(stock.eval()(pixels).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vicreg_source": "teacher"}, "vicreg_source='teacher'"),
        ({"vicreg_statistics": "all"}, "vicreg_statistics='all'"),
        ({"vicreg_weight": -1.0}, "vicreg_weight must be at least 0, got -1.0"),
        ({"vicreg_covariance_weight": -0.5}, "vicreg_covariance_weight must be at least 0, got -0.5"),
        ({"proj_size": 0}, "proj_size must be at least 1, got 0"),
    ],
)
def test_wrong_fields_are_refused_by_value(fields, message):
    with pytest.raises(Exception, match=message):
        CJepaConfig(**(TINY | fields))
