"""What the model computes, what of it is trained, and what it refuses."""

import copy

import pytest
import torch
from tiny_vl_jepa import TEXT_ENCODERS, TINY, spread, tiny_batch, tiny_config
from transformers import AutoModel
from transformers.models.llama import modeling_llama

from hf_jepa.losses.infonce import infonce
from hf_jepa.models.vl_jepa import modeling_vl_jepa
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining, VLJepaModel


def model_of(model_class=VLJepaForPreTraining, **fields):
    torch.manual_seed(0)
    return spread(model_class(tiny_config(**fields)))


@pytest.fixture
def model():
    return model_of()


@pytest.fixture
def batch(model):
    return tiny_batch(model.config)


# --- forward ---


def test_the_loss_reaches_all_that_is_trained_and_nothing_else(model, batch):
    out = model.train()(**batch)
    assert out.predictions.shape == out.targets.shape == (3, 16) and out.context.shape == (3, 8, 32)
    assert out.predictions.requires_grad and out.targets.requires_grad and not out.context.requires_grad
    assert out.regularization_loss is None and torch.equal(out.loss, out.prediction_loss)
    out.loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters()} - frozen
    assert {name.split(".")[1] for name in frozen} == {"vision_model", "predictor"}
    assert [name for name in frozen if "predictor" in name] == ["vl_jepa.predictor.language_model.embed_tokens.weight"]


def test_vision_tokens_may_be_kept(model, batch):
    clips = batch.pop("pixel_values_videos")
    tokens = model.vl_jepa.get_vision_tokens(clips)
    assert not tokens.requires_grad
    kept = model(**batch, vision_tokens=tokens)
    assert torch.equal(kept.loss, model(**batch, pixel_values_videos=clips).loss)
    with pytest.raises(ValueError, match="not both"):
        model(**batch, vision_tokens=tokens, pixel_values_videos=clips)


def test_padding_changes_nothing_on_either_side(model, batch):
    model.eval()
    expected = model(**batch)
    longer = dict(batch)
    for kind in ("query", "target"):
        padding = torch.full((3, 4), 7)
        longer[f"{kind}_ids"] = torch.cat([batch[f"{kind}_ids"], padding], dim=1)
        longer[f"{kind}_mask"] = torch.cat([batch[f"{kind}_mask"], torch.zeros_like(padding)], dim=1)
    left = dict(batch)
    for name in ("query_ids", "query_mask", "target_ids", "target_mask"):
        kind = name.split("_")[0]
        lengths = batch[f"{kind}_mask"].sum(dim=1).tolist()
        left[name] = torch.stack([row.roll(5 - n) for row, n in zip(batch[name], lengths, strict=True)])
    assert left["query_mask"][2].tolist() == [0, 0, 0, 1, 1]
    for other in (longer, left):
        out = model(**other)
        torch.testing.assert_close(out.predictions, expected.predictions, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.targets, expected.targets, rtol=1e-5, atol=1e-5)


def test_queries_count_and_so_do_their_places(model, batch):
    vl_jepa = model.eval().vl_jepa
    tokens = vl_jepa.get_vision_tokens(batch["pixel_values_videos"])
    query = torch.tensor([[5, 6, 7]] * 3)
    asked = vl_jepa.predict(vision_tokens=tokens, query_ids=query)
    assert (asked - vl_jepa.predict(vision_tokens=tokens)).abs().max() > 1e-3
    assert (asked - vl_jepa.predict(vision_tokens=tokens, query_ids=query.flip(1))).abs().max() > 1e-4
    assert (asked - vl_jepa.predict(query_ids=query)).abs().max() > 1e-3  # without anything seen


def test_vision_tokens_see_the_query_unless_it_is_causal(batch):
    for causal in (False, True):
        model = model_of(causal=causal).eval().vl_jepa
        states = [
            model(batch["pixel_values_videos"], query_ids=torch.tensor([[word]] * 3)).last_hidden_state[:, 0]
            for word in (5, 6)
        ]
        assert torch.equal(*states) == causal


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention_agree(batch, attention):
    model = model_of().eval()
    expected = model(**batch).loss
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model(**batch).loss, expected, rtol=1e-5, atol=1e-5)
    assert model.vl_jepa.predictor.language_model.config._attn_implementation == attention


