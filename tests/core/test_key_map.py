"""Key maps: both directions of every rule, and what they refuse."""

import pytest
import torch

from hf_jepa.core.key_map import ConversionError, Drop, KeyMap, Rename, Split, Stack


TABLE = KeyMap(
    (
        Drop("pos_embed"),
        Rename("norm.*", "layernorm.*"),
        Split("blocks.{i}.qkv.*", ("layer.{i}.q.*", "layer.{i}.k.*", "layer.{i}.v.*")),
        Stack("mask_tokens.{i}", "embeddings.mask_tokens"),
    )
)


def official(tokens: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {"norm.bias": torch.randn(4, generator=generator)}
    state |= {f"blocks.{i}.qkv.weight": torch.randn(12, 4, generator=generator) for i in range(2)}
    order = torch.randperm(tokens, generator=generator).tolist()
    return state | {f"mask_tokens.{i}": torch.randn(1, 1, 4, generator=generator) for i in order}


@pytest.mark.parametrize("tokens", [1, 2, 12])  # of 12, the tenth sorts before the second as text
def test_numbered_tensors_are_stacked_by_number_and_taken_apart_again(tokens):
    state = official(tokens)
    ours = TABLE.to_ours(state)
    assert ours["embeddings.mask_tokens"].shape == (tokens, 1, 1, 4)
    for i in range(tokens):
        assert torch.equal(ours["embeddings.mask_tokens"][i], state[f"mask_tokens.{i}"])
    back = TABLE.to_official(ours)
    assert back.keys() == state.keys() and all(torch.equal(back[key], value) for key, value in state.items())


def test_dropped_tensors_are_named_and_have_no_way_back():
    state = official() | {"pos_embed": torch.zeros(1, 3, 4)}
    assert TABLE.dropped(state) == ["pos_embed"] and TABLE.dropped(official()) == []
    ours = TABLE.to_ours(state)
    assert ours.keys() == TABLE.to_ours(official()).keys()
    with pytest.raises(ConversionError, match="no place.*pos_embed"):
        TABLE.to_official(ours | {"pos_embed": torch.zeros(1)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_tokens.14": torch.zeros(1, 1, 4)}, "12 is missing"),
        ({"mask_tokens.5": torch.zeros(1, 1, 5)}, "differ in shape or type"),
        ({"mask_tokens.5": torch.zeros(1, 1, 4, dtype=torch.float64)}, "differ in shape or type"),
        ({"mask_tokens.a": torch.zeros(1, 1, 4)}, "no place.*mask_tokens.a"),
        ({"pos_embed.bias": torch.zeros(1)}, "no place.*pos_embed.bias"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ConversionError, match=message):
        TABLE.to_ours(official() | change)


def test_leading_zeros_do_not_hide_a_second_tensor_of_a_number():
    with pytest.raises(ConversionError, match=r"mask_tokens\.05"):
        TABLE.to_ours(official() | {"mask_tokens.05": torch.zeros(1, 1, 4)})
