"""Convert fairseq's data2vec checkpoints of images into ordinary ones, and back.

python conversion/convert_data2vec_vision.py --checkpoint checkpoint_last.pt --output data2vec-vision-base
python conversion/convert_data2vec_vision.py --reverse data2vec-vision-base --output checkpoint_last.pt

The same as `hf-jepa convert --variant data2vec_vision`, in a source checkout.
"""

import sys

from hf_jepa.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:], "--variant", "data2vec_vision"]))
