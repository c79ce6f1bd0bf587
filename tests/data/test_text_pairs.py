"""Records of LLM-JEPA as tokens: the official runs, labels, positions, and what is refused."""

import json
import pickle
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoTokenizer

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.data.text_pairs import LlmJepaPreprocessor
from hf_jepa.data.text_tokens import add_predictor_tokens


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/llm_jepa"
FAMILIES = ("llama", "gemma")
VARIANTS = [
    (family, variant)
    for family in FAMILIES
    for variant in json.loads((GOLDEN / f"data_pipeline_{family}/config.json").read_text())["variants"]
]
# The official matcher finds no answer in rows cut inside it: all their labels are -100. Ours are what is left.
CUT = {"llama": {9, 11}, "gemma": set()}

TRIMS = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
REFUSES = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
)
DROPS_SYSTEM = TRIMS.replace("in messages", "in messages if m.role != 'system'")
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|system|>Today: {{ date_string }}{{ eos_token }}" + TRIMS
)
THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if loop.index > 1 %}<think></think>{% endif %}"
    "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def golden_tokenizer(family):
    return AutoTokenizer.from_pretrained(GOLDEN / f"data_pipeline_{family}/tokenizer")


@pytest.fixture(scope="module")
def golden():
    cases = {}
    for family in FAMILIES:
        folder = GOLDEN / f"data_pipeline_{family}"
        rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
        config = json.loads((folder / "config.json").read_text())
        cases[family] = config, rows, load_file(folder / "io.safetensors"), golden_tokenizer(family)
    return cases


