"""Convert official I-JEPA checkpoints into ordinary ones, and back.

python conversion/convert_ijepa.py --checkpoint IN1K-vit.h.14-300e.pth.tar --output ijepa-vith14-1k
python conversion/convert_ijepa.py --reverse ijepa-vith14-1k --output IN1K-vit.h.14-300e.pth.tar
"""

import argparse
import sys

from hf_jepa.hub.conversion import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run("ijepa", parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
