"""Online k-NN: how good the target encoder's features are while it trains."""

from dataclasses import dataclass, field

from transformers import Trainer, TrainerCallback

from hf_jepa.data.images import ImageDataset
from hf_jepa.data.moving_digits import DigitClasses
from hf_jepa.data.videos import VideoDataset
from hf_jepa.evaluation.features import extract_features
from hf_jepa.evaluation.knn import ProbeResult, knn_classify
from hf_jepa.training.engines import called_apart


Labelled = ImageDataset | VideoDataset | DigitClasses


@dataclass(kw_only=True)
class KnnProbeArguments:
    """The online k-NN probe of a pretraining run."""

    knn_dataset: str | None = field(default=None, metadata={"help": "Labelled data for the online k-NN probe."})
    knn_splits: list[str] = field(default_factory=lambda: ["train", "test"], metadata={"help": "Its two splits."})
    knn_every: int = field(default=1000, metadata={"help": "Steps between two k-NN probes."})


class OnlineKnnProbe(TrainerCallback):
    """Log the k-NN accuracy of the target encoder every so many steps, as `knn_accuracy`.

    Args:
        trainer: the trainer to log with; add the probe to it by `trainer.add_callback`.
        train, test: labelled data sets with an evaluation transform: `ImageDataset`, `VideoDataset`, `DigitClasses`.
        every: steps between two probes.
        k: neighbours.
        batch_size: samples that are encoded at once.

    Raises:
        ValueError: a data set without labels, or `every` below 1.

    Example:
        >>> from hf_jepa import load_images, evaluation_transform
        >>> def add_probe(trainer, folder):
        ...     splits = (ImageDataset(load_images(folder, s), evaluation_transform(224)) for s in ("train", "test"))
        ...     trainer.add_callback(OnlineKnnProbe(trainer, *splits, every=1000))
    """

    def __init__(
        self, trainer: Trainer, train: Labelled, test: Labelled, every: int, k: int = 20, batch_size: int = 64
    ):
        if every < 1:
            raise ValueError(f"the k-NN probe needs a positive number of steps, got {every}")
        for name, dataset in (("train", train), ("test", test)):
            if dataset.labels is None:
                raise ValueError(f"the {name} set of the k-NN probe has no labels")
        self.trainer, self.train, self.test, self.every = trainer, train, test, every
        self.k, self.batch_size = k, batch_size

    def on_step_end(self, args, state, control, **kwargs):
        # All processes measure the same: under sharding a forward pass needs them all, and elsewhere they would wait.
        if state.global_step % self.every == 0:
            with self.trainer.meter.pause():
                result = self._measure()
            # Logging tells the Trainer that this step has been logged, and its own log would be left out.
            due = control.should_log
            self.trainer.log({"knn_accuracy": result.accuracy})
            control.should_log = due

    def _measure(self) -> ProbeResult:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        options = {"batch_size": self.batch_size, "progress": False}
        features = called_apart(
            model,
            lambda: [extract_features(model.feature_encoder, data, **options) for data in (self.train, self.test)],
        )
        return knn_classify(*features[0], *features[1], k=min(self.k, len(features[0][0])))


__all__ = ["KnnProbeArguments", "OnlineKnnProbe"]