def bytes_with(template=None, predictors=2):
    tokenizer = byte_tokenizer()
    add_predictor_tokens(tokenizer, predictors, plain=True)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def record(user="all names", answer="SELECT name", system=None):
    turns = [("system", system)] * (system is not None) + [("user", user), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def learnt(preprocess, pair):
    return preprocess.tokenizer.decode([label for label in pair.labels if label != -100])


def upto(preprocess, ids, index):
    return preprocess.tokenizer.decode(ids[: index + 1])


def official(golden, family, variant, **options):
    config, rows, tensors, tokenizer = golden[family]
    given = config["variants"][variant]
    preprocess = LlmJepaPreprocessor(
        tokenizer,
        given.get("predictors", 0),
        "prepend" if given.get("front_pred") else "append",
        reverse=given.get("reverse_pred", False),
        plain=given.get("plain", False),
        train_all=given.get("train_all", False),
        max_length=config["max_length"],
        fold_system=family == "gemma",
        official=True,
        **options,
    )
    return preprocess.batch(rows, range(len(rows))), tensors, config["max_length"]


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_official_rows_labels_and_positions(golden, family, variant):
    for last_token in (-1, -2, -3):
        pairs, tensors, length = official(golden, family, variant, last_token=last_token)
        for row, pair in enumerate(pairs):
            views = {"": pair.input_ids, "_user": pair.text_ids, "_assistant": pair.code_ids}
            for suffix, ids in views.items():
                if variant == "regular" and suffix:
                    continue  # the baseline has no views
                mask = tensors[f"{variant}.prepared.attention_mask{suffix}"][row]
                assert ids == tensors[f"{variant}.prepared.input_ids{suffix}"][row][mask.bool()].tolist()
                index = {"": len(ids) + last_token, "_user": pair.text_index, "_assistant": pair.code_index}[suffix]
                assert index == tensors[f"{variant}.last_token_index{suffix}.{last_token}"][row]
            padding = [-100] * (length - len(pair.labels))
            assert pair.labels + padding == tensors[f"{variant}.collated.labels"][row].tolist()


@pytest.mark.parametrize("family, variant", VARIANTS)
def test_labels_that_the_official_code_prepares(golden, family, variant):
    train_all = variant.startswith("plain_train_all")
    pairs, tensors, _ = official(
        golden, family, variant, last_token=-1, label_mode="assistant_eot" if train_all else "assistant"
    )
    for row, pair in enumerate(pairs):
        expected = tensors[f"{variant}.prepared.labels"][row][: len(pair.labels)].tolist()
        if train_all:
            expected[0] = -100  # the first token of a row, which no shifted label can be
        if row in CUT[family] and "plain" not in variant:
            assert len(pair.labels) == len(tensors[f"{variant}.prepared.labels"][row])  # it is cut
            assert set(expected) == {-100} and pair.labels[-1] == pair.input_ids[-1]
        else:
            assert pair.labels == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_one_bos_and_last_content(golden, family):
    config, rows, _, tokenizer = golden[family]
    preprocess = LlmJepaPreprocessor(tokenizer, 2, fold_system=family == "gemma")
    for row in rows:
        pair = preprocess(row)
        user, answer = (message["content"] for message in row["messages"][-2:])
        for ids in (pair.input_ids, pair.text_ids, pair.code_ids):
            assert ids.count(tokenizer.bos_token_id) == 1
        end = "<|eot_id|>" if family == "llama" else "<end_of_turn>"
        assert learnt(preprocess, pair) == answer + end
        assert upto(preprocess, pair.text_ids, pair.text_index).endswith(f"{user}<|predictor_2|><|predictor_1|>")
        assert upto(preprocess, pair.code_ids, pair.code_index).endswith(answer)
        assert upto(preprocess, pair.input_ids, pair.text_end).endswith(user)
        assert pair.text_ids[pair.text_index] == tokenizer.convert_tokens_to_ids("<|predictor_1|>")
        assert tuple(pair.text_ids[pair.text_index - 1 : pair.text_index + 1]) == pair.predictor_ids
        assert not set(pair.predictor_ids) & set(pair.input_ids + pair.code_ids)


def random_content(rng):
    letters = "ab Good.*\n\t\\([])漢é😀{%}'  "
    return "x" + "".join(rng.choice(letters) for _ in range(rng.randrange(20))) + "x"


@pytest.mark.parametrize("template", ["llama", "gemma", None, TRIMS, REFUSES, DATED])
def test_labels_decode_to_the_answer_and_its_end(golden, template):
    tokenizer = golden[template][3] if template in FAMILIES else bytes_with(template)
    preprocess = LlmJepaPreprocessor(tokenizer, 2)
    content_only = LlmJepaPreprocessor(tokenizer, 2, label_mode="assistant")
    end = {"llama": "<|eot_id|>", "gemma": "<end_of_turn>"}.get(template, "</s>")
    rng = random.Random(0)
    for _ in range(200):
        answer = random_content(rng)
        system = rng.choice([None, "Answer Good", answer])
        item = record(rng.choice([answer, f"Good {answer} Good", random_content(rng)]), answer, system)
        pair, bare = preprocess(item), content_only(item)
        assert learnt(preprocess, pair) == answer + end
        assert learnt(content_only, bare) == answer
        first = next(i for i, label in enumerate(pair.labels) if label != -100)
        assert first > pair.text_end  # the answer itself, not a place before that reads the same
        assert upto(preprocess, pair.input_ids, pair.text_end).endswith(item["messages"][-2]["content"])


def test_template_that_trims():
    preprocess = LlmJepaPreprocessor(bytes_with(TRIMS), 1)
    pair = preprocess(record("  q  ", "\n a \n"))
    assert learnt(preprocess, pair) == "a</s>"
    assert upto(preprocess, pair.input_ids, pair.text_end) == "<s>[user] q"
    assert upto(preprocess, pair.code_ids, pair.code_index) == "<s>[assistant] a"


@pytest.mark.parametrize("template", [REFUSES, DROPS_SYSTEM])
def test_template_without_a_system_role(template):
    preprocess = LlmJepaPreprocessor(bytes_with(template), 1)
    pair = preprocess(record("q", "a", "be brief"))
    assert "be brief\n\nq</s>" in preprocess.tokenizer.decode(pair.input_ids)
    assert upto(preprocess, pair.input_ids, pair.text_end).endswith("be brief\n\nq")
    assert "brief" not in preprocess.tokenizer.decode(pair.text_ids)
    with pytest.raises(ValueError, match="fold_system cannot be False"):
        LlmJepaPreprocessor(bytes_with(template), 1, fold_system=False)


def test_assistant_first_refused_becomes_user():
    preprocess = LlmJepaPreprocessor(bytes_with(REFUSES), 1)
    assert preprocess.tokenizer.decode(preprocess(record()).code_ids) == "<s><|user|>user\nSELECT name</s>\n"
    kept = LlmJepaPreprocessor(bytes_with(TRIMS), 1)
    assert "[assistant]" in kept.tokenizer.decode(kept(record()).code_ids)


def test_date_is_pinned():
    pair = LlmJepaPreprocessor(bytes_with(DATED), 1)(record())
    assert "Today: 26 Jul 2024</s>" in byte_text(pair.text_ids)
    assert "Today: 1 May 1999</s>" in byte_text(
        LlmJepaPreprocessor(bytes_with(DATED), 1, date_string="1 May 1999")(record()).code_ids
    )
    unpinned = "{{ strftime_now('%Y') }}" + TRIMS
    with pytest.raises(ValueError, match="date of today.*date_string=None"):
        LlmJepaPreprocessor(bytes_with(unpinned), 1)
    assert LlmJepaPreprocessor(bytes_with(unpinned), 1, date_string=None)(record()).labels


def byte_text(ids):
    return bytes_with().decode(ids)


def test_what_stands_before_the_answer_is_learnt_if_the_model_writes_it():
    preprocess = LlmJepaPreprocessor(bytes_with(THINKS), 1)
    assert learnt(preprocess, preprocess(record("q", "a"))) == "<think></think>a</s>"
    only = LlmJepaPreprocessor(bytes_with(THINKS), 1, label_mode="assistant")
    assert learnt(only, only(record("q", "a"))) == "a"
    with pytest.raises(ValueError, match="row 4: the chat template does not leave the contents"):
        preprocess(record("q", "<think>why</think>a"), 4)


def test_predictor_positions_and_reverse():
    for options, text in (
        ({}, "<s><|user|>q<|predictor_2|><|predictor_1|>"),
        ({"predictor_position": "prepend"}, "<s><|user|><|predictor_1|><|predictor_2|>q"),
        ({"reverse": True}, "<s><|assistant|>a<|predictor_2|><|predictor_1|>"),
    ):
        preprocess = LlmJepaPreprocessor(bytes_with(), 2, **options)
        pair = preprocess(record("q", "a"))
        assert upto(preprocess, pair.text_ids, pair.text_index) == text
        assert preprocess.tokenizer.decode(pair.input_ids) == "<s><|user|>q</s><|assistant|>a</s>"
        reverse = options.get("reverse")
        assert upto(preprocess, pair.input_ids, pair.text_end) == "<s><|user|>q" + "</s><|assistant|>a" * bool(reverse)
        assert upto(preprocess, pair.code_ids, pair.code_index) == ("<s><|user|>q" if reverse else "<s><|assistant|>a")


def test_last_token_counts_from_the_end():
    pair = LlmJepaPreprocessor(bytes_with(), 1, last_token=-1)(record())
    assert (pair.text_index, pair.code_index) == (len(pair.text_ids) - 1, len(pair.code_ids) - 1)
    with pytest.raises(ValueError, match="this record: the Code view has 4 tokens, so last_token=-5"):
        LlmJepaPreprocessor(bytes_with(), 1, last_token=-5)(record("q", "a"))


def test_views_of_their_own():
    preprocess = LlmJepaPreprocessor(bytes_with(), 1)
    item = record("He sat.\nA) here", "A") | {
        "text": [{"role": "user", "content": "He sat."}],
        "code": [{"role": "assistant", "content": "here"}],
    }
    pair = preprocess(item)
    assert upto(preprocess, pair.text_ids, pair.text_index) == "<s><|user|>He sat.<|predictor_1|>"
    assert upto(preprocess, pair.code_ids, pair.code_index) == "<s><|assistant|>here"
    assert upto(preprocess, pair.input_ids, pair.text_end) == "<s><|user|>He sat."
    assert learnt(preprocess, pair) == "A</s>"
    assert preprocess(record() | {"text": None, "code": None}) == preprocess(record())
    with pytest.raises(ValueError, match="row 1: the messages in 'text' are one view, the other is missing"):
        preprocess(item | {"code": None}, 1)
    with pytest.raises(ValueError, match="'code' must hold one user or assistant message"):
        preprocess(item | {"code": []})


def test_views_of_their_own_with_a_folded_system_prompt():
    preprocess = LlmJepaPreprocessor(bytes_with(REFUSES), 1)
    item = record("He sat.\nA) here", "A", "Choose.") | {
        "text": [{"role": "user", "content": "He sat."}],
        "code": [{"role": "assistant", "content": "here"}],
    }
    pair = preprocess(item)
    assert upto(preprocess, pair.input_ids, pair.text_end) == "<s><|user|>user\nChoose.\n\nHe sat."


def test_what_is_no_view_or_system_prompt():
    preprocess = LlmJepaPreprocessor(bytes_with(), 1)
    assert preprocess(record() | {"text": "a column of something else"}) == preprocess(record())
    assert preprocess(record(system="")) == preprocess(record())


def test_official_labels_leave_out_the_padding_token():
    tokenizer = bytes_with()
    preprocess = LlmJepaPreprocessor(tokenizer, 1, label_mode="official")
    assert learnt(preprocess, preprocess(record("q", "a"))) == "<s><|user|>q</s><|assistant|>a</s>"
    tokenizer.pad_token = None
    assert learnt(preprocess, preprocess(record("q", "a"))) == "<s><|user|>q<|assistant|>a"


def test_two_columns_equal_messages():
    tokenizer = bytes_with()
    columns = LlmJepaPreprocessor(tokenizer, 1, text_column="q", code_column="a", system_prompt="Be brief.")
    pair = columns({"q": "all names", "a": "SELECT name", "messages": None})
    assert pair == LlmJepaPreprocessor(tokenizer, 1)(record(system="Be brief."))
    with pytest.raises(ValueError, match=r"row 3: there is no column 'a' among \['q'\]"):
        columns({"q": "all names"}, 3)
    with pytest.raises(ValueError, match="row 0: column 'a' must be text, got 7"):
        columns({"q": "all names", "a": 7}, 0)
    with pytest.raises(ValueError, match="row 0: column 'a' is empty"):
        columns({"q": "all names", "a": " \n"}, 0)


def test_plain_format():
    preprocess = LlmJepaPreprocessor(bytes_with(), 1, plain=True)
    pair = preprocess(record("q", "a", "left out"))
    assert preprocess.tokenizer.decode(pair.input_ids) == "q<|perception|>a</s>"
    assert preprocess.tokenizer.decode(pair.text_ids) == "q<|predictor_1|>"
    assert preprocess.tokenizer.decode(pair.code_ids) == "a"
    assert (learnt(preprocess, pair), pair.text_index, pair.code_index, pair.text_end) == ("a</s>", 1, 0, 0)
    everything = LlmJepaPreprocessor(bytes_with(), 1, plain=True, train_all=True)
    assert learnt(everything, everything(record("q", "a"))) == "q</s>"


def test_plain_format_begins_as_the_tokenizer_begins_texts(golden):
    tokenizer = golden["llama"][3]
    pair = LlmJepaPreprocessor(tokenizer, 1, plain=True)(record())
    for ids in (pair.input_ids, pair.text_ids, pair.code_ids):
        assert ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id not in ids[1:]


def test_content_that_the_tokenizer_removes():
    from tokenizers import normalizers

    tokenizer = bytes_with()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("a", "")
    with pytest.raises(ValueError, match="row 1: the tokenizer leaves nothing of the content of the Code view"):
        LlmJepaPreprocessor(tokenizer, 1)(record("q", "a"), 1)
    own = record("q", "a") | {"text": record("q")["messages"][:1], "code": record("q", "b")["messages"][1:]}
    with pytest.raises(ValueError, match="row 1: the answer has no token to learn"):
        LlmJepaPreprocessor(tokenizer, 1, label_mode="assistant")(own, 1)


def test_template_that_says_more_about_some_contents():
    preprocess = LlmJepaPreprocessor(bytes_with(TRIMS + "{% if 'z' in messages[-1].content %}!{% endif %}"), 1)
    assert preprocess(record("q", "a"))
    with pytest.raises(ValueError, match="does not leave the contents as they are"):
        preprocess(record("q", "z"))


def test_markup_that_is_no_special_token():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<turn>", "<table>"])
    tokenizer.chat_template = TRIMS.replace("[", "<turn>[")
    preprocess = LlmJepaPreprocessor(tokenizer, 0)
    assert preprocess(record("a <table>"))
    with pytest.raises(ValueError, match="a content holds '<turn>'"):
        preprocess(record("a <turn>"))


def test_too_long():
    tokenizer = bytes_with()
    item = record("q", "long answer")  # LM row 17, Text view 5, Code view 14
    with pytest.raises(ValueError, match="row 9: its LM row has 17 tokens, more than max_length=16"):
        LlmJepaPreprocessor(tokenizer, 1, max_length=16)(item, 9)
    assert LlmJepaPreprocessor(tokenizer, 1, max_length=16, on_truncation="skip")(item) is None
    cut = LlmJepaPreprocessor(tokenizer, 1, max_length=15, on_truncation="truncate")
    pair = cut(item)
    assert learnt(cut, pair) == "long answe" and len(pair.input_ids) == len(pair.labels) == 15
    whole = LlmJepaPreprocessor(tokenizer, 1, max_length=17)(item)
    assert whole.labels[-1] == tokenizer.eos_token_id
    with pytest.raises(ValueError, match="row 2: cut at max_length=12 it would lose the embedding token"):
        LlmJepaPreprocessor(tokenizer, 1, max_length=12, on_truncation="truncate")(item, 2)
    with pytest.raises(ValueError, match="row 2: cut at max_length=10 nothing of its answer is left"):
        LlmJepaPreprocessor(tokenizer, 0, max_length=10, on_truncation="truncate")(record("question", "a"), 2)
    with pytest.raises(ValueError, match="would lose the embedding token of a view .Text 11"):  # the predictor token
        LlmJepaPreprocessor(tokenizer, 2, max_length=11, on_truncation="truncate")(record("question", "a"), 2)


@pytest.mark.parametrize(
    "item, problem",
    [
        ({"prompt": "q"}, r"there is no column 'messages' among \['prompt'\]"),
        ({"messages": "q"}, "must be a list of messages"),
        ({"messages": []}, r"here are the turns \(none\)"),
        ({"messages": [{"role": "user"}]}, "message 0 of 'messages' needs role and content"),
        ({"messages": [{"role": "user", "content": "q"}]}, "here are the turns user"),
        ({"messages": record()["messages"] * 2}, "turns user, assistant, user, assistant"),
        ({"messages": record()["messages"][::-1]}, "turns assistant, user"),
        (record(answer=""), "the assistant turn of 'messages' is empty"),
        (record(user=" \n "), "the user turn of 'messages' is empty"),
        (record(answer=None), "the assistant turn of 'messages' must be text, got None"),
        (record(user="a <|predictor_1|>"), "a content holds '<|predictor_1|>'"),
        (record(user="a <|predictor_2|>"), "a content holds '<|predictor_2|>'"),  # which this view does not use
        (record(answer="a</s>b"), "a content holds '</s>'"),
        (record(system="<|assistant|>"), "a content holds '<|assistant|>'"),
    ],
)
def test_records_refused(item, problem):
    preprocess = LlmJepaPreprocessor(bytes_with(), 1)
    with pytest.raises(ValueError, match="row 17: .*" + problem.replace("|", r"\|")):
        preprocess(item, 17)
    with pytest.raises(ValueError, match="row 6: "):
        preprocess.batch([record(), item], [5, 6])


def test_official_mode_lets_special_tokens_in():
    preprocess = LlmJepaPreprocessor(bytes_with(), 1, official=True, last_token=-2)
    assert preprocess(record(user="a <|predictor_1|>")).text_ids.count(preprocess.predictor_ids[0]) == 2


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"num_predictor_tokens": 3}, r"lacks <\|predictor_3\|>: call add_predictor_tokens\(tokenizer"),
        ({"num_predictor_tokens": -1}, "must be an integer from 0, got -1"),
        ({"predictor_position": "middle"}, "'append' or 'prepend', got 'middle'"),
        ({"label_mode": "all"}, "label_mode must be one of"),
        ({"on_truncation": "cut"}, "on_truncation must be one of"),
        ({"last_token": 0}, "counts from the end"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"official": True}, "needs last_token"),
        ({"text_column": "q"}, "two columns need both"),
        ({"system_prompt": "q"}, "goes with text_column"),
        ({"train_all": True}, "pass plain=True"),
        ({"train_all": True, "plain": True, "reverse": True}, "swap the two"),
        ({"plain": True, "official": True, "last_token": -1}, r"lacks <\|eot_id\|>"),
    ],
)
def test_options_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        LlmJepaPreprocessor(bytes_with(), **options)


