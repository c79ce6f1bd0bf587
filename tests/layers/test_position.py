"""Position tables that do not exist."""

import pytest

from hf_jepa.layers.position import sincos_2d, sincos_3d


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of 8 channels, got 12"):
        sincos_3d(12, (2, 2, 2), uniform_power=False)
    with pytest.raises(ValueError, match="multiple of 4 channels, got 10"):
        sincos_2d(10, (2, 2))
