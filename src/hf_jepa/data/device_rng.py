"""Random numbers named by integers, drawn where the pixels are: `hf_jepa.masking.counter_rng` in tensors, bit for bit.

Augmentations of a batch run on its device, where its sample indices are too; reading those back to draw on the host
would make the host wait for the device at every step. No state, so batch size, workers, ranks and resuming change
nothing.
"""

import torch


def _signed(bits: int) -> int:
    """The int64 of the same 64 bits: PyTorch has no arithmetic on uint64."""
    bits &= 2**64 - 1
    return bits - 2**64 if bits >= 2**63 else bits


# splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators")
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)


def _xor_shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    return z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))  # the mask undoes the copies of the sign bit


def hash_integers(*keys: int | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Hash a chain of integers to 64 random bits.

    Args:
        keys: at least one integer or int64 tensor; tensors broadcast against each other. Order matters.
        device: of the result and of all tensors among the keys.

    Returns:
        int64 tensor of the broadcast shape, whose bits are those of `counter_rng.hash_integers`.

    Raises:
        TypeError: a tensor that is not of int64.

    Example:
        >>> batch = hash_integers(0, torch.tensor([7, 8, 9]))
        >>> bool(batch[1] == hash_integers(0, 8))
        True
    """
    state = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        if isinstance(key, torch.Tensor):
            if key.dtype != torch.int64:
                raise TypeError(f"random numbers are named by integers, got a key of dtype {key.dtype}")
            state = state + (key + 1) * _signed(_GAMMA)
        else:
            state = state + _signed((key + 1) * _GAMMA)
        state = _xor_shifted(state, 30) * _MULTIPLIER_1
        state = _xor_shifted(state, 27) * _MULTIPLIER_2
        state = _xor_shifted(state, 31)
    return state


def uniform(*keys: int | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Uniform float32 numbers in [0, 1), one per broadcast element of the integer keys.

    Args:
        keys, device: as for `hash_integers`.

    Returns:
        float32 tensor of the broadcast shape, multiples of 2^-24: the same on every device.

    Example:
        >>> u = uniform(0, torch.arange(10_000))
        >>> bool(0.49 < u.mean() < 0.51)
        True
    """
    return ((hash_integers(*keys, device=device) >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


__all__ = ["hash_integers", "uniform"]
