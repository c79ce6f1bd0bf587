"""What the forward of LLM-JEPA promises: who sees whom, which logits exist, how losses are normalised."""

from dataclasses import replace

import pytest
import torch
from tiny_language_models import assert_same, language_model, llm_jepa, make_pairs, of, trained

from hf_jepa.data.text_layouts import LAYOUTS, PACKINGS, lay_out
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.losses.pair_distance import DISTANCES, pair_distance


WAYS = [("packed", {"packing": packing}) for packing in PACKINGS] + [
    ("three_pass", {"padding_side": side}) for side in ("right", "left")
]
WAYS += [("additive_mask", {}), ("fused", {})]
BATCH = lay_out(make_pairs())


def changed(pair: TextPair, field: str, place: int) -> TextPair:
    """The pair with another token there."""
    ids = list(getattr(pair, field))
    ids[place] = ids[place] % 50 + 4
    return replace(pair, **{field: ids})


# --- who sees whom ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("layout", "options"), WAYS)
def test_a_token_changes_only_what_its_own_sequence_says(layout, options, attention):
    model, pairs = llm_jepa("llama", layout, attention).eval(), make_pairs()
    before = model(**lay_out(pairs, layout, **options))
    for field, place in (("text_ids", 2), ("code_ids", 2), ("input_ids", pairs[1].text_end)):
        after = model(**lay_out([pairs[0], changed(pairs[1], field, place), pairs[2]], layout, **options))
        fused_text = layout == "fused" and field != "code_ids"  # Text lies in the LM row there
        for view in ("text", "code"):
            name, moves = f"{view}_embedding", field == f"{view}_ids" and not fused_text
            moves = moves or (view == "text" and fused_text and field == "input_ids")
            others = [0, 2] if moves else [0, 1, 2]
            assert torch.equal(after[name][others], before[name][others]), (field, view)
            assert not moves or (after[name][1] - before[name][1]).abs().max() > 1e-2, (field, view)
        assert torch.equal(after.lm_loss, before.lm_loss) == (field != "input_ids"), field


def test_a_mask_of_two_dimensions_is_refused_with_packed_rows():
    model = llm_jepa()
    with pytest.raises(ValueError, match="would let the views see each other"):
        model(**BATCH, attention_mask=torch.ones_like(BATCH["input_ids"]))
    without = {name: value for name, value in BATCH.items() if name != "position_ids"}
    with pytest.raises(ValueError, match="packed rows need position_ids"):
        model(**without)


