"""Convert official V-JEPA 2.1 checkpoints into ordinary ones, and back.

python conversion/convert_vjepa2_1.py --checkpoint vjepa2_1_vitg_384.pt --output vjepa2_1-vitg-fpc64-384
python conversion/convert_vjepa2_1.py --reverse vjepa2_1-vitg-fpc64-384 --output vjepa2_1_vitg_384.pt

The same as `hf-jepa convert --variant vjepa2_1`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--variant", "vjepa2_1"]))
