"""Every sequence of every pair can be found again in every layout, where the indices say."""

import random
from dataclasses import asdict, replace

import pytest
import torch

from hf_jepa.data.text_layouts import LAYOUTS, PACKINGS, LlmJepaDataCollator, lay_out
from hf_jepa.data.text_pairs import TextPair
from hf_jepa.models.llm_jepa import configuration_llm_jepa


IGNORED, PAD, PREDICTORS = -100, 0, (901, 902)
WAYS = [("packed", {"packing": packing}) for packing in PACKINGS] + [
    ("three_pass", {"padding_side": side}) for side in ("right", "left")
]
WAYS += [("additive_mask", {}), ("fused", {})]


def random_pairs(seed: int, count: int | None = None) -> list[TextPair]:
    """No token occurs twice, so that a sequence is found where it is and nowhere else."""
    draw = random.Random(seed)
    fresh = iter(range(1, 900))

    def tokens(low: int, high: int) -> list[int]:
        return [next(fresh) for _ in range(draw.randint(low, high))]

    pairs = []
    for _ in range(count or draw.randint(1, 6)):
        ids, text, code = tokens(2, 12), tokens(1, 9), tokens(1, 12)
        end = draw.randrange(len(ids) - 1)
        labels = [token if draw.random() < 0.5 or i == end + 1 else IGNORED for i, token in enumerate(ids)]
        predictors = PREDICTORS[: draw.randint(0, 2)]
        view = [*text, *predictors]
        behind = tokens(0, 3)
        pairs.append(
            TextPair(ids, labels, view + behind, len(view) - 1, code, draw.randrange(len(code)), end, predictors)
        )
    return pairs