def test_no_cache_is_made_whatever_is_asked_for():
    model = llm_jepa()
    model.causal_lm.config.use_cache = True
    expected = model(**BATCH).text_embedding
    assert torch.equal(model(**BATCH, use_cache=True).text_embedding, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_on_the_left_gives_the_same_without_positions(family):
    pairs, model = make_pairs(), llm_jepa(family, "three_pass").eval()
    right, left = (lay_out(pairs, "three_pass", padding_side=side) for side in ("right", "left"))
    for batch in (right, left):
        del batch["position_ids"]  # counted from the mask
    assert not torch.equal(right["input_ids"], left["input_ids"])
    found, expected = model(**left), model(**right)
    for name in ("lm_loss", "text_embedding", "code_embedding"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["additive_mask", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_eager_attention_is_finite_with_dense_masks(layout, dtype):
    model, pairs = llm_jepa("llama", layout, "eager").to(dtype), make_pairs()
    batch = lay_out(pairs, layout, length=40)  # with empty places
    out = model(**batch)
    out.loss.backward()
    for tensor in (out.loss, out.text_embedding, model.causal_lm.lm_head.weight.grad):
        assert tensor.isfinite().all()


# --- precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_precisions_are_near(layout, attention):
    model, batch = llm_jepa("llama", layout, attention).eval(), lay_out(make_pairs(), layout)
    expected = model(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [model(**batch)]
    model.double()
    found.append(model(**batch))
    torch.testing.assert_close(found[1].loss.float(), expected.loss, rtol=0, atol=1e-5)
    model.to(torch.bfloat16)
    found.append(model(**batch))
    for out in found:
        assert out.loss.dtype != torch.bfloat16
        torch.testing.assert_close(out.loss.float(), expected.loss, rtol=0.03, atol=0)


# --- logits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_computed_where_something_is_learnt(layout):
    pairs, seen = make_pairs(), []
    model, batch = llm_jepa("llama", layout), lay_out(pairs, layout)
    model(**batch)
    model.causal_lm.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    out = model(**batch)
    del batch["label_index"]
    assert torch.equal(model(**batch).loss, out.loss)
    count = sum(label != -100 for pair in pairs for label in pair.labels)
    assert seen == [(1, count, 64)] * 2 and out.logits is None


FAMILIES = {
    "llama": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 64},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "gpt2": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_model_loss_is_that_of_the_stock_model(family):
    model = language_model(family, **FAMILIES[family])
    pairs, jepa = make_pairs(), of(model)
    rows = lay_out(pairs, "three_pass", views=False)
    logits = model(rows["input_ids"], attention_mask=rows["attention_mask"]).logits  # as stock, soft caps and all
    expected = model(rows["input_ids"], attention_mask=rows["attention_mask"], labels=rows["labels"]).loss
    (weights,) = torch.autograd.grad(expected, model.get_input_embeddings().weight)
    found = [jepa(**lay_out(pairs)).lm_loss, of(model, "three_pass")(**rows).loss]
    found += [jepa(**lay_out(pairs, packing=packing, views=False)).loss for packing in PACKINGS]
    for loss in found:
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
        (gradient,) = torch.autograd.grad(loss, model.get_input_embeddings().weight)
        torch.testing.assert_close(gradient, weights, rtol=0, atol=1e-5)
    ours, used = (
        of(model, "three_pass")(rows["input_ids"], attention_mask=rows["attention_mask"]).logits,
        rows["attention_mask"] > 0,
    )
    torch.testing.assert_close(ours[used], logits[used], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_without_labels_it_is_the_stock_model(family):
    model = language_model(family).eval()
    jepa, ids = of(model), torch.arange(3, 13)[None].repeat(2, 1)
    assert torch.equal(jepa(ids).logits, model(ids).logits)
    out = jepa(ids, output_hidden_states=True)
    assert out.loss is None and out.text_embedding is None and len(out.hidden_states) == 3
    assert torch.equal(jepa(ids, return_dict=False)[0], out.logits)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    alone = model(ids[:1, 4:]).logits[0]
    torch.testing.assert_close(jepa(ids, attention_mask=mask).logits[0, 4:], alone, rtol=0, atol=1e-5)
    asked = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(jepa.generate(ids, **asked), model.generate(ids, **asked))


# --- losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_is_the_weighted_sum_of_both(distance):
    model = llm_jepa(distance=distance, jepa_weight=0.5, lm_weight=2.0, infonce_temperature=0.2)
    out = model(**BATCH)
    torch.testing.assert_close(out.loss, 2 * out.lm_loss + 0.5 * out.jepa_loss)
    distances = pair_distance(out.text_embedding, out.code_embedding, distance, temperature=0.2)
    torch.testing.assert_close(out.jepa_loss, distances.mean())
    assert out.text_embedding.shape == (3, 32)


def test_a_first_token_is_learnt_by_nobody():
    model, ids = llm_jepa(), torch.arange(3, 13).view(2, 5)
    loss = model(ids, labels=ids).loss
    assert torch.equal(loss, model(ids, labels=ids.index_fill(1, torch.tensor([0]), -100)).loss)
    torch.testing.assert_close(loss, model.causal_lm(ids, labels=ids).loss)


def test_embeddings_are_the_states_behind_the_last_norm():
    model, batch = llm_jepa("llama", "three_pass").eval(), lay_out(make_pairs(), "three_pass")
    out = model(**batch, output_hidden_states=True)
    states = out.hidden_states[-1].flatten(0, 1)
    assert torch.equal(out.text_embedding, states[batch["text_index"]])
    assert torch.equal(out.code_embedding, states[batch["code_index"]])


def gradients(**fields) -> dict[str, torch.Tensor]:
    return trained(of(language_model("llama"), **fields), make_pairs())[1]


def test_a_weight_of_zero_takes_a_loss_out():
    packed = of(language_model("llama"), jepa_weight=0)
    rows = lay_out(make_pairs(), views=False)
    packed(**rows).loss.backward()
    alone = {name: p.grad for name, p in packed.causal_lm.named_parameters()}
    for name, gradient in gradients(jepa_weight=0).items():
        torch.testing.assert_close(gradient, alone[name], rtol=0, atol=1e-6)
    found = gradients(lm_weight=0)
    assert not found["lm_head.weight"].any() and found["model.norm.weight"].any()


def test_without_predictor_tokens_the_last_token_of_text_is_read():
    plain = [
        replace(p, text_ids=p.text_ids[:-2], text_index=len(p.text_ids) - 3, predictor_ids=()) for p in make_pairs()
    ]
    model = language_model("llama")
    expected = trained(of(model, "three_pass", num_predictor_tokens=0), plain)
    assert_same(trained(of(model, num_predictor_tokens=0), plain), expected)
    fused = of(model, "fused", num_predictor_tokens=0).eval()
    out = fused(**lay_out(plain, "fused"))
    for pair, found in zip(plain, out.text_embedding, strict=True):
        state = model.model(torch.tensor([pair.input_ids[: pair.text_end + 1]])).last_hidden_state[0, -1]
        torch.testing.assert_close(found, state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("view", ["text", "code"])
def test_the_gradient_of_one_view_stops(view):
    def of_view(**fields) -> tuple[torch.Tensor, torch.Tensor]:
        model = of(language_model("llama"), lm_weight=0, **fields)
        states = {}
        keep = model._decoder.register_forward_hook(lambda m, args, out: states.update(last=out.last_hidden_state))
        model.check_layout()
        out = model(**BATCH)
        keep.remove()
        (gradient,) = torch.autograd.grad(out.loss, states["last"])
        return tuple(gradient.flatten(0, 1)[BATCH[f"{name}_index"]] for name in ("text", "code"))

    both, stopped = of_view(), of_view(stop_gradient=view)
    for name, expected, found in zip(("text", "code"), both, stopped, strict=True):
        assert expected.any() and torch.equal(found, torch.zeros_like(found) if name == view else expected)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_two_batches_accumulate_to_one(distance):
    pairs, model = make_pairs(8), language_model("llama")
    jepa = of(model, distance=distance)
    once = trained(jepa, pairs)[1]
    items = sum(label != -100 for pair in pairs for label in pair.labels)
    model.zero_grad()
    total = 0.0
    for part in (pairs[:3], pairs[3:4], pairs[4:]):  # uneven
        out = jepa(**lay_out(part), num_items_in_batch=torch.tensor(items), num_pairs_in_batch=len(pairs))
        out.loss.backward()
        total += out.loss.item()
    assert total == pytest.approx(jepa(**lay_out(pairs)).loss.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, once[name], rtol=0, atol=1e-6)


def test_a_batch_where_nothing_is_learnt():
    pairs = [replace(pair, labels=[-100] * len(pair.labels)) for pair in make_pairs()]
    model = llm_jepa()
    with pytest.raises(ValueError, match="every label is -100"):
        model(**lay_out(pairs))
    out = model(**lay_out(pairs), num_items_in_batch=7)  # others of the accumulated batches learn
    out.loss.backward()
    assert out.lm_loss == 0 and out.jepa_loss > 0 and model.causal_lm.model.norm.weight.grad.isfinite().all()


def test_indices_come_with_what_they_belong_to():
    model = llm_jepa()
    for left_out in ("text_index", "code_index"):
        with pytest.raises(ValueError, match="text_index and code_index come together"):
            model(**{name: value for name, value in BATCH.items() if name != left_out})
    with pytest.raises(ValueError, match="give the labels, too"):
        model(**{name: value for name, value in BATCH.items() if name != "labels"})
    with pytest.raises(TypeError, match="no argument 'text_indices'"):
        model(**BATCH, text_indices=BATCH["text_index"])


# --- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_checkpointing_changes_no_gradient(layout):
    model, pairs = llm_jepa("llama", layout), make_pairs()
    expected = trained(model, pairs)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing
    assert_same(trained(model, pairs), expected, atol=1e-7)


def test_a_compiled_model_says_the_same():
    model = of(language_model("llama", num_hidden_layers=1)).eval()
    expected = model(**BATCH)
    found = torch.compile(model, backend="eager")(**BATCH)
    for name in ("loss", "lm_loss", "text_embedding", "code_embedding"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)


def test_attention_can_be_changed():
    model = llm_jepa(attention="sdpa")
    expected = model(**BATCH).loss
    model.set_attn_implementation("eager")
    assert model.causal_lm.config._attn_implementation == "eager" == model.config._attn_implementation
    torch.testing.assert_close(model(**BATCH).loss, expected, rtol=0, atol=1e-5)


def test_a_padding_token_without_embedding_does_not_stop_the_trial():
    """Llama's embedding of padding is zero, and so is every state of a row that begins with it."""
    model = llm_jepa()
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = 0.0
    model.check_layout()


def test_a_batch_of_another_layout_is_refused():
    pairs = make_pairs()
    for layout in ("packed", "three_pass"):
        with pytest.raises(ValueError, match=f"the config says layout='{layout}'"):
            llm_jepa(layout=layout)(**lay_out(pairs, "fused"))
