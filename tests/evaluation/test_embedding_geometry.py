"""Geometry of constructed embeddings, of which every figure is known."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.data.text_pairs import LlmJepaPreprocessor
from hf_jepa.data.text_tokens import add_predictor_tokens
from hf_jepa.evaluation import embedding_geometry as module
from hf_jepa.evaluation.embedding_geometry import embedding_geometry, pair_embeddings
from hf_jepa.evaluation.metrics import rankme
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_views():
    x = normal(100, 8)
    found = embedding_geometry(x, x)
    torch.testing.assert_close(found.true_cosines, torch.ones(100, dtype=torch.float64))
    assert found.shuffled_cosines.abs().mean() < 0.5 and found.auc == 1 and found.recall_at_1 == 1
    assert found.difference_size == 0 and found.spectra["difference"].max() == 0 and found.ranks["difference"] == 0
    assert found.linear_residual < 1e-9


def test_views_without_relation():
    found = embedding_geometry(normal(2000, 8), normal(2000, 8, seed=1))
    assert abs(found.auc - 0.5) < 0.03 and found.recall_at_1 < 0.01
    assert 0.98 < found.linear_residual < 1.02, "no better than the mean"
    assert abs(found.difference_size - math.sqrt(2)) < 0.05


def test_a_linear_relation_is_found_whatever_the_cosines_say():
    text = normal(400, 16) * torch.logspace(0, -3, 16, dtype=torch.float64)  # some directions hardly vary
    code = text @ normal(16, 16, seed=1) + 3
    found = embedding_geometry(text, code)
    assert found.linear_residual < 1e-6 and found.recall_at_1 < 0.2
    assert (found.fitted_pairs, found.held_out_pairs) == (300, 100)
    noisy = embedding_geometry(text, code + normal(400, 16, seed=2) * code.std(dim=0))
    assert 0.4 < noisy.linear_residual < 0.6, "half of the variance is noise"


def test_fewer_pairs_than_dimensions_do_not_look_linear():
    found = embedding_geometry(normal(60, 200), normal(60, 200, seed=1))
    assert found.linear_residual > 0.95, "pairs that it was fitted to would give 0"
    narrow = normal(60, 4) @ normal(4, 200, seed=1)
    assert embedding_geometry(narrow, narrow @ normal(200, 200, seed=2)).linear_residual < 1e-4


def test_a_difference_in_few_directions():
    text = normal(300, 32)
    code = text + normal(300, 2, seed=1) @ normal(2, 32, seed=2)
    found = embedding_geometry(text, code)
    assert int((found.spectra["difference"] > 1e-9).sum()) == 2 and found.ranks["difference"] < 2.1
    for name, matrix in (("text", text), ("code", code), ("difference", text - code)):
        values = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(found.spectra[name], values)
        assert found.ranks[name] == rankme(matrix)
    assert found.difference_size == pytest.approx(((text - code).norm() / code.norm()).item())


def test_shuffled_pairs_are_no_true_ones():
    x = torch.eye(50, dtype=torch.float64)
    for seed in range(5):
        found = embedding_geometry(x, x, seed=seed)
        assert found.shuffled_cosines.abs().max() == 0 and found.auc == 1
    a, b = (embedding_geometry(normal(50, 4), normal(50, 4, seed=1), seed=seed) for seed in (0, 1))
    assert a.shuffled_cosines.mean() != b.shuffled_cosines.mean() and a.true_cosines.equal(b.true_cosines)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    positive, negative = (normal(40, seed=seed).mul(2).round() for seed in (3, 4))  # with ties
    pairs = [(p > n) + (p == n) / 2 for p in positive.tolist() for n in negative.tolist()]
    assert module._auc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))


def test_recall_shares_between_equal_codes_and_does_not_depend_on_blocks(monkeypatch):
    x = torch.eye(40, dtype=torch.float64)
    twice = x.clone()
    twice[1::2] = twice[::2] * 3  # of every two pairs the Code is the same up to its length
    text = twice + 1e-9 * normal(40, 40)
    assert embedding_geometry(text, twice).recall_at_1 == 0.5
    constant = torch.ones(40, 3, dtype=torch.float64)
    collapsed = embedding_geometry(normal(40, 3), constant)
    assert collapsed.recall_at_1 == pytest.approx(1 / 40) and math.isnan(collapsed.linear_residual)
    text, code = normal(50, 8), normal(50, 8) + 0.9 * normal(50, 8, seed=1)
    whole = embedding_geometry(text, code).recall_at_1
    cosines = nn.functional.normalize(text) @ nn.functional.normalize(code).T
    assert whole == (cosines.argmax(dim=1) == torch.arange(50)).double().mean().item() and 0.2 < whole < 1
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 150)
    assert embedding_geometry(text, code).recall_at_1 == whole


def test_precision_of_the_input_does_not_matter():
    text, code = normal(64, 8), normal(64, 8) + normal(64, 8, seed=1)
    exact, half = embedding_geometry(text, code), embedding_geometry(text.bfloat16(), code.bfloat16())
    assert half.true_cosines.dtype == torch.float64
    assert half.auc == pytest.approx(exact.auc, abs=0.01) and half.linear_residual == pytest.approx(
        exact.linear_residual, abs=0.02
    )


def test_the_table_holds_all_figures():
    found = embedding_geometry(normal(64, 8), normal(64, 8, seed=1))
    figures = found.as_dict()
    assert figures["pairs"] == 64 and figures["true_mean"] == found.true_cosines.mean().item()
    assert figures["true_q05"] < figures["true_q50"] < figures["true_q95"]
    assert figures["top_text"] == found.spectra["text"][0].item() and figures["rank_code"] == found.ranks["code"]
    assert len(str(found).splitlines()) == len(figures)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (torch.ones(30, 4), torch.ones(30, 5), r"text has shape \(30, 4\) and code \(30, 5\)"),
        (torch.ones(30, 4), torch.ones(29, 4), "must be pairs"),
        (torch.ones(5, 4), torch.ones(5, 4), "at least 20 rows"),
        (torch.ones(30, 4), torch.ones(30, 4).index_fill(0, torch.tensor([7]), 0), "row 7 of code is zero"),
        (torch.full((30, 4), float("nan")), torch.ones(30, 4), "text has 120 values that are NaN"),
    ],
)
def test_what_cannot_be_measured(text, code, message):
    with pytest.raises(ValueError, match=message):
        embedding_geometry(text, code)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = byte_tokenizer()
    add_predictor_tokens(tokenizer, 1)
    return tokenizer


def test_embeddings_of_records_are_states_of_the_language_model(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlmJepaConfig(text_config={"model_type": "llama", "vocab_size": len(tokenizer), **sizes})
    config.layout = "three_pass"
    model = LlmJepaForCausalLM(config).train()
    preprocess = LlmJepaPreprocessor(tokenizer, text_column="q", code_column="a")
    pairs = [preprocess({"q": "ab" * (i + 1), "a": "c" * (9 - i)}) for i in range(7)]
    for layout in ("three_pass", "packed"):
        model.config.layout = layout
        collator = LlmJepaDataCollator(pad_token_id=tokenizer.pad_token_id, layout=layout)
        text, code = pair_embeddings(model, DataLoader(pairs, batch_size=3, collate_fn=collator), progress=False)
        assert text.shape == code.shape == (7, 32) and model.training and not text.requires_grad
        for i, pair in enumerate(pairs):
            for found, ids, index in ((text, pair.text_ids, pair.text_index), (code, pair.code_ids, pair.code_index)):
                with torch.no_grad():
                    states = model.language_model.model(torch.tensor([ids])).last_hidden_state
                torch.testing.assert_close(found[i], states[0, index], rtol=1e-4, atol=1e-5)


def test_any_model_with_such_an_output_will_do():
    class Halves(nn.Linear):
        def forward(self, x, note):
            assert not self.training and note == "a"
            return SimpleNamespace(text_embedding=x[:, :2].bfloat16(), code_embedding=x[:, 2:])

    x = normal(5, 4)
    model = Halves(1, 1)
    text, code = pair_embeddings(model, [{"x": part, "note": "a"} for part in x.split(2)], progress=False)
    assert text.equal(x[:, :2].bfloat16().float()) and code.equal(x[:, 2:].float()) and model.training
    with pytest.raises(ValueError, match="the data is empty"):
        pair_embeddings(model, [], progress=False)
