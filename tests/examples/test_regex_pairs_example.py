"""`examples/regex_pairs.py`, shortened: equal cost, equal starts and data, kept runs, and what is written."""

import json

import pytest
import torch
from drawings import pixels_near
from PIL import Image
from scripts import examples_as_modules
from torch.utils.flop_counter import FlopCounterMode
from transformers import set_seed

from hf_jepa.data.text_layouts import LlmJepaDataCollator
from hf_jepa.training import text_comparison
from hf_jepa.training.text_comparison import OBJECTIVES, SAME_STEPS, TextComparison
from hf_jepa.training.text_flops import training_flops
from hf_jepa.visualization.text_comparison import draw_text_comparison


SHORT = TextComparison(pairs=64, test_pairs=40, batch_size=8)
ALONE, JEPA = OBJECTIVES["lm"], OBJECTIVES["jepa"]


@pytest.fixture(scope="module")
def script():
    with examples_as_modules("regex_pairs") as (script,):
        yield script


@pytest.mark.parametrize("views", [True, False])
def test_operations_are_those_that_pytorch_counts(views):
    data = text_comparison.prepare(SHORT)
    model = text_comparison.fresh_model(data.tokenizer, JEPA)
    model.causal_lm.set_attn_implementation("eager")
    collator = LlmJepaDataCollator(data.tokenizer.pad_token_id, packing="pairs", views=views)
    batch = collator([data.train[0]])  # one row, so that there is no padding
    model(**batch)  # the first forward also tries the layout
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    length, config = batch["input_ids"].shape[1], model.causal_lm.config
    seen = int((batch["position_ids"] + 1).sum())
    masked = 3 * 4 * config.num_hidden_layers * config.hidden_size * (length**2 - seen)  # computed and thrown away
    assert training_flops(model, batch) == counter.get_total_flops() - masked
    padded = batch | {name: torch.nn.functional.pad(batch[name], (0, 5)) for name in ("input_ids", "position_ids")}
    assert data.tokenizer.pad_token_id == 0 and training_flops(model, padded) == training_flops(model, batch)


def test_runs_of_a_plan_cost_the_same():
    planned = text_comparison.plan(OBJECTIVES, SHORT, 1000)
    cost = {name: steps * text_comparison.flops_per_step(each, SHORT) for name, (each, steps) in planned.items()}
    assert planned["jepa"][1] == 1000 and 1700 < planned["lm"][1] < 2200
    assert 1000 < planned["jepa_half"][1] < planned["jepa_quarter"][1] < planned["lm"][1]
    assert max(cost.values()) < 1.001 * min(cost.values())


def test_objectives_differ_in_the_objective_alone():
    """Dropout keeps lambda times the share of batches, as the paper advises; nothing else was searched for it."""
    rate, kept = JEPA.learning_rate, JEPA.jepa_weight
    for objective in OBJECTIVES.values():
        if objective is not ALONE:
            assert objective.jepa_weight * (1 - objective.jepa_dropout) == kept and objective.learning_rate == rate
    assert len(text_comparison.TRIES["lm"]) == len(text_comparison.TRIES["jepa"])
    chosen = [(each.learning_rate, each.jepa_weight) for tried in text_comparison.TRIES.values() for each in tried]
    assert {(each.learning_rate, each.jepa_weight) for each in (ALONE, JEPA)} <= set(chosen)
    assert (SAME_STEPS.learning_rate, SAME_STEPS.jepa_weight) == (rate, 0)


def test_all_rows_start_alike():
    starts = []
    for objective in OBJECTIVES.values():
        set_seed(7)
        starts.append(text_comparison.fresh_model(text_comparison.prepare(SHORT).tokenizer, objective).state_dict())
    for start in starts[1:]:
        assert all(torch.equal(start[key], value) for key, value in starts[0].items())