def test_states_and_attentions_when_asked_for(batch):
    model = model_of()
    model.set_attn_implementation("eager")
    out = model(**batch, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3 and out.attentions[0].shape == (3, 4, 13, 13)
    loss, *_ = model(**batch, return_dict=False)
    assert torch.equal(loss, out.loss)


@pytest.mark.parametrize("family", TEXT_ENCODERS)
@pytest.mark.parametrize("text_pooling", ["mean", "cls", "last"])
def test_text_encoders_and_poolings(family, text_pooling, batch):
    config = TEXT_ENCODERS[family] | {"model_type": family}
    model = model_of(VLJepaModel, text_config=config, text_pooling=text_pooling).eval()
    ids, mask = batch["target_ids"], batch["target_mask"]
    states = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    rows = [row[: mask[i].sum()] for i, row in enumerate(states)]
    pooled = {
        "mean": [row.mean(0) for row in rows],
        "cls": [row[0] for row in rows],
        "last": [row[-1] for row in rows],
    }
    expected = model.text_projection(torch.stack(pooled[text_pooling]))
    torch.testing.assert_close(model.encode_text(ids, mask), expected, rtol=1e-5, atol=1e-5)
    changed = ids.clone()
    changed[1, 4] = 60  # its last token
    first = [model.text_model(input_ids=x, attention_mask=mask).last_hidden_state[1, 0] for x in (ids, changed)]
    assert not torch.equal(*first)  # the first token sees the last
    assert getattr(model.text_model, "pooler", None) is None


# --- what is trained ---


def test_frozen_parts_stay_in_evaluation():
    model = model_of(freeze_text=True).train()
    assert model.vl_jepa.predictor.training and model.vl_jepa.text_projection.training
    assert not any(part.training for part in model.vl_jepa.vision_model.modules())
    assert not any(part.training for part in model.vl_jepa.text_model.modules())
    assert not any(p.requires_grad for p in model.vl_jepa.text_model.parameters())
    assert all(p.requires_grad for p in model.vl_jepa.text_projection.parameters())
    trained = model_of(freeze_vision=False, freeze_token_embeddings=False).train()
    assert all(p.requires_grad for p in trained.parameters())
    assert trained.vl_jepa.vision_model.training and trained.vl_jepa.text_model.training


def test_an_unfrozen_x_encoder_is_trained(batch):
    model = model_of(freeze_vision=False)
    model(**batch).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.vl_jepa.vision_model.layer[0].mlp.parameters())


def test_the_scale_is_learnt_clamped_or_left():
    model = model_of().vl_jepa
    assert model.logit_scale.requires_grad and model.logit_scale.shape == (1,)  # FSDP shards no scalars
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(model.config.logit_scale_max)
    assert not model_of(learn_logit_scale=False).vl_jepa.logit_scale.requires_grad
    assert not model_of(loss_type="l2", regularization_type="vicreg").vl_jepa.logit_scale.requires_grad


