"""The counter-based random numbers: pure functions of integers, uniform, independent along every key."""

import numpy as np
import pytest

from hf_jepa.masking.counter_rng import hash_integers, uniform


def test_first_outputs_are_those_of_splitmix64():
    # published test vector: the generator started at state 0
    outputs = hash_integers(np.arange(3))
    assert outputs.tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_equals_itself_alone_in_a_batch_and_in_any_order():
    keys = np.array([5, 0, 12, 7])
    batch = hash_integers(3, 1, keys)
    assert batch.tolist() == [int(hash_integers(3, 1, int(key))) for key in keys]
    assert hash_integers(3, 1, keys[::-1]).tolist() == batch[::-1].tolist()


def test_every_key_matters_and_so_does_their_order():
    values = {int(hash_integers(*keys)) for keys in [(0, 1), (1, 0), (0, 0), (1, 1), (0,), (1,), (0, 0, 0), (-1,)]}
    assert len(values) == 8


def test_uniform_numbers_fill_the_unit_interval_evenly():
    u = uniform(0, np.arange(100_000))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    chi_square = ((counts - 1000) ** 2 / 1000).sum()  # 99 degrees of freedom: mean 99, deviation 14
    assert 50 < chi_square < 160


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbouring_keys_are_uncorrelated(axis):
    seeds, epochs, samples = np.arange(30)[:, None, None], np.arange(30)[:, None], np.arange(100)
    u = uniform(seeds, epochs, samples)  # (30, 30, 100)
    first, second = np.delete(u, -1, axis).ravel(), np.delete(u, 0, axis).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(first.size)


def test_each_bit_is_a_fair_coin():
    bits = np.unpackbits(hash_integers(9, np.arange(20_000)).view(np.uint8)).reshape(20_000, 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(20_000)


def test_refuses_keys_that_are_not_integers():
    with pytest.raises(TypeError, match="float64"):
        hash_integers(0, np.array([0.5]))
