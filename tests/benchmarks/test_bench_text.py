"""What LLM-JEPA is measured against is the official step, and what is counted meets its limit."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM


ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/fixtures/golden/llm_jepa"
SUFFIXES = {"lm": "", "text": "_user", "code": "_assistant"}  # of the official names


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("case", ["three_pass", "additive_mask"])
def test_restated_step_gives_the_official_losses(benchmarks, case):
    settings, io = json.loads((GOLDEN / "config.json").read_text()), load_file(GOLDEN / case / "io.safetensors")
    model = LlamaForCausalLM(LlamaConfig(**settings["model"])).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    official = benchmarks("official_text_step").OfficialTextStep(
        model, 0, io["input_ids"].shape[1], settings["trainer"]["last_token"], additive_mask=case == "additive_mask"
    )
    batch = {f"{name}_ids": io[f"input_ids{suffix}"] for name, suffix in SUFFIXES.items()}
    batch |= {f"{name}_mask": io[f"attention_mask{suffix}"] for name, suffix in SUFFIXES.items()}
    lm_loss, jepa_loss = official.losses(batch | {"labels": io["labels"]})
    torch.testing.assert_close(lm_loss, io["lm_loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(jepa_loss, io["jepa_loss.cosine"], rtol=0, atol=1e-5)


def test_packed_rows_have_a_third_of_the_official_slots(benchmarks):
    bench_text = benchmarks("bench_text")
    pairs, model = bench_text.text_pairs(bench_text.TINY.vocabulary), bench_text.language_model(bench_text.TINY)
    bench_text.require_same(bench_text.contestants(model, pairs, bench_text.TINY.length))
    found = bench_text.contestants(model, pairs, length=512)
    assert found[bench_text.OFFICIAL].slots == 3 * 512 * len(pairs)
    assert found[bench_text.DEFAULT].slots <= found[bench_text.OFFICIAL].slots / 3


def test_different_losses_are_not_measured(benchmarks):
    bench_text = benchmarks("bench_text")
    wanted, other = ((torch.tensor(1.0), torch.tensor(jepa_loss)) for jepa_loss in (0.5, 0.501))
    found = {bench_text.OFFICIAL: bench_text.Contestant(lambda: wanted, 1)}
    bench_text.require_same(found | {"fused": bench_text.Contestant(lambda: other, 1)})
    with pytest.raises(AssertionError):
        bench_text.require_same(found | {"three_pass": bench_text.Contestant(lambda: other, 1)})
