"""Convert official V-JEPA 2-AC checkpoints into ordinary ones, and back.

python conversion/convert_vjepa2_ac.py --checkpoint vjepa2-ac-vitg.pt --output vjepa2-ac-vitg
python conversion/convert_vjepa2_ac.py --reverse vjepa2-ac-vitg --output vjepa2-ac-vitg.pt

The same as `hf-jepa convert --variant vjepa2_ac`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--variant", "vjepa2_ac"]))
