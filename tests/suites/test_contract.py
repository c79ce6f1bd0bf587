"""What every pretraining model promises (ARCHITECTURE.md section 3)."""

import copy
import math
import re

import pytest
import torch
from outputs import initialised_later, parts, predicts_by_masks, same_parts
from torch import nn

from hf_jepa.layers.patch_embedding import pair


pytestmark = pytest.mark.variants(condition=predicts_by_masks)


def test_output_and_gradients(model, batch):
    out = model(**batch)
    assert out.loss.ndim == 0 and torch.isfinite(out.loss)
    for prediction, target in zip(parts(out.predictions), parts(out.targets), strict=True):
        assert prediction.shape == target.shape and not target.requires_grad
    out.loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.target_encoder.parameters())
    trained = [*model.context_encoder.named_parameters(), *model.predictor.named_parameters()]
    without = [name for name, p in trained if p.grad is None or not p.grad.abs().sum() > 0]
    # A key bias shifts all scores of a query alike, so its gradient is zero up to rounding.
    # What embeds images, where clips and images have embeddings of their own, learns from images alone.
    silent = (
        "k_proj.bias",
        "key.bias",
        ".image",
        "image_patch_embeddings.proj.weight",
        "image_patch_embeddings.proj.bias",
    )
    assert [name for name in without if not name.endswith(silent)] == []


def test_fresh_target_encoder_is_a_frozen_copy(variant, config):
    model = variant.model_class()(config)
    # Not the class of a variant that this one inherits from: its checkpoints would ask for the other config.
    assert type(model.target_encoder) is type(model.context_encoder)
    assert type(model.target_encoder).__module__ == variant.module_name("modeling")
    for target, context in zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True):
        assert torch.equal(target, context) and not target.requires_grad and context.requires_grad
    assert model.context_encoder.training and not model.target_encoder.training


def test_made_on_the_meta_device_and_initialised_later(variant, config):  # trap T10
    model = initialised_later(variant, config)
    for target, context in zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True):
        assert torch.equal(target, context) and not target.requires_grad and context.requires_grad


def test_layers_that_a_subclass_adds_to_both_encoders_start_alike(variant, config):
    class Deeper(variant.model_class()):
        def __init__(self, config):
            super().__init__(config)
            for encoder in (self.target_encoder, self.context_encoder):
                encoder.added = nn.Linear(8, 8)
            self.post_init()

    model = Deeper(config)
    assert torch.equal(model.target_encoder.added.weight, model.context_encoder.added.weight)


def test_initialising_again_changes_nothing(variant, model, tmp_path):
    model.save_pretrained(tmp_path)
    for again in (model, variant.model_class().from_pretrained(tmp_path)):
        before = copy.deepcopy(again.state_dict())
        again.init_weights()
        assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_encoders_speak_of_the_same_tokens(model, batch):
    """`output.context` and `encode_targets` at the context have the same rows, in the same order."""
    model.eval().update_target_encoder(0.0)
    out = model(**batch)
    inputs = batch[model.main_input_name]
    encoded = model.context_encoder(inputs, context_mask=batch["context_mask"]).last_hidden_state
    # Of several levels side by side, the last one is the output.
    assert same_parts([x[..., -model.config.hidden_size :] for x in parts(out.context)], parts(encoded))
    assert same_parts(model.encode_targets(inputs, batch["target_mask"]), out.targets)
    at_context = parts(model.encode_targets(inputs, batch["context_mask"]))
    assert [x.shape[:-1] for x in at_context] == [x.shape[:-1] for x in parts(out.context)]


def test_target_encoder_stays_in_eval_mode(model):
    model.train()
    assert model.context_encoder.training and not model.target_encoder.training


def test_average(model):
    before = copy.deepcopy(model.target_encoder)
    model.update_target_encoder(0.9)
    triples = zip(
        before.parameters(), model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True
    )
    for old, new, context in triples:
        torch.testing.assert_close(new, 0.9 * old + 0.1 * context)
        assert not torch.equal(new, old)
    model.update_target_encoder(0.0)
    for new, context in zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True):
        assert torch.equal(new, context)


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momentum_out_of_range_is_refused(model, momentum):
    with pytest.raises(ValueError, match=str(momentum)):
        model.update_target_encoder(momentum)


