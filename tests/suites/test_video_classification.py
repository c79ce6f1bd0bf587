"""What the attentive classifier of every video variant promises."""

import pytest
import torch
from tiny_models import tiny_model


NAME = "AutoModelForVideoClassification"
pytestmark = pytest.mark.variants(condition=lambda variant: NAME in variant.heads)


@pytest.fixture
def classifier(variant):
    return tiny_model(variant.name, variant.heads[NAME], num_labels=5).eval()


def clips(config, *shape) -> torch.Tensor:
    size = (*shape, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_round_trip(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    again, info = type(classifier).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    video = clips(classifier.config, 2)
    assert torch.equal(again(video).logits, classifier(video).logits)


@torch.no_grad()
def test_layers_of_the_config_are_read_together(variant, classifier):
    fields = variant.tiny | {"num_labels": 5, "classifier_layers": [0, -1]}
    both = type(classifier)(variant.config_class()(**fields)).eval()
    both.load_state_dict(classifier.state_dict())
    video = clips(both.config, 2)
    encoder = getattr(both.base_model, "encoder", both.base_model)
    pooled = both.pooler(torch.cat(encoder(video, levels=[0, -1]).levels, dim=1))[:, 0]
    torch.testing.assert_close(both.classifier(pooled), both(video).logits, rtol=1e-5, atol=1e-5)
    assert (both(video).logits - classifier(video).logits).abs().max() > 1e-4


def test_segments_are_joined_and_views_averaged(classifier):
    videos, labels = clips(classifier.config, 2, 3, 2), torch.tensor([1, 4])
    out = classifier(videos, labels=labels)
    logits = []
    for view in range(2):
        tokens = [classifier.base_model(videos[:, segment, view]).last_hidden_state for segment in range(3)]
        logits.append(classifier.classifier(classifier.pooler(torch.cat(tokens, dim=1))[:, 0]))
    expected = torch.stack([x.softmax(-1) for x in logits]).mean(0)
    torch.testing.assert_close(out.logits.exp(), expected, rtol=1e-5, atol=1e-5)
    losses = [torch.nn.functional.cross_entropy(x, labels) for x in logits]
    torch.testing.assert_close(out.loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)
    out.loss.backward()
    assert all(p.grad is not None for p in classifier.pooler.parameters())


def test_loss_of_one_clip(classifier):
    labels = torch.tensor([0, 3])
    out = classifier(clips(classifier.config, 2), labels=labels)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))


def test_it_starts_from_a_pretraining_checkpoint(variant, classifier, model, tmp_path):
    model.save_pretrained(tmp_path)
    started, info = type(classifier).from_pretrained(tmp_path, num_labels=7, output_loading_info=True)
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"pooler", "classifier"}
    assert not info["unexpected_keys"]
    expected = model.base_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in started.base_model.state_dict().items())
    assert 0.005 < started.pooler.query_tokens.std() < 0.05  # not left at zero
