"""Convert official probes of V-JEPA, V-JEPA 2 and V-JEPA 2.1 into models with heads, and back.

The encoder decides whose probe it is. Files that are named like the released ones need no further option.

python conversion/convert_vjepa2_probe.py --probe ssv2-vitl-16x2x3.pt --encoder vitl.pt --output vjepa2-vitl-ssv2
python conversion/convert_vjepa2_probe.py --probe mine.pt --encoder vjepa2-vitl-fpc64-256 --output mine --layers 17 23
python conversion/convert_vjepa2_probe.py --reverse vjepa2-vitl-ssv2 --output ssv2-vitl-16x2x3.pt
"""

import argparse
import sys

from hf_jepa.hub.probes import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run(parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