def seen_by(batch: dict, layout: str, row: int, place: int) -> list[int]:
    """The tokens that a token sees, itself last, told from what the model is given."""
    ids, length = batch["input_ids"][row].tolist(), batch["input_ids"].shape[1]
    mask = batch.get("attention_mask")
    if mask is None:  # as transformers tells sequences apart
        positions = batch["position_ids"][row].tolist()
        starts = [0] + [i for i in range(1, length) if positions[i] != positions[i - 1] + 1]
        return ids[max(start for start in starts if start <= place) : place + 1]
    if mask.ndim == 2:
        return [token for token, used in zip(ids[: place + 1], mask[row], strict=False) if used]
    return [ids[other] for other in mask[row, 0, place].nonzero().squeeze(1).tolist()]


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize(("layout", "options"), WAYS)
def test_every_sequence_is_found_again(layout, options, seed):
    pairs = random_pairs(seed)
    batch = lay_out(pairs, layout, pad_token_id=PAD, **options)
    length, flat = batch["input_ids"].shape[1], batch["input_ids"].flatten().tolist()

    def sees(place: int) -> list[int]:
        return seen_by(batch, layout, *divmod(place, length))

    for pair, text, code in zip(pairs, batch["text_index"].tolist(), batch["code_index"].tolist(), strict=True):
        view = pair.text_ids[: pair.text_index + 1]
        if layout == "fused":
            view = [*pair.input_ids[: pair.text_end + 1], *pair.predictor_ids]
        assert sees(text) == view
        assert sees(code) == pair.code_ids[: pair.code_index + 1]
        for i, token in enumerate(pair.input_ids):
            assert sees(flat.index(token)) == pair.input_ids[: i + 1]
    for place in [place for place, token in enumerate(flat) if token == PAD and layout == "packed"]:
        assert set(sees(place)) == {PAD}  # empty places are a sequence of their own
    # Every label but those of first tokens is learnt, where the token is, and nothing else is.
    learnt = [label for pair in pairs for label in pair.labels[1:] if label != IGNORED]
    places, labels = batch["label_index"], batch["labels"].flatten()
    assert sorted(labels[places].tolist()) == sorted(learnt) == sorted(labels[labels != IGNORED].tolist())
    assert torch.equal(labels[places], batch["input_ids"].flatten()[places])
    assert (places % length > 0).all()
    for place in places.tolist():  # what precedes a label predicts it
        assert len(sees(place)) > 1 and sees(place - 1) == sees(place)[:-1]
    assert all(values.dtype == torch.int64 for name, values in batch.items() if name != "attention_mask")


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize(("layout", "options"), WAYS)
def test_positions_count_the_tokens_of_a_sequence(layout, options, seed):
    pairs = random_pairs(seed)
    batch = lay_out(pairs, layout, pad_token_id=PAD, **options)
    if layout == "additive_mask":  # those of Code go on after Text
        assert "position_ids" not in batch
        return
    ids, positions = batch["input_ids"].flatten().tolist(), batch["position_ids"].flatten()
    for pair in pairs:
        code = pair.code_ids[: pair.code_index + 1]
        assert [positions[ids.index(token)].item() for token in pair.input_ids] == list(range(len(pair.input_ids)))
        assert [positions[ids.index(token)].item() for token in code] == list(range(len(code)))
    ends = positions[batch["text_index"]].tolist()
    if layout == "fused":
        assert ends == [pair.text_end + len(pair.predictor_ids) for pair in pairs]
    else:
        assert ends == [pair.text_index for pair in pairs]
    assert batch["position_ids"].min() >= 0 and batch["position_ids"].max() < batch["input_ids"].shape[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_longer_rows_change_nothing_but_the_padding(layout):
    pairs = random_pairs(3)
    batch = lay_out(pairs, layout, pad_token_id=PAD)
    length = batch["input_ids"].shape[1]
    longer = lay_out(pairs, layout, pad_token_id=PAD, length=length + 5)
    assert torch.equal(longer["input_ids"][:, :length], batch["input_ids"])
    assert (longer["input_ids"][:, length:] == PAD).all() and (longer["labels"][:, length:] == IGNORED).all()
    for name in ("text_index", "code_index", "label_index"):
        row, place = batch[name] // length, batch[name] % length
        assert torch.equal(longer[name], row * (length + 5) + place)
    if longer.get("attention_mask", torch.ones(1)).ndim == 4:
        mask = longer["attention_mask"]
        assert mask.dtype == torch.bool and mask.diagonal(dim1=-2, dim2=-1).all()  # attention to nothing is NaN
        assert not mask[:, :, :length, length:].any()
        assert mask[:, :, length:].sum() == 5 * len(mask)
    with pytest.raises(ValueError, match=f"a row has {length} tokens, more than length={length - 1}"):
        lay_out(pairs, layout, length=length - 1)


def test_balanced_rows_hold_hardly_any_padding():
    draw = random.Random(0)
    pairs = []
    for _ in range(16):
        sizes = [draw.randint(20, 120), draw.randint(10, 60), draw.randint(5, 60)]
        ids, text, code = ([5] * size for size in sizes)
        pairs.append(TextPair(ids, ids, text, len(text) - 1, code, len(code) - 1, 3))
    used = sum(len(pair.input_ids) + len(pair.text_ids) + len(pair.code_ids) for pair in pairs)
    slots = {
        name: lay_out(pairs, layout, packing)["input_ids"].numel()
        for name, layout, packing in [(p, "packed", p) for p in PACKINGS] + [("three_pass", "three_pass", "pairs")]
    }
    assert slots["single"] == used <= slots["balanced"] < 1.06 * used
    assert slots["balanced"] < 0.85 * slots["pairs"] and slots["pairs"] < 0.8 * slots["three_pass"]


def test_the_official_cut_of_the_rows():
    pair = TextPair([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [6, 7, 8, 9], 1, [10, 11], 0, 1)
    batch = lay_out([pair], "additive_mask", last_token=-2)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, 10, 9, 0]]
    assert seen_by(batch, "additive_mask", 0, 3) == [1, 2, 3, 4]
    assert seen_by(batch, "additive_mask", 0, 4) == [5] and seen_by(batch, "additive_mask", 1, 3) == [9]


