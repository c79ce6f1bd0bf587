"""Convert official V-JEPA checkpoints into ordinary ones, and back.

python conversion/convert_vjepa.py --checkpoint vitl16.pth.tar --output vjepa-vitl16
python conversion/convert_vjepa.py --reverse vjepa-vitl16 --output vitl16.pth.tar

The same as `hf-jepa convert --variant vjepa`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--variant", "vjepa"]))
