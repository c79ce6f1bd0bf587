"""Convert official V-JEPA 2 checkpoints into ordinary ones, and back.

python conversion/convert_vjepa2.py --checkpoint vitl.pt --output vjepa2-vitl-fpc64-256
python conversion/convert_vjepa2.py --reverse vjepa2-vitl-fpc64-256 --output vitl.pt
"""

import argparse
import sys

from hf_jepa.hub.conversion import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run("vjepa2", parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