def test_gradient_checkpointing_gives_the_same_gradients(model, batch):
    def gradients():
        model.zero_grad()
        model(**batch).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.vl_jepa.predictor.language_model.gradient_checkpointing or any(
        getattr(layer, "gradient_checkpointing", False) for layer in model.vl_jepa.predictor.language_model.layers
    )
    found = gradients()
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_autocast_is_close(model, batch):
    expected = model.eval()(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


# --- the objective ---


def test_equal_texts_are_no_negatives_when_asked_for(batch):
    model = model_of(mask_duplicates=True)
    groups = torch.tensor([4, 9, 4])
    found = model(**batch, target_group=groups)
    logits = torch.nn.functional.normalize(found.predictions) @ torch.nn.functional.normalize(found.targets).T
    logits = logits * model.vl_jepa.logit_scale.exp()
    logits[0, 2] = logits[2, 0] = -torch.inf
    order = torch.arange(3)
    both = [torch.nn.functional.cross_entropy(x, order) for x in (logits, logits.T)]
    torch.testing.assert_close(found.loss, sum(both) / 2)
    model.config.mask_duplicates = False
    assert model(**batch, target_group=groups).loss > found.loss
    model.config.mask_duplicates = True
    with pytest.raises(ValueError, match="needs target_group"):
        model(**batch)


@pytest.mark.parametrize("gather", [True, False])
def test_whose_negatives_they_are(gather, batch, monkeypatch):
    """What gathering does over processes is tested with the loss."""
    asked = []
    monkeypatch.setattr(modeling_vl_jepa, "infonce", lambda *args, **options: asked.append(options) or infonce(*args))
    model_of(gather_negatives=gather)(**batch)
    assert [options["gather"] for options in asked] == [gather]


@pytest.mark.parametrize("kind", ["vicreg", "sigreg"])
def test_regularisers_are_added_and_seeded_by_the_step(kind, batch):
    model = model_of(loss_type="l2", regularization_type=kind, regularization_weight=0.5).train()
    out = model(**batch)
    torch.testing.assert_close(out.loss, out.prediction_loss + out.regularization_loss)
    torch.testing.assert_close(out.prediction_loss, (out.predictions - out.targets).square().mean())
    assert out.regularization_loss > 0
    model.config.regularization_weight = 1.0
    torch.testing.assert_close(model(**batch).regularization_loss, 2 * out.regularization_loss)
    out.loss.backward()
    assert model.vl_jepa.text_projection.weight.grad.abs().sum() > 0
    if kind == "sigreg":
        assert model(**batch | {"step": 1}).regularization_loss != model(**batch).regularization_loss
        with pytest.raises(ValueError, match="pass step="):
            model(**batch | {"step": None})


def test_embeddings_made_piece_by_piece_have_the_same_objective(model, batch):
    model.eval()
    out = model(**batch)
    assert torch.equal(model.objective(out.predictions, out.targets).loss, out.loss)


# --- refusals ---


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pixel_values_videos": None}, r"rows \[1\] have neither vision tokens nor a query"),
        ({"pixel_values_videos": None, "query_ids": None, "query_mask": None}, "vision tokens, a query or both"),
        ({"query_ids": None}, "give the query_ids, too"),
        ({"query_mask": torch.ones(3, 4)}, r"query_mask has shape \(3, 4\), but query_ids \(3, 5\)"),
        ({"query_ids": torch.ones(3, 17, dtype=torch.long), "query_mask": None}, "more than max_query_length 16"),
        ({"target_ids": torch.ones(3, 17, dtype=torch.long), "target_mask": None}, "more than max_target_length 16"),
        ({"query_ids": torch.ones(2, 5, dtype=torch.long), "query_mask": None}, "of 3 samples, but query_ids of 2"),
        ({"target_ids": None}, "give target_ids"),
        ({"target_mask": torch.tensor([[1, 0, 0, 0, 0], [0] * 5, [1] * 5])}, r"rows \[1\] of target_mask are all 0"),
        ({"pixel_values_videos": torch.zeros(3, 3, 32, 32)}, "an image is a clip of one frame"),
    ],
)
def test_unusable_inputs_are_refused(model, batch, changed, message):
    with pytest.raises(ValueError, match=message):
        model(**batch | changed)


def test_raw_pixels_are_refused(model):
    with pytest.raises(TypeError, match="of torch.uint8, expected normalised pixels"):
        model.vl_jepa.predict(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))


def test_vision_tokens_of_another_width_are_refused(model):
    with pytest.raises(ValueError, match=r"vision_tokens has shape \(2, 5, 31\), expected \(batch, tokens, 32\)"):
        model.vl_jepa.predict(vision_tokens=torch.zeros(2, 5, 31))
    with pytest.raises(ValueError, match="one token or more"):
        model.vl_jepa.predict(vision_tokens=torch.zeros(2, 0, 32))


def test_a_misspelt_argument_is_refused(model, batch):
    with pytest.raises(TypeError, match="has no argument 'querry_ids'"):
        model(**batch, querry_ids=batch["query_ids"])


def test_language_models_that_cannot_be_predictors_are_refused():
    with pytest.raises(ValueError, match="GPT2Model cannot be a predictor: it has no embed_tokens, layers, norm"):
        model_of(predictor_config={"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 64})


@pytest.mark.parametrize("padded", [False, True])
def test_a_family_that_stays_causal_is_refused(monkeypatch, padded):
    """In the mask for padding, or in the kernel that gets none."""
    made = modeling_llama.create_causal_mask

    def stubborn(config, attention_mask, **kwargs):
        if padded == (attention_mask is not None):
            config = copy.copy(config)
            config.is_causal = True
        return made(config=config, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(modeling_llama, "create_causal_mask", stubborn)
    with pytest.raises(ValueError, match="in a LlamaModel the first token does not see the last"):
        model_of(attn_implementation="eager")  # where the mask decides alone
    model_of(attn_implementation="eager", causal=True)


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma2"])
def test_other_families_see_both_ways(family, batch):
    config = TINY["predictor_config"] | {"model_type": family, "head_dim": 8}
    model = model_of(VLJepaModel, predictor_config=config).eval()
    assert type(model.predictor.language_model) is type(AutoModel.from_config(model.config.predictor_config))
    states = [
        model(batch["pixel_values_videos"], query_ids=torch.tensor([[word]] * 3)).last_hidden_state[:, 0]
        for word in (5, 6)
    ]
    assert not torch.equal(*states)
