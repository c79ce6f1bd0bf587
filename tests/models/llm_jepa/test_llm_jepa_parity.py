"""Parity with the official trainer, and of the layouts with one another (golden/llm_jepa)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from hf_jepa.data.text_layouts import lay_out
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.losses.pair_distance import DISTANCES
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


GOLDEN = Path(__file__).resolve().parents[2] / "fixtures/golden/llm_jepa"
SETTINGS = json.loads((GOLDEN / "config.json").read_text())
LAST_TOKEN = SETTINGS["trainer"]["last_token"]
# case -> (layout, how the case calls its tensors)
CASES = {"three_pass": "three_pass", "additive_mask": "additive_mask", "packed": "packed", "fused": "fused"}
OFFICIAL = {"text": "user", "code": "assistant"}  # how the official code calls the views


def golden(case: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / case / "io.safetensors")


def pairs_of(io: dict[str, torch.Tensor]) -> list[TextPair]:
    """The pairs whose padded tensors the official trainer was given."""
    pairs = []
    for row in range(len(io["input_ids"])):

        def tokens(name: str, suffix: str = "", row: int = row) -> list[int]:
            return io[name + suffix][row][io["attention_mask" + suffix][row].bool()].tolist()

        text, code = tokens("input_ids", "_user"), tokens("input_ids", "_assistant")
        pairs.append(
            TextPair(
                tokens("input_ids"),
                tokens("labels"),
                text,
                len(text) + LAST_TOKEN,
                code,
                len(code) + LAST_TOKEN,
                int(io["text_end"][row]) if "text_end" in io else 0,
                tuple(SETTINGS["predictor_token_ids_in_order"]),
            )
        )
    return pairs


def model_of(layout: str, distance: str = "cosine", **fields) -> LlmJepaForCausalLM:
    language_model = LlamaForCausalLM(LlamaConfig(**SETTINGS["model"]))
    language_model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    config = LlmJepaConfig(
        text_config=language_model.config,
        layout=layout,
        distance=distance,
        jepa_weight=SETTINGS["trainer"]["lbd"],
        num_predictor_tokens=SETTINGS["k"],
        **fields,
    )
    return LlmJepaForCausalLM(config, language_model).eval()


def batch_of(case: str, io: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    if case in ("three_pass", "additive_mask"):
        options = {"length": io["input_ids"].shape[1]} | options
    if case == "additive_mask":
        options["last_token"] = LAST_TOKEN
    return lay_out(pairs_of(io), CASES[case], **options)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_losses_embeddings_and_gradients(case, distance):
    io, model = golden(case), model_of(CASES[case], distance)
    out = model(**batch_of(case, io))
    tolerance = 2e-5 if distance == "l2" else 1e-5
    for name, found in (("lm_loss", out.lm_loss), (f"jepa_loss.{distance}", out.jepa_loss)):
        torch.testing.assert_close(found, io[name], rtol=0, atol=tolerance)
    torch.testing.assert_close(out.loss, io[f"total_loss.{distance}"], rtol=0, atol=2 * tolerance)
    for view, official in OFFICIAL.items():
        name = next(n for n in (f"embedding_{view}", f"packed3.embedding_{view}", f"embedding_{official}") if n in io)
        torch.testing.assert_close(out[f"{view}_embedding"], io[name], rtol=0, atol=1e-5)
    out.loss.backward()
    parameters = dict(model.language_model.named_parameters())
    expected = {
        key.removeprefix(f"grad.{distance}."): g for key, g in io.items() if key.startswith(f"grad.{distance}.")
    }
    assert len(expected) == 3
    for name, gradient in expected.items():
        tolerance = 5e-5 if distance in ("l2", "infonce") else 1e-5
        torch.testing.assert_close(parameters[name].grad, gradient, rtol=0, atol=tolerance)


def test_packed_rows_are_the_golden_ones():
    io = golden("packed")
    batch = batch_of("packed", io)
    assert torch.equal(batch["input_ids"], io["packed3.input_ids"])
    assert torch.equal(batch["position_ids"], io["packed3.position_ids"])
    assert torch.equal(batch["labels"][:, 1:], io["packed3.labels"][:, 1:])  # the first is learnt by nobody
    start = torch.arange(4) * batch["input_ids"].shape[1]
    assert torch.equal(batch["text_index"] - start, io["packed3.index_text"])
    assert torch.equal(batch["code_index"] - start, io["packed3.index_code"])


def test_additive_rows_are_the_golden_ones():
    io = golden("additive_mask")
    batch = batch_of("additive_mask", io)
    assert torch.equal(batch["input_ids"], io["built.input_ids"])
    assert torch.equal(batch["labels"][:4, 1:], io["built.labels"][:4, 1:])
    seen, mask = io["built.attention_mask"].isfinite(), batch["attention_mask"]
    asks = seen.any(dim=-1)  # the official mask lets empty places see nothing at all, ours themselves
    assert torch.equal(mask[asks], seen[asks])
    assert mask[~asks].sum() == (~asks).sum() and bool(mask.diagonal(dim1=-2, dim2=-1).all())
    start = torch.arange(4, 8) * batch["input_ids"].shape[1]
    assert torch.equal(batch["text_index"] - start, io["index_user"])
    assert torch.equal(batch["code_index"] - start, io["index_assistant"])


def test_fused_rows_are_the_golden_ones():
    io = golden("fused")
    batch = batch_of("fused", io)
    assert torch.equal(batch["input_ids"], io["fused.input_ids"])
    used = io["fused.segment_ids"] >= 0
    assert torch.equal(batch["position_ids"][used], io["fused.position_ids"][used])
    rows = used[:, None]
    assert torch.equal(batch["attention_mask"][rows], io["fused.attention_mask"].bool()[rows])
    assert torch.equal(batch["labels"][:, 1:], io["fused.labels"][:, 1:])
    start = torch.arange(4) * batch["input_ids"].shape[1]
    assert torch.equal(batch["text_index"] - start, io["fused.index_text"])
    assert torch.equal(batch["code_index"] - start, io["fused.index_code"])


@pytest.mark.parametrize("packing", ["balanced", "single"])
def test_packing_changes_no_number(packing):
    io, model = golden("packed"), model_of("packed")
    found, expected = model(**batch_of("packed", io, packing=packing)), model(**batch_of("packed", io))
    for name in ("lm_loss", "jepa_loss", "text_embedding", "code_embedding"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


def test_the_dropped_step_is_that_of_the_language_model_alone():
    io, model = golden("additive_mask"), model_of("additive_mask")
    out = model(**batch_of("additive_mask", io, views=False))
    assert out.jepa_loss is None and torch.equal(out.loss, out.lm_loss)
    torch.testing.assert_close(out.loss, io["lm_loss"], rtol=0, atol=1e-5)
