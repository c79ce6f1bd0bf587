"""The heads of V-JEPA 2: attentive classifier and action anticipation."""

import official_probe
import pytest
import torch
from golden_vjepa2 import CLOSE, GOLDEN, read
from transformers import VJEPA2ForVideoClassification

from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.losses.focal import sigmoid_focal_loss
from hf_jepa.models.vjepa2.anticipation_vjepa2 import VJepa2ForActionAnticipation
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.models.vjepa2.modeling_vjepa2 import VJepa2ForVideoClassification
from hf_jepa.registry import VARIANTS


TINY = VARIANTS["vjepa2"].tiny


def classifier(**fields) -> VJepa2ForVideoClassification:
    torch.manual_seed(0)
    model = VJepa2ForVideoClassification(VJepa2Config(**(TINY | {"num_labels": 5} | fields))).eval()
    for parameter in model.parameters():  # fresh weights are too small to tell a mix-up
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def clips(*shape) -> torch.Tensor:
    return torch.randn(*shape, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_stock_transformers_loads_our_classifier(tmp_path):
    ours = classifier(pooler_num_attention_heads=4, pooler_layer_norm_eps=1e-6)  # what the native class takes
    ours.save_pretrained(tmp_path)
    stock, info = VJEPA2ForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(stock.eval()(clips(2)).logits, ours(clips(2)).logits, **CLOSE)
    again = VJepa2ForVideoClassification.from_pretrained(tmp_path)
    assert torch.equal(again(clips(2)).logits, ours(clips(2)).logits)


def test_saving_says_where_the_stock_class_computes_something_else(tmp_path, caplog):
    classifier(pooler_num_attention_heads=4, pooler_layer_norm_eps=1e-6).save_pretrained(tmp_path)
    assert not caplog.records
    classifier(classifier_layers=[1, 1]).save_pretrained(tmp_path)
    assert "pooler_num_attention_heads 16, pooler_layer_norm_eps 1e-05, classifier_layers [1, 1]" in caplog.text


@torch.no_grad()
def test_heads_and_epsilon_of_the_pooler_are_its_own():
    ours = classifier()
    assert ours.pooler.cross_attention_layer.cross_attn.head_dim == 2  # 16 heads whatever the encoder
    assert ours.pooler.cross_attention_layer.layer_norm1.eps == 1e-5
    with pytest.raises(ValueError, match="hidden_size 32 must be a multiple of pooler_num_attention_heads 5"):
        classifier(pooler_num_attention_heads=5)


def anticipation() -> tuple[VJepa2ForActionAnticipation, dict, dict]:
    pretrained, io, facts = read("action_anticipation")
    counts = {f"num_{name}s": number for name, number in facts["classes"].items()}
    fields = pretrained.config.to_dict() | counts
    fields |= {"num_pooler_layers": facts["probe_depth"] - 1, "pooler_num_attention_heads": facts["probe_heads"]}
    model = VJepa2ForActionAnticipation(VJepa2Config.from_dict(fields)).eval()
    model.vjepa2.load_state_dict(pretrained.vjepa2.state_dict())
    (official,) = read_torch_checkpoint(GOLDEN / "action_anticipation/checkpoint.pt")["classifiers"]
    model.pooler.load_state_dict(official_probe.load(official, facts["probe_heads"]).state_dict())
    for name in facts["classes"]:
        prefix = f"module.{name}_classifier."
        state = {k.removeprefix(prefix): v for k, v in official.items() if k.startswith(prefix)}
        getattr(model, f"{name}_classifier").load_state_dict(state)
    return model, io, facts


@torch.no_grad()
def test_anticipation_is_that_of_the_official_code():
    model, io, facts = anticipation()
    options = {"frames_per_second": facts["frames_per_second"], "num_output_frames": facts["num_output_frames"]}
    features = model.features(io["video"], io["anticipation_times"], **options)
    torch.testing.assert_close(features, io["features"], **CLOSE)
    labels = {f"{name}_labels": io[f"label_{name}"] for name in facts["classes"]}
    out = model(io["video"], io["anticipation_times"], **labels, **options)
    for name in facts["classes"]:
        torch.testing.assert_close(out[f"{name}_logits"], io[f"logits_{name}"], **CLOSE)
    torch.testing.assert_close(out.loss, io["focal_loss_total"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_steps_in_a_row_move_the_context():
    model, io, _ = anticipation()
    one, two = (model.features(io["video"], io["anticipation_times"], num_steps=steps) for steps in (1, 2))
    seen = model.vjepa2(io["video"]).last_hidden_state.shape[1]
    per_step = one.shape[1] - seen
    assert two.shape[1] == seen + 2 * per_step and torch.equal(two[:, : one.shape[1]], one)
    assert not torch.allclose(two[:, -per_step:], one[:, -per_step:])


def test_anticipation_asks_only_what_the_config_names():
    model = VJepa2ForActionAnticipation(VJepa2Config(**TINY, num_actions=9)).eval()
    out = model(clips(2), torch.tensor([1.0, 0.5]), action_labels=torch.tensor([3, -100]))
    assert out.verb_logits is None and out.action_logits.shape == (2, 9) and out.loss.isfinite()
    with pytest.raises(ValueError, match="all 0"):
        VJepa2ForActionAnticipation(VJepa2Config(**TINY))
    with pytest.raises(ValueError, match="one time for each of 2 clips"):
        model(clips(2), torch.tensor(1.0))


@torch.no_grad()
def test_options_of_anticipation_reach_the_predictor(monkeypatch):
    """Two steps, 4 frames a second, a moment of 4 frames: every number differs from its default."""
    torch.manual_seed(0)
    model = VJepa2ForActionAnticipation(VJepa2Config(**(TINY | {"num_verbs": 4, "num_nouns": 6}))).eval()
    predictor, asked = model.vjepa2.predictor, []

    def spy(*args):
        asked.append(args)
        return plain(*args)

    plain = predictor.forward
    monkeypatch.setattr(predictor, "forward", spy)
    video = torch.randn(2, 8, 3, 32, 32)  # 4 frame pairs of 4 x 4 tokens
    options = {"frames_per_second": 4.0, "num_output_frames": 4, "num_steps": 2, "mask_index": 3}
    labels = {"verb_labels": torch.tensor([0, 3]), "noun_labels": torch.tensor([5, 1])}
    out = model(video, torch.tensor([1.0, 2.9]), **labels, **options)
    seen = model.vjepa2(video).last_hidden_state
    features = [seen]
    for (context,), (context_mask,), (target_mask,), grids, mask_index in asked:
        assert grids == [(4, 4, 4)] and mask_index == [3]
        assert torch.equal(context_mask, torch.arange(64).expand(2, -1))
        later = torch.tensor([[2], [5]])  # whole frame pairs in 1.0 and 2.9 seconds
        assert torch.equal(target_mask, 64 + 16 * later + torch.arange(32))
        torch.testing.assert_close(context, torch.cat(features, dim=1)[:, -64:])  # the newest tokens
        features += plain([context], [context_mask], [target_mask], grids, mask_index)
    assert len(asked) == 2
    pooled = model.pooler(torch.cat(features, dim=1))
    torch.testing.assert_close(out.verb_logits, model.verb_classifier(pooled[:, 0]), **CLOSE)
    torch.testing.assert_close(out.noun_logits, model.noun_classifier(pooled[:, 1]), **CLOSE)
    expected = [sigmoid_focal_loss(out[f"{name}_logits"], labels[f"{name}_labels"]) for name in ("verb", "noun")]
    torch.testing.assert_close(out.loss, sum(expected))


@pytest.mark.parametrize("frames", [1, 6])
def test_moments_of_no_token_or_longer_than_the_clip_are_refused(frames):
    model = VJepa2ForActionAnticipation(VJepa2Config(**TINY, num_verbs=3))
    with pytest.raises(ValueError, match=f"num_output_frames {frames} must be 2 to 4"):
        model(clips(2), torch.tensor([1.0, 1.0]), num_output_frames=frames)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_of_whole_tokens_are_not_one_token_short(dtype):
    """1.4 seconds at 10 frames a second are 7 frame pairs, although 1.4 is a little less in float32."""
    model = VJepa2ForActionAnticipation(VJepa2Config(**TINY, num_verbs=3)).eval()
    asked = []
    model.vjepa2.predictor.register_forward_pre_hook(lambda _, args: asked.extend(args[2][0][:, 0].tolist()))
    model.features(clips(2), torch.tensor([1.4, 1.39], dtype=dtype), frames_per_second=10.0)
    assert asked == [32 + 7 * 16, 32 + 6 * 16]
