"""Pretrain by an objective for images once for every value of one field, and print what came of each.

    python training_scripts/sweep_image.py lejepa training_scripts/configs/lejepa/tiny.yaml \\
        --sweep sigreg_weight 0.01 0.02 0.05 0.1 --output_dir runs/lambda

The field is one of the recipe or of the config of the model; every other one can be overridden as in
`pretrain_image.py`. `--knn` also measures k-NN accuracy, on crops of the embedded pictures. Finished runs are kept.
"""

import argparse
import sys
from collections.abc import Sequence

from hf_jepa.cli.tables import table
from hf_jepa.registry import VARIANTS
from hf_jepa.training.sweep import sweep, table_of


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    images = [name for name, variant in VARIANTS.items() if variant.modality == "image"]
    parser.add_argument("variant", choices=images, help="the objective")
    parser.add_argument("--sweep", nargs="+", required=True, metavar=("FIELD", "VALUE"), help="a field and its values")
    parser.add_argument("--knn", action="store_true", help="measure k-NN on crops of the training halves")
    args, recipe = parser.parse_known_args(argv)
    field, *values = args.sweep
    if not values:
        parser.error(f"--sweep {field}: give the values to try")
    results = sweep(args.variant, recipe, field, values, args.knn)
    print(f"\n{table(*table_of(results))}\n")
    if results["best"] is None:
        print("no run is healthy, so none is best")
    else:
        print(f"* best by {results['criterion']}")


if __name__ == "__main__":
    main(sys.argv[1:])
