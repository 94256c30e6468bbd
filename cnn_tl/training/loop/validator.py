"""The validations of a loop: after each epoch, and once more of the weights that are kept, with their features."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from cnn_tl.features.stream import Runs
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.temperature import divide_by_temperature
from cnn_tl.training.loop.validation import onnx_engine, outputs, scores
from cnn_tl.training.loop.with_features import engine_with_features
from cnn_tl.training.outcome import Temperature
from cnn_tl.training.sources.plain import HeldImages

MakeEngine = Callable[[Dataset[LoopRecipe], LazyNetwork, nn.Module], Runs | None]


class Validator:
    """Gives the outputs of a network for the validation images of a run, as `predict` would.

    Args:
        model: the one that is trained.

    Attributes:
        features: the input of the classifier of the kept weights, [N, D]; None before `kept_logits`, and if the model
            does more after it than one linear layer.
    """

    def __init__(self, dataset: Dataset[LoopRecipe], network: LazyNetwork, model: nn.Module) -> None:
        self._dataset, self._network, self._model = dataset, network, model
        self._images = HeldImages(dataset, network.info.preprocessing, network.device)
        self.features: Tensor | None = None

    def logits(self, model: nn.Module, task: str = "validation") -> Tensor:
        """Return the logits [N, K] of the model that is trained, or of its moving average."""
        return self._outputs(model, task, onnx_engine)

    def kept_logits(self) -> Tensor:
        """Return the logits [N, K] of the kept weights, which are in the model now, and keep their features."""
        classes = len(self._dataset.manifest.classes)
        outputs_NE = self._outputs(self._model, "validation", engine_with_features)
        if self._network.info.num_features:
            self.features = outputs_NE[:, classes:].contiguous()
        return outputs_NE[:, :classes].contiguous()

    def kept_features(self) -> Tensor | None:
        """Return `features`, computed now if no validation of the kept weights has given them."""
        if self.features is None and self._network.info.num_features:
            self.kept_logits()
        return self.features

    def fit_temperature(self, logits_NK: Tensor) -> tuple[Tensor, Temperature | None]:
        """Divide the classifier of the kept weights by a temperature if the recipe says so; see `temperature`."""
        run, labels_N = self._dataset.run, self._dataset.manifest.labels("val")
        if run.recipe.train.temperature != "fitted":
            return logits_NK, None
        name, note = self._network.info.name, run.observer.note
        return divide_by_temperature(self._model, name, logits_NK, labels_N, self.kept_logits, note)

    def scores(self, logits_NK: Tensor) -> dict[str, float]:
        """Return the loss and the accuracy of logits."""
        return scores(logits_NK, self._dataset.manifest.labels("val"))

    def _outputs(self, model: nn.Module, task: str, make_engine: MakeEngine) -> Tensor:
        """Return what an engine gives, or the model itself if there is none."""
        model.eval()
        self._dataset.run.world.broadcast_buffers(self._model, *([] if model is self._model else [model]))
        engine = make_engine(self._dataset, self._network, model)
        images = self._dataset.manifest.of("val")
        return outputs(self._dataset, self._network, model, images, task, self._images.read, engine)