def test_16_bit_target_is_refused(model):  # trap T9
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="float32"):
        model.update_target_encoder(0.999)


def test_frozen_source_is_not_updated(variant):
    model = variant.model_class()(variant.config_class()(**variant.tiny, target_source="frozen"))
    with pytest.raises(ValueError, match="frozen"):
        model.update_target_encoder(0.9)


def test_context_never_sees_what_it_must_predict(model, batch):
    """Changing pixels of target patches changes targets, but no prediction."""
    model.eval()
    config, name = model.config, model.main_input_name
    before = model(**batch)
    grid = torch.zeros(2, math.prod(config.grid_size), dtype=torch.bool)
    grid.scatter_(1, batch["target_mask"][0], True)
    # (B, C, H, W) or (B, T, C, H, W): one value per token, repeated over its pixels
    sizes = (
        (*pair(config.patch_size),)
        if len(config.grid_size) == 2
        else (config.tubelet_size, 1, *pair(config.patch_size))
    )
    changed = grid.view(2, *config.grid_size).unsqueeze(-3)
    for axis, size in enumerate(sizes, start=changed.ndim - len(sizes)):
        changed = changed.repeat_interleave(size, axis)
    batch[name] = torch.where(changed, batch[name] + 3.0, batch[name])
    after = model(**batch)
    assert torch.equal(parts(before.predictions)[0], parts(after.predictions)[0])
    assert not torch.allclose(parts(before.targets)[0], parts(after.targets)[0])


def test_same_seed_same_loss(variant, config, batch):
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(variant.model_class()(config)(**batch).loss.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(model, batch, reentrant):
    model(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model(**batch).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_sdpa_equals_eager(model, batch):
    expected = parts(model.eval()(**batch).predictions)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(parts(model(**batch).predictions), expected, rtol=1e-5, atol=2e-6)


def test_recorded_outputs(model, batch):  # trap T8
    model.eval().set_attn_implementation("eager")
    if len(batch["context_mask"]) > 1:  # one context: several are packed
        batch |= {name: batch[name][:1] for name in ("context_mask", "target_mask")}
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    tokens, layers = batch["context_mask"][0].shape[1], model.config.num_hidden_layers
    assert len(out.hidden_states) == layers + 1 and len(out.attentions) == layers
    assert out.attentions[0].shape == (2, model.config.num_attention_heads, tokens, tokens)
    encoder = model.context_encoder
    encoded = parts(encoder(batch[model.main_input_name], context_mask=batch["context_mask"]).last_hidden_state)[0]
    final_norm = getattr(encoder, "layernorm", None) or encoder.layernorms[-1]
    assert torch.equal(final_norm(out.hidden_states[-1]), encoded[..., -model.config.hidden_size :])
    assert isinstance(model(**batch, return_dict=False), tuple)


def test_autocast_loss_is_finite_and_close(model, batch):
    expected = model.eval()(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch).loss
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


@pytest.mark.variants(condition=lambda variant: variant.name in ("ijepa", "vjepa2"))  # one of images, one of clips
def test_traced_step_has_no_graph_break_and_equals_eager(model, batch):
    compare_compiled(model, batch, "aot_eager")


@pytest.mark.slow
def test_compiled_step_has_no_graph_break_and_equals_eager(model, batch):
    compare_compiled(model, batch, "inductor")


def compare_compiled(model, batch, backend):
    model(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = torch.compile(model, fullgraph=True, backend=backend)(**batch).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
def test_initialisation_per_layer(variant, rescale):  # trap T1
    wide = {"hidden_size": 256, "intermediate_size": 512, "pred_hidden_size": 128}
    if "intermediate_size" not in variant.tiny:  # follows from a ratio
        del wide["intermediate_size"]
    wide = variant.tiny | wide
    torch.manual_seed(0)
    model = variant.model_class()(variant.config_class()(**wide, rescale_residual_init=rescale))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            residual = rescale and name.endswith(("attention.o_proj", "attention.proj", "mlp.fc2"))
            divisor = (2 * (int(re.search(r"layers?\.(\d+)\.", name)[1]) + 1)) ** 0.5 if residual else 1.0
            assert module.weight.std().item() == pytest.approx(0.02 / divisor, rel=0.05), name
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all() and not module.bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(context_mask=[]), "context_mask is empty"),
        (lambda b: b.update(target_mask=None), "target_mask is empty"),
        (lambda b: b.update(target_mask=[[0, 1], [2, 3]]), r"target_mask\[0\] is of type list"),
        (lambda b: b.update(target_mask=[b["target_mask"][0].repeat(2, 1)]), r"target_mask\[0\] has 4 rows, other ma"),
        (lambda b: b.update(target_mask=[torch.zeros(2, 0, dtype=torch.long)]), "no token"),
        (lambda b: b.update(context_mask=[torch.ones(2, 64, dtype=torch.bool)]), "torch.bool"),
        # I-JEPA: all of one length; video: one for every context
        (lambda b: b["target_mask"].append(torch.zeros(2, 3, dtype=torch.long)), r"\[4, 4, 3\]|\[2\] and .* \[3\]"),
        (lambda b: b.update(context_mask=[b["context_mask"][0][:1]]), "one mask row per image"),
    ],
)
def test_wrong_masks_are_refused(model, batch, change, message):
    change(batch)
    with pytest.raises((TypeError, ValueError), match=message):
        model(**batch)


