"""Linear layers by oneDNN, for CPUs on which PyTorch takes slower kernels for float32.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on AMD processors; oneDNN, which is part of
PyTorch too, uses it there and is about twice as fast. On Intel's MKL is the faster one. Results differ in the last
digits, so this is a choice.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class OneDnnLinear(nn.Linear):
    """`nn.Linear` whose three products (output, input gradient, weight gradient) are oneDNN's for float32 on a CPU.

    In every other case (another device or type, autocast, compilation, tracing, sharded weights) it is `nn.Linear`.
    Its gradient cannot be differentiated again, as a gradient penalty would: leave it off there.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self._applies(input):
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)

    def _applies(self, input: torch.Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and input.device.type == self.weight.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and type(self.weight) is nn.Parameter
            and input.ndim > 1
            and input.numel() > 0
            and not torch.is_autocast_enabled("cpu")
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)  # (R, O)
        for_x = _multiply(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        for_weight = for_bias = None
        if ctx.needs_input_grad[1]:  # oneDNN wants both factors with the summed dimension last
            for_weight = _multiply(rows.t().contiguous(), x.flatten(0, -2).t().contiguous())
        if ctx.needs_input_grad[2]:
            for_bias = rows.sum(dim=0)
        return for_x, for_weight, for_bias


def _multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O)"""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def use_onednn(model: nn.Module) -> nn.Module:
    """Let all `nn.Linear` of a model compute by oneDNN on the CPU; weights, names and checkpoints stay as they are.

    Args:
        model: any model, also of transformers; changed in place.

    Returns:
        the model.

    Raises:
        RuntimeError: this build of PyTorch has no oneDNN.

    Example:
        >>> import torch
        >>> model = use_onednn(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.GELU()))
        >>> model(torch.randn(2, 8)).shape
        torch.Size([2, 4])
    """
    if not onednn_is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} has no oneDNN linear layers here: leave `onednn` off")
    for module in _linear_layers(model):
        module.__class__ = OneDnnLinear
    return model


@contextmanager
def using_onednn(model: nn.Module) -> Iterator[None]:
    """`use_onednn` for the length of a block; afterwards the layers are again what they were.

    Example:
        >>> layer = torch.nn.Linear(8, 4)
        >>> with using_onednn(layer):
        ...     type(layer).__name__
        'OneDnnLinear'
        >>> type(layer).__name__
        'Linear'
    """
    layers = _linear_layers(model)
    use_onednn(model)
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def onednn_is_available() -> bool:
    """Does this build of PyTorch have the linear layers of oneDNN?"""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_pays_off() -> bool:
    """Is it also likely to be faster: has this CPU AVX-512, which MKL leaves unused unless the CPU is Intel's?"""
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return onednn_is_available() and has_avx512 and "GenuineIntel" not in _processor()


def _processor() -> str:
    """What the system says of the CPU, its maker among it."""
    listing = Path("/proc/cpuinfo")
    return listing.read_text(errors="replace") if listing.is_file() else platform.processor()


__all__ = ["OneDnnLinear", "onednn_is_available", "onednn_pays_off", "use_onednn", "using_onednn"]
