"""Answers in batches are those of one prompt at a time, end where they should, and come in the order of records."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_jepa.data.text_pairs import LlmJepaPreprocessor
from hf_jepa.evaluation.text_generation import Prompts, choose_letters, generate_answers, split_messages
from hf_jepa.models.llm_jepa.configuration_llm_jepa import LlmJepaConfig
from hf_jepa.models.llm_jepa.modeling_llm_jepa import LlmJepaForCausalLM


FOLDER = Path(__file__).parents[1] / "fixtures" / "golden" / "llm_jepa" / "data_pipeline_llama" / "tokenizer"
TEXT = "lines with the string dog followed by a number or a letter and ending with a vowel"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def tiny(positions=256):
    # Weights so wide that the answers differ and no two tokens are nearly as probable.
    sizes = {"vocab_size": 431, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=positions)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def records():
    """Questions of all lengths, long and short ones mixed."""
    counts = (3, 14, 1, 9, 2, 16, 5)
    system = {"role": "system", "content": "Convert to a regular expression."}
    return [
        {
            "messages": [
                system,
                {"role": "user", "content": " ".join(TEXT.split()[:n])},
                {"role": "assistant", "content": "x"},
            ]
        }
        for n in counts
    ]


@torch.no_grad()
def one_by_one(model, tokenizer, record, new, ends=(1, 2)):
    """The most probable token, again and again, without cache, padding or `generate`."""
    ids = Prompts(tokenizer)(record)
    start = len(ids)
    while len(ids) < start + new:
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def answer(model, tokenizer, records, **options):
    return generate_answers(model, tokenizer, records, **{"max_new_tokens": 12, "progress": False} | options)


@pytest.fixture(scope="module")
def expected(model, tokenizer, records):
    return [one_by_one(model, tokenizer, record, new=12) for record in records]


def test_batches_change_no_token_and_no_order(model, tokenizer, records, expected):
    assert len(set(expected)) == len(records)
    for batch_size in (1, 3, 16):
        assert answer(model, tokenizer, records, batch_size=batch_size) == expected


def test_models_with_absolute_positions_too(tokenizer, records):
    torch.manual_seed(1)
    sizes = {"vocab_size": 431, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    model = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5)).eval()
    alone = [one_by_one(model, tokenizer, record, new=6) for record in records[:3]]
    assert len(set(alone)) > 1
    assert answer(model, tokenizer, records[:3], max_new_tokens=6) == alone


def test_the_model_with_the_objective_answers_as_its_language_model(model, tokenizer, records, expected):
    wrapped = LlmJepaForCausalLM(LlmJepaConfig(text_config=model.config), model)
    assert answer(wrapped, tokenizer, records[:3], batch_size=3) == expected[:3]


def test_an_answer_ends_at_any_end_token(model, tokenizer, records, expected, monkeypatch):
    text = expected[0]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    whole = one_by_one(model, tokenizer, records[0], new=12, ends=())
    assert whole == text and len(ids) > 4  # it does not end by itself
    end = ids[3]
    settings = GenerationConfig(eos_token_id=[400, end], min_length=500, min_new_tokens=12)  # no minimum is kept to
    monkeypatch.setattr(model, "generation_config", settings)
    cut = one_by_one(model, tokenizer, records[0], new=12, ends=(end,))
    assert answer(model, tokenizer, records[:1]) == [cut] and len(cut) < len(text)


def test_end_tokens_are_those_of_tokenizer_config_and_template(model, tokenizer, monkeypatch):
    assert model.generation_config.eos_token_id == 2 and Prompts(tokenizer).end_ids(model) == [1, 2]
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=7))
    other = AutoTokenizer.from_pretrained(FOLDER)
    other.eos_token = "<|predictor_1|>"
    predictor = other.convert_tokens_to_ids("<|predictor_1|>")
    assert Prompts(other).end_ids(model) == sorted([1, 7, predictor])  # 1: <|eot_id|>, by the template
    other.eos_token = None
    assert Prompts(other, plain=True).end_ids(model) == [1, 7]  # 1: the end of a plain row


def test_a_checkpoint_cannot_make_it_sample(model, tokenizer, records, expected, monkeypatch):
    noisy = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=9.0, num_beams=2, min_length=500)
    noisy.no_repeat_ngram_size = 1
    monkeypatch.setattr(model, "generation_config", noisy)
    monkeypatch.setattr(model.config, "use_cache", False)
    assert answer(model, tokenizer, records) == expected


def test_a_model_in_training_answers_without_dropout_and_goes_on(model, tokenizer, records, expected, monkeypatch):
    for layer in model.model.layers:
        monkeypatch.setattr(layer.self_attn, "attention_dropout", 0.9)
    model.train()
    model.model.layers[0].eval()
    assert answer(model, tokenizer, records[:2]) == expected[:2]
    assert model.training and not model.model.layers[0].training
    model.eval()


def test_prompts_start_with_one_bos_and_end_with_the_header_of_the_answer(tokenizer, records):
    ids = Prompts(tokenizer)(records[2])
    header = tokenizer("<|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False).input_ids
    assert ids[0] == 0 and ids.count(0) == 1 and ids[-len(header) :] == header
    assert tokenizer(tokenizer.decode(ids)).input_ids.count(0) == 2  # the template's and the tokenizer's
    without = {"messages": records[2]["messages"][:-1]}
    assert Prompts(tokenizer)(without) == ids, "the reference is never shown"


@pytest.mark.parametrize("plain", [False, True])
def test_prompts_are_how_the_rows_of_training_begin(tokenizer, records, plain):
    prompts, preprocess = Prompts(tokenizer, plain=plain), LlmJepaPreprocessor(tokenizer, plain=plain)
    for record in records:
        prompt, pair = prompts(record), preprocess(record)
        assert pair.input_ids[: len(prompt)] == prompt and pair.labels[len(prompt) - 1] == -100
        assert pair.labels[len(prompt) :] == pair.input_ids[len(prompt) :], "all that follows is learnt"


def test_templates_without_system_turn_get_it_in_the_question(tokenizer, records):
    gemma = AutoTokenizer.from_pretrained(FOLDER)
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    gemma.chat_template = refuse + gemma.chat_template
    text = Prompts(gemma).text(records[2])
    assert "user<|end_header_id|>\n\nConvert to a regular expression.\n\nlines<|eot_id|>" in text
    assert "system" not in text


def test_the_date_of_a_template_is_pinned(tokenizer, records):
    dated = AutoTokenizer.from_pretrained(FOLDER)
    dated.chat_template = "{{ date_string }}" + dated.chat_template
    assert Prompts(dated).text(records[0]).startswith("26 Jul 2024<|begin")
    assert Prompts(dated, "1 Jan 2000").text(records[0]).startswith("1 Jan 2000<|begin")


def test_prompts_without_template(tokenizer):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert Prompts(tokenizer, plain=True).text({"messages": turns}) == "u<|perception|>"


def test_prompts_that_are_too_long_are_named(tokenizer, records, expected):
    lengths = [len(Prompts(tokenizer)(record)) for record in records]
    model = tiny(positions=max(lengths) + 11)  # one too few for the longest
    row = lengths.index(max(lengths))
    with pytest.raises(ValueError, match=rf"1 of 7 prompts .* row {row} \({max(lengths)} tokens\); skip them"):
        answer(model, tokenizer, records)
    with pytest.warns(UserWarning, match=rf"row {row} \("):
        found = answer(model, tokenizer, records, too_long="skip")
    assert found == [text if i != row else None for i, text in enumerate(expected)]
    assert answer(model, tokenizer, records, max_new_tokens=11) is not None
    with pytest.warns(UserWarning, match="7 of 7 prompts"):
        assert answer(model, tokenizer, records, too_long="skip", max_prompt_tokens=1) == [None] * 7
    assert answer(model, tokenizer, []) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, r"no messages, only the columns \['text'\]"),
        ({"messages": []}, "no messages"),
        ({"messages": [{"role": "user"}]}, "a message must have the texts 'role' and 'content'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, r"the turns are \['assistant'\]"),
        ({"messages": [{"role": "system", "content": "a"}]}, r"the turns are \['system'\]"),
    ],
)
def test_records_that_are_none_are_named(model, tokenizer, records, record, message):
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        answer(model, tokenizer, [records[0], record])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"too_long": "cut"}, "too_long 'cut' is not one of error, skip"),
    ],
)
def test_options_that_cannot_be(model, tokenizer, records, options, message):
    with pytest.raises(ValueError, match=message):
        answer(model, tokenizer, records[:1], **options)


def test_conversations_of_several_turns(tokenizer):
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant", "user", "assistant")]
    before, reference = split_messages({"messages": turns})
    assert before == turns[:3] and reference == "a"
    assert Prompts(tokenizer).text({"messages": turns}).count("<|eot_id|>") == 3


@torch.no_grad()
def test_letters_are_the_most_probable_of_four(model, tokenizer, records):
    ids = [Prompts(tokenizer)(record) for record in records]
    tokens = [tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"]
    logits = torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in ids])
    expected = ["ABCD"[i] for i in logits[:, tokens].argmax(dim=1)]
    assert len(set(expected)) > 1 and not set(tokens) & set(logits.argmax(dim=1).tolist())
    assert choose_letters(model, tokenizer, records, batch_size=3, progress=False) == expected
    with pytest.raises(ValueError, match="'AB' is not a single token"):
        choose_letters(model, tokenizer, records, letters=("AB", "C"), progress=False)
    with pytest.warns(UserWarning, match="passed over"):
        found = choose_letters(model, tokenizer, records, max_prompt_tokens=1, too_long="skip", progress=False)
    assert found == [None] * 7
