"""Random numbers as a pure function of integers: no state, so no order of calls, workers or ranks can change them.

A chain of integers names a random number: `hash_integers(seed, epoch, sample, i)` is the i-th output of the splitmix64
generator whose state is the hash of `(seed, epoch, sample)`. Arrays broadcast, so a whole batch is one call.
"""

import numpy as np


_GAMMA = np.uint64(
    0x9E3779B97F4A7C15
)  # splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators")
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def _finalize(z: np.ndarray) -> np.ndarray:
    """Scramble 64 bits; a bijection, so distinct inputs never collide."""
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLIER_1
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLIER_2
    return z ^ (z >> np.uint64(31))


def hash_integers(*keys: int | np.ndarray) -> np.ndarray:
    """Hash a chain of integers to 64 random bits.

    Args:
        keys: at least one integer or integer array; arrays broadcast against each other. Order matters.

    Returns:
        uint64 array of the broadcast shape. Along the last key, equal prefixes give pairwise distinct values.

    Raises:
        TypeError: a key is not made of integers.

    Example:
        >>> import numpy as np
        >>> batch = hash_integers(0, np.array([7, 8, 9]))
        >>> bool(batch[1] == hash_integers(0, 8))
        True
    """
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        for key in keys:
            key = np.asarray(key)
            if key.dtype.kind not in "iu":
                raise TypeError(f"random numbers are named by integers, got a key of dtype {key.dtype}")
            state = _finalize(state + (key.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return state


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Uniform float64 numbers in [0, 1), one per broadcast element of the integer keys.

    Args:
        keys: as for `hash_integers`.

    Returns:
        float64 array of the broadcast shape, multiples of 2^-53.

    Example:
        >>> import numpy as np
        >>> u = uniform(0, np.arange(10_000))
        >>> bool(0.49 < u.mean() < 0.51)
        True
    """
    return (hash_integers(*keys) >> np.uint64(11)) * 2.0**-53


__all__ = ["hash_integers", "uniform"]
