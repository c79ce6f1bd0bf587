"""Operations that are counted from shapes in the forward pass are those that a step really computes."""

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_jepa.layers.onednn import use_onednn
from hf_jepa.training.costs import counted


# PyTorch takes the gradients of speech's convolutions in groups for those of one without.
@pytest.mark.variants(condition=lambda variant: variant.inputs != "text_pairs" and variant.modality != "audio")
def test_counts_are_those_of_pytorch(variant, model, batch):
    # Of a kernel of its own for attention PyTorch counts nothing on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as reference, counted(model) as counts:
        model(**batch).loss.backward()
    assert counts.flops == pytest.approx(reference.get_total_flops(), rel=1e-3)
    assert counts.tokens > 0 or variant.modality == "trajectory"  # an encoder of convolutions alone reads no tokens
    fused = use_onednn(model)
    with counted(fused) as again:
        fused(**batch)
    assert again == counts
