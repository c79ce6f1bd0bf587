"""LLM-JEPA beside the restated official step: token slots, time and memory of an example, and what collating costs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from counting import peak_memory
from official_text_step import OfficialTextStep
from timing import Row, medians
from transformers import LlamaConfig, LlamaForCausalLM

from hf_jepa.data.text_layouts import lay_out
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


SLOTS, TIME, COLLATING = 1 / 3, 1 / 2, 0.02
OFFICIAL, OFFICIAL_ADDITIVE = "restated official three_pass", "restated official additive_mask"
# Ends a turn and fills empty places; the predictor token; where embeddings are read from the end of a view.
END, PREDICTOR, LAST_TOKEN = 0, 1, -2
BATCH_SIZE = 4  # of a device, in the official runs
# Of NL-RX under the template of Llama 3: tokens of the template in each sequence, fewest and most of the contents.
SYSTEM_TEMPLATE, ANSWER_TEMPLATE, TEXT_TEMPLATE, CODE_TEMPLATE = 38, 5, 31, 32
DESCRIPTION, EXPRESSION = (7, 27), (5, 21)
# name -> layout and packing
LAYOUTS = {
    "packed, balanced": ("packed", "balanced"),
    "packed, pairs": ("packed", "pairs"),
    "packed, single": ("packed", "single"),
    "three_pass": ("three_pass", "pairs"),
    "additive_mask": ("additive_mask", "pairs"),
    "fused": ("fused", "pairs"),
}
DEFAULT = "packed, balanced"


class Contestant(NamedTuple):
    """What gives the two losses of a batch, and how many places the language model computes for them."""

    losses: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    slots: int


class Size(NamedTuple):
    """A language model, how often it is measured, and the length of the official rows."""

    name: str
    width: int
    layers: int
    vocabulary: int
    repeats: int
    length: int = 512


SIZES = [
    Size("width 256, 4 layers, 8k tokens", 256, 4, 8192, 3),
    Size("width 256, 4 layers, 32k tokens", 256, 4, 32768, 3),
    Size("width 512, 8 layers, 32k tokens", 512, 8, 32768, 1),
]
TINY = Size("width 32, 1 layer, 64 tokens", 32, 1, 64, 1, 128)


def run(quick: bool) -> Iterator[Row]:
    """Everything; `quick` takes a tiny model and short rows, to see that it runs."""
    for number, size in enumerate([TINY] if quick else SIZES):
        model, pairs = language_model(size), text_pairs(size.vocabulary)
        found = contestants(model, pairs, size.length)
        require_same(found)
        if number == 0:  # the same for all sizes
            for name in [*LAYOUTS, OFFICIAL_ADDITIVE]:
                slots = [found[which].slots / len(pairs) for which in (name, OFFICIAL)]
                yield Row(f"LLM-JEPA token slots per example, {name}", OFFICIAL, *slots, _limit(name, SLOTS), "slots")
        yield from bench_steps(size.name, model, pairs, found, size.repeats)


def text_pairs(vocabulary: int, count: int = BATCH_SIZE) -> list[TextPair]:
    """Random tokens of the lengths of NL-RX: 75 of the LM row, 50 of Text, 46 of Code in the mean.

    As under the template of Llama 3 everything is learnt but the end of a turn, which also fills empty places.
    """
    rng = np.random.default_rng(0)

    def tokens(number: int) -> list[int]:
        return rng.integers(2, vocabulary, number).tolist()

    pairs = []
    lengths = (rng.permutation(np.linspace(*ends, count).round().astype(int)) for ends in (DESCRIPTION, EXPRESSION))
    for text, code in zip(*[[tokens(number) for number in numbers] for numbers in lengths], strict=True):
        row = [*tokens(SYSTEM_TEMPLATE), *text, END, *tokens(ANSWER_TEMPLATE), *code, END]
        text_ids, code_ids = [*tokens(TEXT_TEMPLATE), *text, PREDICTOR, END], [*tokens(CODE_TEMPLATE), *code, END]
        pairs.append(
            TextPair(
                input_ids=row,
                labels=[-100 if token == END else token for token in row],
                text_ids=text_ids,
                text_index=len(text_ids) + LAST_TOKEN,
                code_ids=code_ids,
                code_index=len(code_ids) + LAST_TOKEN,
                text_end=SYSTEM_TEMPLATE + len(text) - 1,
                predictor_ids=(PREDICTOR,),
            )
        )
    return pairs


def language_model(size: Size) -> LlamaForCausalLM:
    """A Llama of fresh weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 32,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).train()


def contestants(model: LlamaForCausalLM, pairs: Sequence[TextPair], length: int) -> dict[str, Contestant]:
    """The official steps and ours in every layout, of one batch and one model."""
    found = {}
    for name in (OFFICIAL, OFFICIAL_ADDITIVE):
        official = OfficialTextStep(model, END, length, LAST_TOKEN, additive_mask=name == OFFICIAL_ADDITIVE)
        batch = official.collate(pairs)
        found[name] = Contestant(partial(official.losses, batch), official.slots(batch))
    for name, (layout, packing) in LAYOUTS.items():
        ours = LlmJepaForCausalLM(LlmJepaConfig(text_config=model.config, layout=layout), model)
        batch = lay_out(pairs, layout, packing, END)
        found[name] = Contestant(partial(_losses, ours, batch), batch["input_ids"].numel())
    return found


def _losses(model: LlmJepaForCausalLM, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    out = model(**batch)
    return out.lm_loss, out.jepa_loss


def require_same(found: dict[str, Contestant]) -> None:
    """All give the official losses; "fused" only that of the language model, see `lay_out`."""
    with torch.no_grad():
        wanted = found[OFFICIAL].losses()
        for name, contestant in found.items():
            compared = slice(1 if name == "fused" else 2)
            torch.testing.assert_close(contestant.losses()[compared], wanted[compared], rtol=0, atol=1e-4)


def bench_steps(
    size: str, model: LlamaForCausalLM, pairs: Sequence[TextPair], found: dict[str, Contestant], repeats: int
) -> Iterator[Row]:
    """Forward and backward of an example, memory of a batch, and what laying it out takes."""

    def step(losses: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        sum(losses()).backward()
        model.zero_grad()

    steps = {name: partial(step, contestant.losses) for name, contestant in found.items()}
    times = dict(zip(found, medians(*steps.values(), repeats=repeats), strict=True))
    for name in [*LAYOUTS, OFFICIAL_ADDITIVE]:
        both = [times[which] / len(pairs) for which in (name, OFFICIAL)]
        yield Row(f"LLM-JEPA step per example, {name}, {size}", OFFICIAL, *both, _limit(name, TIME))
    memory = [peak_memory(steps[name]) for name in (DEFAULT, OFFICIAL)]
    yield Row(f"LLM-JEPA memory of a step, {DEFAULT}, {size}", OFFICIAL, *memory, None, "MiB")
    (collating,) = medians(lambda: lay_out(pairs, *LAYOUTS[DEFAULT], END), repeats=10 * repeats)
    yield Row(f"LLM-JEPA collating, {DEFAULT}, {size}", "its step", collating, times[DEFAULT], COLLATING)


def _limit(name: str, limit: float) -> float | None:
    return limit if name == DEFAULT else None
