"""Names of custom operators, which are global: every copy of a module needs its own."""

import re


def operator_name(module: str, name: str) -> str:
    """The full name of an operator of a module.

    A copy of the module, as it lies beside exported weights, may be of another version than the package in the same
    process, and must not take its operators away.

    Args:
        module: `__name__` of the module that defines it.
        name: of the operator.

    Example:
        >>> operator_name("hf_jepa.losses.draws", "unit_directions")
        'hf_jepa_losses_draws::unit_directions'
    """
    namespace = re.sub(r"\W", "_", module)
    return f"{namespace}::{name}"


__all__ = ["operator_name"]
