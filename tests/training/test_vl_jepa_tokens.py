"""Vision tokens on disk: computed once, whole or absent, refused for another encoder or other data."""

import pytest
import torch
from torch import nn

from hf_jepa.training.vision_token_cache import (
    SHARD,
    VisionTokenCache,
    cache_vision_tokens,
    data_fingerprint,
    encoder_fingerprint,
)


class Encode:
    """Tokens that say which sample they are of; how often it was asked."""

    def __init__(self, broken: int | None = None):
        self.seen, self.broken = [], broken

    def __call__(self, indices):
        self.seen += list(indices)
        return [
            "a.mp4: damaged" if index == self.broken else torch.full((index % 3 + 1, 2), index / 7)
            for index in indices
        ]


def make(folder, encode, samples=SHARD + 5, **changed):
    settings = {"encoder": "e", "data": "d", "progress": False} | changed
    return cache_vision_tokens(folder / "tokens", samples, encode, **settings)


def test_tokens_are_computed_once_and_read_back(tmp_path):
    encode = Encode(broken=3)
    cache = make(tmp_path, encode)
    assert encode.seen == list(range(SHARD + 5)) == list(range(len(cache)))
    assert torch.equal(cache[SHARD + 2], torch.full(((SHARD + 2) % 3 + 1, 2), (SHARD + 2) / 7))
    assert cache[3] == "a.mp4: damaged"
    again = make(tmp_path, encode)
    assert len(encode.seen) == SHARD + 5 and torch.equal(again[1], cache[1])


def test_sixteen_bits_are_half_as_large(tmp_path):
    cache = make(tmp_path, Encode(), dtype="bfloat16")
    assert cache[1].dtype == torch.bfloat16
    assert torch.equal(cache[1], torch.full((2, 2), 1 / 7).bfloat16())
    with pytest.raises(ValueError, match="not as 'int8'"):
        make(tmp_path / "other", Encode(), dtype="int8")


@pytest.mark.parametrize("changed", [{"encoder": "other"}, {"data": "other"}, {"dtype": "float16"}, {"samples": 7}])
def test_tokens_of_something_else_are_refused(changed, tmp_path):
    make(tmp_path, Encode())
    (name,) = changed
    with pytest.raises(ValueError, match=rf"do not fit this run \({name} .*: take another folder"):
        make(tmp_path, Encode(), **changed)


def test_what_a_run_left_behind_is_continued(tmp_path):
    class Stops(Encode):
        def __call__(self, indices):
            if indices[0]:
                raise KeyboardInterrupt
            return super().__call__(indices)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Stops())
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == [
        "settings.json",
        "tokens-00000.safetensors",
    ]
    with pytest.raises(FileNotFoundError, match="lacks 1 of its files, such as tokens-00001"):
        VisionTokenCache(tmp_path / "tokens")
    encode = Encode()
    make(tmp_path, encode)
    assert encode.seen == list(range(SHARD, SHARD + 5))


def test_a_folder_without_tokens_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no vision tokens"):
        VisionTokenCache(tmp_path)


def test_fingerprints_see_weights_and_pixels():
    layer = nn.Linear(2, 2)
    before = encoder_fingerprint(layer)
    assert encoder_fingerprint(layer) == before != encoder_fingerprint(layer.bfloat16())
    pixels = [torch.zeros(2, 3), torch.ones(2, 3)]
    found = [
        data_fingerprint(2, pixels.__getitem__),
        data_fingerprint(2, [pixels[0], 2 * pixels[1]].__getitem__),
        data_fingerprint(2, [x.view(3, 2) for x in pixels].__getitem__),
        data_fingerprint(2, pixels[::-1].__getitem__),
        data_fingerprint(2, [pixels[0], "a.mp4: damaged"].__getitem__),
    ]
    assert len(set(found)) == len(found) and data_fingerprint(2, pixels.__getitem__) == found[0]
