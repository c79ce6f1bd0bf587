"""Convert official V-JEPA 2-AC checkpoints into ordinary ones, and back.

python conversion/convert_vjepa2_ac.py --checkpoint vjepa2-ac-vitg.pt --output vjepa2-ac-vitg
python conversion/convert_vjepa2_ac.py --reverse vjepa2-ac-vitg --output vjepa2-ac-vitg.pt
"""

import argparse
import sys

from hf_jepa.hub.conversion import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run("vjepa2_ac", parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
