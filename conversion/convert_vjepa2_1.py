"""Convert official V-JEPA 2.1 checkpoints into ordinary ones, and back.

python conversion/convert_vjepa2_1.py --checkpoint vjepa2_1_vitg_384.pt --output vjepa2_1-vitg-fpc64-384
python conversion/convert_vjepa2_1.py --reverse vjepa2_1-vitg-fpc64-384 --output vjepa2_1_vitg_384.pt
"""

import argparse
import sys

from hf_jepa.hub.conversion import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run("vjepa2_1", parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
