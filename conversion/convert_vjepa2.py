"""Convert official V-JEPA 2 checkpoints into ordinary ones, and back.

python conversion/convert_vjepa2.py --checkpoint vitl.pt --output vjepa2-vitl-fpc64-256
python conversion/convert_vjepa2.py --reverse vjepa2-vitl-fpc64-256 --output vitl.pt

The same as `hf-jepa convert --variant vjepa2`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--variant", "vjepa2"]))
