"""Convert official probes of V-JEPA, V-JEPA 2 and V-JEPA 2.1 into models with heads, and back.

The encoder decides whose probe it is. Files that are named like the released ones need no further option.

python conversion/convert_vjepa2_probe.py --probe ssv2-vitl-16x2x3.pt --encoder vitl.pt --output vjepa2-vitl-ssv2
python conversion/convert_vjepa2_probe.py --probe mine.pt --encoder vjepa2-vitl-fpc64-256 --output mine --layers 17 23
python conversion/convert_vjepa2_probe.py --reverse vjepa2-vitl-ssv2 --output ssv2-vitl-16x2x3.pt

The same as `hf-jepa convert --probe`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
