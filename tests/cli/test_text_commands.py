"""`hf-jepa score` and `hf-jepa geometry` on a tiny language model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import refused
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_jepa.cli import score
from hf_jepa.cli.main import main
from hf_jepa.evaluation.text_generation import choose_letters, generate_answers
from hf_jepa.evaluation.text_scoring import TASKS


GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "llm_jepa"


def turns(user, answer):
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder of a stock model, its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("language_model") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "data_pipeline_llama" / "tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, initializer_range=0.3, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def questions(language_model):
    """Questions, and what the model answers."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(language_model), AutoTokenizer.from_pretrained(language_model)
    asked = [turns(f"lines with {word}", "?") for word in ("a", "the letter b", "c", "a vowel or d")]
    answers = generate_answers(model, tokenizer, asked, max_new_tokens=8, progress=False)
    letters = choose_letters(model, tokenizer, asked, progress=False)
    return [record["messages"][0]["content"] for record in asked], answers, letters


def run(*argv):
    return main([str(arg) for arg in argv])


def test_the_command_line_knows_all_tasks():
    assert set(score.TASKS) == set(TASKS)


def test_score_counts_right_answers(language_model, questions, tmp_path, capsys):
    users, answers, _ = questions
    records = [
        turns(user, text if row != 1 else "x") for row, (user, text) in enumerate(zip(users, answers, strict=True))
    ]
    data, output = write(tmp_path / "spider_test.jsonl", records), tmp_path / "out" / "scores.json"
    options = ("--task", "synth", "--max-new-tokens", 8, "--batch-size", 3, "--output", output)
    assert run("score", language_model, data, *options) == 0
    text = capsys.readouterr().out
    assert "LlamaForCausalLM" in text and "75.00 %" in text and "30.06 to 95.44" in text
    stored = json.loads(output.read_text())
    assert [sample["generated"] for sample in stored["samples"]] == answers
    assert [sample["correct"] for sample in stored["samples"]] == [True, False, True, True]
    assert (stored["task"], stored["scoring"], stored["correct"], stored["total"]) == ("synth", "strict", 3, 4)
    assert run("score", language_model, data, *options, "--limit", 2) == 0
    assert "50.00 %" in capsys.readouterr().out and len(json.loads(output.read_text())["samples"]) == 2


def test_score_of_letters_and_columns(language_model, questions, tmp_path, capsys):
    users, _, letters = questions
    rows = [{"question": user, "letter": letter} for user, letter in zip(users, letters, strict=True)]
    data = write(tmp_path / "rows.jsonl", rows)
    columns = ("--text-column", "question", "--code-column", "letter")
    assert run("score", language_model, data, "--task", "hellaswag", *columns) == 0
    assert "100.00 %" in capsys.readouterr().out
    line = refused(["score", language_model, data, "--task", "synth", "--system-prompt", "x"], capsys)
    assert "no column 'messages'" in line


def test_score_runs_sql_on_the_databases(language_model, tmp_path):
    records = [turns("For db_id:[toy_1]\n\nAll?", "SELECT name FROM city WHERE pop > 9999")] * 2
    data, output = write(tmp_path / "spider.jsonl", records), tmp_path / "scores.json"
    options = ("--task", "spider", "--database", GOLDEN / "evaluation" / "database", "--output", output)
    for scoring, correct in (
        ("strict", 0),
        ("official", 2),
    ):  # what it writes is no SQL, and the right answer is empty
        assert run("score", language_model, data, *options, "--scoring", scoring, "--max-new-tokens", 4) == 0
        assert json.loads(output.read_text())["correct"] == correct


def test_score_refuses_before_it_generates(language_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_jepa.cli.texts.load_language_model", lambda checkpoint: pytest.fail("it was loaded"))
    good, bad = write(tmp_path / "a.jsonl", [turns("q", "\n#### 1")]), write(tmp_path / "b.jsonl", [turns("q", "1")])
    asked = write(tmp_path / "c.jsonl", [{"messages": [{"role": "user", "content": "q"}]}])
    assert "row 0: the reference '1' is no right" in refused(["score", "m", bad, "--task", "gsm8k"], capsys)
    assert "row 0: the last turn is not the assistant's" in refused(["score", "m", asked, "--task", "exact"], capsys)
    assert "task 'spider' runs SQL" in refused(["score", "m", good, "--task", "spider"], capsys)
    assert "no task 'gsm8k_number'" in refused(
        ["score", "m", good, "--task", "gsm8k_number", "--scoring", "official"], capsys
    )
    assert "--task" in refused(["score", "m", good], capsys)
    assert "--limit is 0" in refused(["score", "m", good, "--task", "exact", "--limit", 0], capsys)
    assert "none.jsonl" in refused(["score", "m", tmp_path / "none.jsonl", "--task", "exact"], capsys)


def test_prompts_without_room_are_named_or_wrong(language_model, tmp_path, capsys):
    data = write(tmp_path / "long.jsonl", [turns("a", "x"), turns("lines " * 60, "x")])
    options = ("--task", "exact", "--max-new-tokens", 4)
    assert "1 of 2 prompts" in refused(["score", language_model, data, *options], capsys)
    with pytest.warns(UserWarning, match=r"row 1 \("):
        assert run("score", language_model, data, *options, "--too-long", "skip", "--output", tmp_path / "s.json") == 0
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["skipped"] == 1 and stored["total"] == 2 and stored["samples"][1]["generated"] is None


def test_a_checkpoint_with_too_few_embeddings_is_refused(language_model, tmp_path, capsys):
    folder = tmp_path / "small"
    model = LlamaForCausalLM.from_pretrained(language_model)
    model.resize_token_embeddings(400)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(language_model).save_pretrained(folder)
    data = write(tmp_path / "a.jsonl", [turns("q", "a")])
    line = refused(["score", folder, data, "--task", "exact"], capsys)
    assert "has 431 tokens, the model embeds 400 of them" in line


def test_geometry_measures_and_draws(language_model, tmp_path, capsys):
    records = [turns(f"lines with {i} letters", f".{{{i}}}") for i in range(40)] + [turns("lines " * 99, "x")]
    data, output = write(tmp_path / "pairs.jsonl", records), tmp_path / "out" / "tiny.png"
    assert run("geometry", language_model, data, "--output", output) == 0
    text = capsys.readouterr().out
    assert "40 pairs of 41 records, 1 predictor tokens" in text
    figures = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    assert figures["pairs"] == "40" and -1 <= float(figures["true_mean"]) <= 1 and float(figures["rank_text"]) > 1
    assert np.ptp(np.asarray(Image.open(output))) > 200
    assert run("geometry", language_model, data, "--output", output, "--predictor-tokens", 0, "--last-token", -1) == 0
    other = capsys.readouterr().out
    assert "0 predictor tokens" in other and other.split("auc")[1][:60] != text.split("auc")[1][:60]
    assert "at least 20 rows" in refused(["geometry", language_model, data, "--limit", 5], capsys)