def test_tokenizers_refused():
    with pytest.raises(ValueError, match="no chat template"):
        LlmJepaPreprocessor(bytes_with(""), 1)
    with pytest.raises(ValueError, match="cannot render a user and an assistant turn: of the turns"):
        LlmJepaPreprocessor(bytes_with("{{ messages[0].content }}"), 1)
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(ValueError, match="no token behind the answer"):
        LlmJepaPreprocessor(bytes_with(endless), 1)
    content_only = LlmJepaPreprocessor(bytes_with(endless), 1, label_mode="assistant")
    assert learnt(content_only, content_only(record("q", "a"))) == "a"

    class Slow:
        is_fast = False

    with pytest.raises(TypeError, match="Slow does not say which characters"):
        LlmJepaPreprocessor(Slow(), 1)
    tokenizer = bytes_with()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token, and it has none"):
        LlmJepaPreprocessor(tokenizer, 1, plain=True)


def test_adding_predictor_tokens_never_shrinks():
    tokenizer = golden_tokenizer("llama")
    size = len(tokenizer)
    assert add_predictor_tokens(tokenizer, 4) == 0 and len(tokenizer) == size  # it has ten
    assert add_predictor_tokens(tokenizer, 12, plain=True) == 2 and len(tokenizer) == size + 2
    assert tokenizer.decode(tokenizer("a<|predictor_12|>")["input_ids"], skip_special_tokens=True) == "a"
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|predictor_1|>", lstrip=True)])
    assert add_predictor_tokens(tokenizer, 1) == 0
    assert tokenizer.added_tokens_decoder[len(tokenizer) - 1].lstrip  # as it was


def test_predictor_tokens_that_fall_into_pieces():
    tokenizer = bytes_with()
    preprocess = LlmJepaPreprocessor(tokenizer, 1)
    tokenizer.split_special_tokens = True
    with pytest.raises(ValueError, match="row 3: the Text view has the tokens .* where predictor tokens"):
        preprocess(record(), 3)


def test_pickles():
    preprocess = LlmJepaPreprocessor(bytes_with(DATED), 1)
    assert pickle.loads(pickle.dumps(preprocess))(record()) == preprocess(record())
