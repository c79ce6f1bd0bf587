"""The small tokenizer: one BOS, signs alone, anything goes through, the same every time and after saving."""

import pytest
from transformers import AutoTokenizer

from hf_jepa.data.pair_tokenizer import train_pair_tokenizer
from hf_jepa.data.regex_pairs import regex_pairs


RECORDS = regex_pairs("train", 300)
TEXTS = [message["content"] for record in RECORDS for message in record["messages"]]


@pytest.fixture(scope="module")
def tokenizer():
    return train_pair_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def loaded(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=["trained", "loaded"])
def either(request, tokenizer, loaded):
    return tokenizer if request.param == "trained" else loaded


def test_signs_are_single_tokens(either):
    for record in RECORDS[:100]:
        tokens = either.tokenize(record["messages"][-1]["content"])
        assert all(len(token) == 1 or token.isalpha() for token in tokens)
    assert either.tokenize("([0-9]{2,}|.*fox$)?") == [*"([0-9]{2,}|.*", "fox", *"$)?"]


def test_anything_comes_back(either):
    for text in [*TEXTS[:100], "  zwei\n\tZeilen, größer €5 日本", "\0", "don't", "a  b", ""]:
        assert either.decode(either(text)["input_ids"]) == text


@pytest.mark.parametrize("turns", [slice(0, 3), slice(1, 2), slice(2, 3)])
def test_one_bos_however_it_is_tokenized(either, turns):
    messages = RECORDS[0]["messages"][turns]
    ids = either.apply_chat_template(messages, return_dict=False)
    assert ids == either(either.apply_chat_template(messages, tokenize=False))["input_ids"]
    assert ids[0] == either.bos_token_id and ids.count(either.bos_token_id) == 1
    assert ids[-1] == either.eos_token_id and ids.count(either.eos_token_id) == len(messages)
    assert either.decode(ids) == "<|begin|>" + "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def test_generation_prompt_is_the_prefix_of_the_conversation(either):
    messages = RECORDS[0]["messages"]
    prompt = either.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert either.apply_chat_template(messages, return_dict=False)[: len(prompt)] == prompt


def test_special_tokens_differ_and_are_skipped(either):
    ids = [either.bos_token_id, either.eos_token_id, either.pad_token_id]
    ids += [either.convert_tokens_to_ids(f"<|{role}|>") for role in ("system", "user", "assistant")]
    assert len(set(ids)) == 6 and None not in ids
    assert either.decode([*ids, *either("fox")["input_ids"]], skip_special_tokens=True) == "fox"


def test_same_texts_same_tokenizer(tokenizer):
    again = train_pair_tokenizer(iter(TEXTS))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_size_and_length(tokenizer):
    assert len(tokenizer) == max(tokenizer.get_vocab().values()) + 1 <= 512
    assert len(train_pair_tokenizer(TEXTS, 300)) == 300
    rows = [tokenizer.apply_chat_template(record["messages"], return_dict=False) for record in RECORDS]
    assert sum(map(len, rows)) / len(rows) < 60


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"), [(["a"], 261, "261"), ([], 512, "no text"), ([""], 512, "no")]
)
def test_refused(texts, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        train_pair_tokenizer(texts, vocab_size)
