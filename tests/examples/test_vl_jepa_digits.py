"""`examples/vl_jepa_digits.py`: the language model beside VL-JEPA is a fair one, and a short run leaves all."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


@pytest.fixture(scope="module")
def examples():
    names = ("vl_jepa_digits", "digit_models", "digit_questions", "generative_baseline")
    return {name: import_module(name) for name in names}


@pytest.fixture(scope="module")
def baseline(examples):
    torch.manual_seed(0)
    models = examples["digit_models"]
    tokenizer = models.new_tokenizer()
    made = examples["generative_baseline"].GenerativeBaseline(
        models.vision_config(), models.language_config(tokenizer, layers=2), tokenizer
    )
    return made.eval()


VIDEOS = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
QUERIES = ["describe the clip", "", "which digit moves left?"]


def test_the_language_model_learns_what_it_writes_and_nothing_else(baseline):
    """Its loss is that of each target's tokens and their end, read off one video and text at a time."""
    targets, losses = ["a two moves up", "seven", "yes"], []
    for video, query, target in zip(VIDEOS, QUERIES, targets, strict=True):
        ids = baseline._prompt(query) + baseline._ids(target)
        seen = baseline._seen(video[None])
        words = baseline.language_model.get_input_embeddings()(torch.tensor([ids]))
        logits = baseline.language_model(inputs_embeds=torch.cat([seen, words], dim=1)).logits[0]
        wanted = torch.tensor([*baseline._ids(target), baseline.tokenizer.eos_token_id])
        losses.append(nn.functional.cross_entropy(logits[-len(wanted) :], wanted, reduction="none"))
    torch.testing.assert_close(baseline(VIDEOS, QUERIES, targets), torch.cat(losses).mean(), rtol=1e-5, atol=1e-5)
    assert len({*map(len, losses)}) > 1  # rows of different lengths, so padding would show


def test_candidates_are_ranked_by_their_mean_likelihood(baseline):
    candidates = [["left", "a two moves up"], ["yes", "no", "maybe so"], ["seven"]]
    found = baseline.rank(VIDEOS, QUERIES, candidates, batch_size=2)
    with torch.no_grad():
        for video, query, texts, best in zip(VIDEOS, QUERIES, candidates, found, strict=True):
            losses = [baseline(video[None], [query], [text]).item() for text in texts]
            assert best == texts[int(np.argmin(losses))]


def test_what_is_written_does_not_depend_on_the_others_of_a_batch(baseline):
    together = baseline.write(VIDEOS, QUERIES, max_new_tokens=6)
    assert together == [
        baseline.write(video[None], [query], max_new_tokens=6)[0] for video, query in zip(VIDEOS, QUERIES, strict=True)
    ]


def test_both_are_of_one_size_and_are_asked_the_same(examples):
    models, script = examples["digit_models"], examples["vl_jepa_digits"]
    torch.manual_seed(0)
    tokenizer = models.new_tokenizer()
    model, processor = models.new_vl_jepa(tokenizer)
    language = models.language_config(tokenizer, layers=4)
    other = examples["generative_baseline"].GenerativeBaseline(models.vision_config(), language, tokenizer)
    assert script.trained(model) == pytest.approx(script.trained(other), rel=0.03)
    asked = examples["digit_questions"].tests(40, lambda frames: models.pixels(processor, frames))
    assert all(part["pixels"].shape == (40, 4, 3, 32, 32) for part in asked.values())
    guessed = script.chance(asked)
    captions = len(set(asked["all"]["captions"]))
    expected = {"is": 1 / 2, "which": 1 / 10, "what": 1 / 4, "unseen": 1 / 37}
    expected |= {"text_to_video": 1 / captions, "video_to_text": 1 / captions}
    assert guessed == pytest.approx(expected)


@pytest.mark.slow
def test_the_example_leaves_its_table_and_picture(examples, tmp_path, capsys):
    options = {
        "--one-digit-steps": 3,
        "--steps": 3,
        "--tuning-steps": 3,
        "--decoder-steps": 3,
        "--clips": 16,
        "--events": 3,
    }
    words = [str(word) for pair in (options | {"--output-dir": tmp_path / "out"}).items() for word in pair]
    examples["vl_jepa_digits"].main(words)
    first = (tmp_path / "out/results.json").read_text()
    examples["vl_jepa_digits"].main(words)  # of the models that are there
    assert (tmp_path / "out/results.json").read_text() == first
    printed = capsys.readouterr().out
    assert "language model" in printed and "caption of unseen moves" in printed and "A video of 3 events" in printed
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["scores"]) == {"VL-JEPA", "language model", "chance"}
    assert set(results["scores"]["VL-JEPA"]) == set(examples["vl_jepa_digits"].COLUMNS)
    assert all(0 <= value <= 1 for row in results["scores"].values() for value in row.values())
    curves = results["stream"]["curves"]
    assert len(curves) == 3 and all(math.isfinite(each) for curve in curves.values() for each in curve)
    with Image.open(tmp_path / "out/stream.png") as picture:
        assert min(picture.size) > 200 and len(picture.convert("L").getcolors()) > 50
    assert (tmp_path / "out/table.md").read_text().startswith("| right, %")
    assert (tmp_path / "out/vl_jepa/processor_config.json").is_file()


def test_clauses_of_a_caption_count(examples):
    right = examples["digit_questions"].clauses_right
    caption = "a two moves up and a seven moves left"
    assert right(caption, caption) == 1 and right("a two moves up", caption) == 0.5
    assert right("a seven moves up and a two moves left", caption) == 0
    found = examples["digit_questions"].written_right([caption, "a two moves up"], [caption, caption])
    assert found == {"written": 0.5, "clauses": 0.75}