def test_settings_are_chosen_on_training_pairs():
    train, judged = TextComparison(pairs=64, test_pairs=20, validate=True).records()
    longer = TextComparison(pairs=84, test_pairs=20).records()
    assert train + judged == longer[0]
    answers = [{record["messages"][-1]["content"] for record in records} for records in longer]
    assert not answers[0] & answers[1]
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        TextComparison(pairs=0)
    with pytest.raises(ValueError, match=r"test_pairs=10 have \d+ different regular expressions"):
        text_comparison.prepare(TextComparison(pairs=64, test_pairs=10))


def test_the_example_trains_in_one_order_and_keeps_runs(script, tmp_path, monkeypatch, capfd):
    orders = []
    call, train = LlmJepaDataCollator.__call__, text_comparison.train_language_model

    def seen(collator, examples):
        if len(examples) == 32 and orders:  # those of training
            orders[-1].append([tuple(pair.input_ids) for pair in examples])
        return call(collator, examples)

    def begun(*args):
        orders.append([])
        return train(*args)

    monkeypatch.setattr(LlmJepaDataCollator, "__call__", seen)
    monkeypatch.setattr(text_comparison, "train_language_model", begun)
    monkeypatch.setattr(text_comparison, "NEW_TOKENS", 2)
    monkeypatch.setattr(script, "OBJECTIVES", {name: OBJECTIVES[name] for name in ("lm", "jepa", "jepa_quarter")})
    out = tmp_path / "out"
    script.main(["--quick", "--output-dir", str(out)])
    printed = capfd.readouterr().out
    rows = json.loads((out / "results.json").read_text())["budgets"]["3"]
    assert list(rows) == ["same_steps", "lm", "jepa", "jepa_quarter"] and "one seed says nothing" in printed
    assert len(orders) == 4 and all(order[:3] == orders[0][:3] for order in orders)
    assert len({*orders[0][0], *orders[0][1], *orders[0][2]}) == 96
    (same,), (alone,), (jepa,), (quarter,) = rows.values()
    assert same["steps"] == jepa["steps"] == 3 < quarter["steps"] < alone["steps"]
    assert jepa["gflops"] > 1.7 * same["gflops"] and jepa["gflops"] == pytest.approx(alone["gflops"], rel=0.1)
    assert "train_jepa_loss" not in alone and jepa["train_jepa_loss"] > 0
    titles = [script.ROWS[name] for name in rows]
    assert all(f"| {title} | " in (out / "table.md").read_text() and title in printed for title in titles)
    for name in ("comparison.png", "geometry.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200 and len(picture.convert("L").getcolors()) > 50
    script.main(["--quick", "--output-dir", str(out)])
    assert len(orders) == 4  # finished runs are not repeated
    with pytest.raises(SystemExit):
        script.main(["--seeds", "0"])


def test_who_is_ahead(script):
    def line(*points):
        rows = {"jepa": [{"exact": 0.5 + point} for point in points], "lm": [{"exact": 0.5}] * len(points)}
        return script.paired(rows, "jepa", "lm")

    assert "alone: +2.0 points (+1.0, +3.0); the same sign with every seed, paired t 2.0" in line(0.01, 0.03)
    assert "alone: -1.0 points (-3.0, +1.0); the signs differ, so neither is ahead" in line(-0.03, 0.01)
    assert "one seed says nothing" in line(0.1)


def test_the_picture_has_a_line_for_each_objective(tmp_path):
    runs = [{"steps": steps, "gflops": 2.0 * steps, "exact": steps / 900} for steps in (200, 400, 400)]
    second = []  # pixels of the second line's colour
    for names in (["a"], ["a", "b"]):
        rows = {name: [run | {"exact": run["exact"] / (1 + (name == "b"))} for run in runs] for name in names}
        path = draw_text_comparison(rows, {"exact": "exact"}, tmp_path / "x.png")
        second.append(pixels_near(path, (209, 73, 91)))
    assert second[0] == 0 and second[1] > 100
    for rows, panels, message in (({}, {"exact": "x"}, "nothing to draw"), ({"a": []}, {"exact": "x"}, "'a' has no")):
        with pytest.raises(ValueError, match=message):
            draw_text_comparison(rows, panels, tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()