def test_a_misspelt_argument_is_refused(model, batch):
    pixels = batch[model.main_input_name]
    for call in (
        lambda: model.target_encoder(pixels, contex_mask=batch["context_mask"]),
        lambda: model(**batch, contex_mask=None, foo=1),
    ):
        with pytest.raises(TypeError, match="has no argument '(contex_mask|foo)'"):
            call()
    with pytest.raises(TypeError, match="bool_masked_pos.*context_mask"):
        model.target_encoder(pixels, bool_masked_pos=torch.ones(2, 4, dtype=torch.bool))


def test_arguments_that_say_nothing_are_taken(model, batch):
    """As peft passes them to every model."""
    nothing = {"input_ids": None, "attention_mask": None, "inputs_embeds": None, "output_attentions": None}
    pixels = batch[model.main_input_name]
    found = model.target_encoder(pixels, **nothing, interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(found, model.target_encoder(pixels).last_hidden_state)


def test_tuples_by_config(variant, batch):
    torch.manual_seed(0)
    model = variant.model_class()(variant.config_class()(**variant.tiny, return_dict=False))
    loss, *rest = model(**batch)
    assert torch.equal(loss, model(**batch, return_dict=True).loss) and len(rest) >= 3


def query_layer(model) -> str:
    """The name of the layer that makes queries."""
    return next(
        name for name in ("q_proj", "query") if any(key.endswith(f".{name}") for key, _ in model.named_modules())
    )


def test_adapters_on_both_encoders_are_refused_by_the_average(model, batch):
    from peft import LoraConfig, get_peft_model

    queries = query_layer(model)
    adapted = get_peft_model(model, LoraConfig(target_modules=[queries], r=2))
    adapted(**batch).loss.backward()
    with pytest.raises(ValueError, match="parameters of the target encoder are trainable, such as .*lora_A"):
        model.update_target_encoder(0.9)


def test_the_target_follows_adapters_in_a_wrapper_of_peft(model, batch):
    from peft import LoraConfig, get_peft_model

    queries = query_layer(model)
    adapted = get_peft_model(model, LoraConfig(target_modules=rf"context_encoder\..*\.{queries}", r=2))
    adapted(**batch).loss.backward()
    layer = next(part for name, part in model.context_encoder.named_modules() if name.endswith(queries))
    nn.init.ones_(layer.lora_B["default"].weight)
    model.update_target_encoder(0.0)
    plain = next(part for name, part in model.target_encoder.named_modules() if name.endswith(queries))
    torch.testing.assert_close(plain.weight, layer.base_layer.weight + layer.get_delta_weight("default"))
