"""Official files of all variants, told apart without being told which they are."""

from pathlib import Path

import pytest

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.hub.inspect import variant_of_file
from hf_jepa.registry import VARIANTS


GOLDEN = Path(__file__).resolve().parents[1] / "fixtures/golden"
CONVERTIBLE = [name for name, variant in VARIANTS.items() if variant.convertible]
FILES = [
    (name, file)
    for name in CONVERTIBLE
    for file in sorted((GOLDEN / name.removesuffix("_vision")).glob("*/checkpoint.pt"))
    if VARIANTS[name].layout.present(read_torch_checkpoint(file))  # not the files of probes
]


def test_every_variant_has_a_file():
    assert {name for name, _ in FILES} == set(CONVERTIBLE)


@pytest.mark.parametrize(("name", "file"), FILES, ids=[f"{name}-{file.parent.name}" for name, file in FILES])
def test_a_file_is_of_its_variant_alone(name, file, tmp_path):
    assert variant_of_file(file).name == name
    for other in set(CONVERTIBLE) - {name}:
        heads = dict.fromkeys(VARIANTS[other].layout.heads, 1)
        with pytest.raises(ConversionError):
            convert_checkpoint(VARIANTS[other], file, tmp_path / other, **heads)
    assert not any(tmp_path.iterdir())
