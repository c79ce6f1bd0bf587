"""What the collapse monitor measures, and what it makes of it."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, layer_norm

from hf_jepa.core.outputs import JepaForPreTrainingOutput
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.collapse import COLLAPSED_RANK, CollapseMonitor, CollapseSignals, collapse_signals


@pytest.fixture
def model(config_fields):
    return IJepaForPreTraining(IJepaConfig(**config_fields))


def measure(model, targets: torch.Tensor, predictions: torch.Tensor, positions: list[torch.Tensor], contexts: int = 1):
    """Signals of made-up targets; rows ordered (target mask, context mask, image)."""
    images = len(positions[0])
    context_mask = [torch.arange(5).expand(images, -1)] * contexts
    inputs = {"pixel_values": torch.randn(images, 3, 48, 48), "context_mask": context_mask, "target_mask": positions}
    context = torch.randn(contexts * images, 5, model.config.hidden_size)
    output = JepaForPreTrainingOutput(predictions=predictions, targets=targets, context=context)
    return collapse_signals(model, inputs, output)


def test_predictions_that_point_away_have_cosine_minus_one(model):
    targets = torch.randn(4, 3, 32)
    signals = measure(model, targets, -targets, [torch.arange(3).expand(4, -1)])
    assert signals.prediction_target_cosine == pytest.approx(-1.0)


@pytest.mark.parametrize("images", [2, 3, 16])
def test_std_is_unbiased_however_few_images_there_are(model, images):
    targets = torch.randn(images, 1500, 32, generator=torch.Generator().manual_seed(0))
    signals = measure(model, targets, targets, [torch.arange(1500).expand(images, -1)])
    assert signals.target_std == pytest.approx(1.0, rel=0.05) and signals.image_share == pytest.approx(1.0, rel=0.05)


def test_rank_counts_the_directions_in_which_images_differ(model):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(64, 8, 32, generator=generator) + 50 * torch.randn(1, 8, 32, generator=generator)
    positions = [torch.arange(8).expand(64, -1)]
    signals = measure(model, targets, targets, positions)
    assert signals.rankme > 28 and signals.image_share == pytest.approx(1 / 50, rel=0.2)
    line = torch.randn(64, 8, 1, generator=generator) * torch.randn(32, generator=generator)
    assert measure(model, line, line, positions).rankme < 1.1


def test_further_contexts_change_nothing(model):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(2 * 3, 4, 32, generator=generator)  # two target masks, three images
    positions = [torch.arange(4).expand(3, -1), torch.arange(2, 6).expand(3, -1)]
    twice = targets.unflatten(0, (2, 1, 3)).expand(-1, 2, -1, -1, -1).flatten(0, 2)
    once, again = measure(model, targets, targets, positions), measure(model, twice, twice, positions, contexts=2)
    assert (again.target_std, again.rankme, again.image_share) == (once.target_std, once.rankme, once.image_share)


@pytest.mark.parametrize("positions", [torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1]])])
@pytest.mark.parametrize("blocks", [1, 3])  # of the same tokens
def test_where_nothing_can_be_compared_there_are_no_signals(model, positions, blocks):
    targets = torch.randn(len(positions), 2, 32).repeat(blocks, 1, 1)
    assert measure(model, targets, targets, [positions] * blocks) is None


def test_blocks_that_overlap_count_a_token_once(model):
    targets, positions = torch.randn(4, 3, 32), torch.arange(3).expand(4, -1)
    once, twice = (measure(model, targets.repeat(n, 1, 1), targets.repeat(n, 1, 1), [positions] * n) for n in (1, 2))
    assert (twice.target_std, twice.rankme) == (once.target_std, once.rankme)


@pytest.mark.parametrize("images", [2, 11])  # the encoders are compared on no more than 8
def test_cosine_of_the_encoders_is_taken_at_the_tokens_of_the_context(model, images):
    torch.manual_seed(0)
    order = torch.stack([torch.randperm(36) for _ in range(images)])
    batch = {
        "pixel_values": torch.randn(images, 3, 48, 48),
        "context_mask": [order[:, :20], order[:, 10:30]],
        "target_mask": [order[:, 30:], torch.arange(6).expand(images, -1)],
    }
    with torch.no_grad():
        for parameter in model.context_encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        shown = batch["pixel_values"][:8]
        seen = model.target_encoder(shown).last_hidden_state
        pairs = [
            (
                model.context_encoder(shown, context_mask=mask[:8]).last_hidden_state,
                seen.gather(1, mask[:8, :, None].expand(-1, -1, seen.shape[-1])),
            )
            for mask in batch["context_mask"]
        ]
        # Both are normalised as the targets are.
        cosines = [cosine_similarity(*(layer_norm(x, (32,)) for x in pair), dim=-1).mean() for pair in pairs]
    found = collapse_signals(model, batch, model(**batch)).context_target_cosine
    assert found == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-6) and 0.1 < found < 0.9


def test_encoders_that_are_equal_and_see_all_have_cosine_one(model):
    everything = torch.arange(36).expand(3, -1)
    batch = {
        "pixel_values": torch.randn(3, 3, 48, 48),
        "context_mask": [everything],
        "target_mask": [everything[:, :5]],
    }
    assert collapse_signals(model, batch, model(**batch)).context_target_cosine == pytest.approx(1.0, abs=1e-6)


def verdicts(shares: list[float], ranks: list[float] | None = None) -> list[str]:
    monitor = CollapseMonitor()
    cosines = {"context_target_cosine": 0.9, "prediction_target_cosine": 0.3}
    ranks = ranks or [40.0] * len(shares)
    return [
        monitor.add(CollapseSignals(target_std=share, image_share=share, rankme=rank, **cosines)).verdict
        for share, rank in zip(shares, ranks, strict=True)
    ]


@pytest.mark.parametrize(
    ("shares", "ranks"), [([0.01], [50.0]), ([0.6], [1.2])], ids=["images alike", "one direction"]
)
def test_either_signal_shows_a_collapse(shares, ranks):
    assert verdicts(shares, ranks) == ["collapsed"]


def test_what_falls_far_below_its_best_is_shrinking():
    assert verdicts([0.2, 0.8, 0.3])[-1] == "shrinking"
    assert verdicts([0.6] * 3, [70.0, 30.0, 15.0]) == ["healthy", "healthy", "shrinking"]
    assert verdicts([0.97**i for i in range(60)])[-1] == "shrinking"  # slowly, too


def test_what_no_longer_falls_is_healthy():
    assert verdicts([0.6, 0.25, 0.25, 0.25, 0.26, 0.27, 0.28, 0.29])[-1] == "healthy"
    noise = torch.rand(40, generator=torch.Generator().manual_seed(0)) * 0.02
    flat = verdicts([0.6, 0.4, 0.3, *(0.22 + noise).tolist()])
    assert set(flat[12:]) == {"healthy"}


@pytest.mark.parametrize("before", [20, 100, 400])
def test_a_sudden_fall_shows_soon_however_long_the_run(before):
    assert "shrinking" in verdicts([0.6] * before + [0.1] * 6)


def test_a_verdict_that_gets_worse_is_told_once(caplog):
    verdicts([0.8, 0.3, 0.2, 0.1])
    (message,) = [record.message for record in caplog.records if record.name.startswith("hf_jepa")]
    assert message.startswith("collapse monitor: shrinking - targets tell samples apart less and less")


@pytest.mark.parametrize(("images", "judged"), [(2, False), (3, False), (4, True)])
def test_views_of_so_few_images_that_their_rank_says_nothing_are_not_judged(images, judged):
    features, views = torch.randn(2, images, 32), torch.randn(images, 2, 3, 8, 8)
    output = JepaForPreTrainingOutput(predictions=features, targets=features, context=features)
    signals = collapse_signals(None, {"pixel_values": views}, output)
    assert (signals is not None) == judged and (not judged or signals.rankme > COLLAPSED_RANK)
