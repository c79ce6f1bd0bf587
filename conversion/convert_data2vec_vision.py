"""Convert fairseq's data2vec checkpoints of images into ordinary ones, and back.

python conversion/convert_data2vec_vision.py --checkpoint checkpoint_last.pt --output data2vec-vision-base
python conversion/convert_data2vec_vision.py --reverse data2vec-vision-base --output checkpoint_last.pt
"""

import argparse
import sys

from hf_jepa.hub.conversion import add_arguments, run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    try:
        run("data2vec_vision", parser.parse_args())
    except (ValueError, OSError) as error:  # wrong input: one clear line; anything else is a bug and shows itself
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
