"""Online k-NN: how good the target encoder's features are while it trains."""

from transformers import Trainer, TrainerCallback

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.evaluation.features import extract_features
from hf_jepa.evaluation.knn import knn_classify


class OnlineKnnProbe(TrainerCallback):
    """Log the k-NN accuracy of the target encoder every so many steps, as `knn_accuracy`.

    Args:
        trainer: the trainer to log with; add the probe to it by `trainer.add_callback`.
        train, test: labelled data sets (`ImageDataset` with an evaluation transform).
        every: steps between two probes.
        k: neighbours.

    Raises:
        ValueError: a data set without labels, or `every` below 1.

    Example:
        >>> from hf_jepa import load_images, evaluation_transform
        >>> def add_probe(trainer, folder):
        ...     splits = (ImageDataset(load_images(folder, s), evaluation_transform(224)) for s in ("train", "test"))
        ...     trainer.add_callback(OnlineKnnProbe(trainer, *splits, every=1000))
    """

    def __init__(self, trainer: Trainer, train: ImageDataset, test: ImageDataset, every: int, k: int = 20):
        if every < 1:
            raise ValueError(f"the k-NN probe needs a positive number of steps, got {every}")
        for name, dataset in (("train", train), ("test", test)):
            if dataset.labels is None:
                raise ValueError(f"the {name} set of the k-NN probe has no labels")
        self.trainer, self.train, self.test, self.every, self.k = trainer, train, test, every, k

    def on_step_end(self, args, state, control, **kwargs):
        # All processes measure the same: under sharding a forward pass needs them all, and elsewhere they would wait.
        if state.global_step % self.every == 0:
            encoder = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped).target_encoder
            features = [
                extract_features(encoder, dataset, collate_fn=ImageCollator(), progress=False)
                for dataset in (self.train, self.test)
            ]
            result = knn_classify(*features[0], *features[1], k=min(self.k, len(features[0][0])))
            # Logging tells the Trainer that this step has been logged, and its own log would be left out.
            due = control.should_log
            self.trainer.log({"knn_accuracy": result.accuracy})
            control.should_log = due


__all__ = ["OnlineKnnProbe"]