def test_the_language_model_alone():
    pairs = random_pairs(1, count=4)
    tokens = sum(len(pair.input_ids) for pair in pairs)
    learnt = sorted(label for pair in pairs for label in pair.labels[1:] if label >= 0)
    for layout in LAYOUTS:
        for packing in PACKINGS:
            batch = lay_out(pairs, layout, packing, pad_token_id=PAD, views=False)
            assert not {"text_index", "code_index"} & set(batch)
            assert batch["labels"].flatten()[batch["label_index"]].sort().values.tolist() == learnt
            assert (batch["input_ids"] != PAD).sum() == tokens
            if layout == "packed":
                assert "attention_mask" not in batch and (batch["position_ids"] == 0).sum() >= 4
                longest = max(len(pair.input_ids) for pair in pairs)
                assert packing != "balanced" or longest <= batch["input_ids"].shape[1] < 2 * longest
                assert packing == "pairs" or batch["input_ids"].numel() < 4 * longest
            else:
                assert len(batch["input_ids"]) == 4 and batch["attention_mask"].sum() == tokens


def test_the_config_offers_the_layouts_that_there_are():  # data and models import nothing of each other
    assert configuration_llm_jepa.LAYOUTS == LAYOUTS


def test_wrong_arguments_are_named():
    pairs = random_pairs(0)
    for options, message in (
        ({"layout": "varlen"}, "layout 'varlen' is not one of packed, three_pass, additive_mask, fused"),
        ({"packing": "dense"}, "packing 'dense' is not one of balanced, pairs, single"),
        ({"padding_side": "top"}, "padding_side 'top' is neither"),
    ):
        with pytest.raises(ValueError, match=message):
            lay_out(pairs, **options)
    with pytest.raises(ValueError, match="a batch without pairs"):
        lay_out([])
    pair = TextPair([1, 2, 3], [1, 2, 3], [901, 5, 6], 2, [7], 0, 1, (901,))
    with pytest.raises(ValueError, match="not the last of the Text view"):
        lay_out([pair], "fused")


# --- the collator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_collator_lays_out(layout):
    pairs = random_pairs(2, count=3)
    collator = LlmJepaDataCollator(PAD, layout, pad_to_multiple_of=8, with_lm_only=True)
    batch = collator(pairs)
    alone = batch.pop("lm_only")
    length = batch["input_ids"].shape[1]
    shortest = lay_out(pairs, layout, "balanced", pad_token_id=PAD)["input_ids"].shape[1]
    assert length % 8 == 0 and 0 <= length - shortest < 8 and alone["input_ids"].shape[1] % 8 == 0
    expected = lay_out(pairs, layout, "balanced", pad_token_id=PAD, length=length)
    assert batch.keys() == expected.keys() and all(torch.equal(batch[name], expected[name]) for name in batch)
    expected = lay_out(pairs, layout, "balanced", pad_token_id=PAD, length=alone["input_ids"].shape[1], views=False)
    assert alone.keys() == expected.keys() and all(torch.equal(alone[name], expected[name]) for name in alone)


def test_the_collator_takes_records_and_prepared_pairs():
    pairs = random_pairs(2, count=2)
    collator = LlmJepaDataCollator(PAD)
    expected = collator(pairs)
    prepared = [asdict(pair) | {"predictor_ids": list(pair.predictor_ids), "length": 3} for pair in pairs]
    records = [{"messages": number} for number in range(2)]
    preprocessing = LlmJepaDataCollator(PAD, preprocessor=lambda record: pairs[record["messages"]])
    for found in (collator(prepared), preprocessing(records)):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="an example of type dict is no TextPair"):
        collator(records)


def test_pairs_are_left_as_they_are():
    pairs = random_pairs(2)
    before = [asdict(pair) for pair in pairs]
    for layout, options in WAYS:
        lay_out(pairs, layout, **options)
    assert [asdict(pair) for pair in pairs] == before and replace(pairs[0]) == pairs[0]
