"""Convert official I-JEPA checkpoints into ordinary ones, and back.

python conversion/convert_ijepa.py --checkpoint IN1K-vit.h.14-300e.pth.tar --output ijepa-vith14-1k
python conversion/convert_ijepa.py --reverse ijepa-vith14-1k --output IN1K-vit.h.14-300e.pth.tar

The same as `hf-jepa convert --variant ijepa`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--variant", "ijepa"]))
