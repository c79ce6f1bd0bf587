"""Convert official V-JEPA checkpoints into ordinary ones, and back.

python conversion/convert_vjepa.py --checkpoint vitl16.pth.tar --output vjepa-vitl16
python conversion/convert_vjepa.py --reverse vjepa-vitl16 --output vitl16.pth.tar
"""

import argparse
import sys

from hf_jepa.hub.conversion import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run("vjepa", parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
