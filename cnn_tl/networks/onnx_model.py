"""An exported ONNX file as a model that runs with onnxruntime and numpy, without torch.

The file ends with the SHA-256 of all bytes before it, because onnxruntime does not notice damaged weights. To ONNX this
checksum is one more metadata entry, so other tools read the file as usual.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl import __version__
from cnn_tl.abstention.threshold_table import ThresholdTable
from cnn_tl.core import files, telemetry
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.preprocessing import Preprocessing

onnxruntime = telemetry.onnxruntime()

FORMAT_VERSION = 2
PLAIN_FORMAT_VERSION = 1
"""The version of a file without preprocessing: every version of cnn-tl reads it."""

INPUT, IMAGES, PREPARED = "input", "images", "prepared"
OLDER_IMAGES = "pictures"  # the name of this input in older exports
LOGITS, PROBABILITIES, FEATURES, DISTANCE = "logits", "probabilities", "features", "distance"

THRESHOLDS = "cnn_tl.thresholds"
"""The metadata key of a `ThresholdTable`; `thresholds` is that of earlier versions."""

_FACTS = ("architecture", "opset", "onnxruntime", "precision", "cnn_tl.version", "majority_class")
_ERRORS_ONLY = 3
_CHECKSUM_KEY = b"cnn_tl.sha256"


@dataclass(frozen=True)
class OnnxModel:
    """A model that runs in onnxruntime on the CPU.

    Attributes:
        path: the file.
        classes: the class names, in the order of the logits.
        preprocessing: of an image before the model.
        inside: whether the preprocessing is part of the graph, which then takes images, uint8 [N, H, W, 3].
        facts: architecture, opset, the oldest onnxruntime that reads it, precision, the version of cnn-tl that wrote
            the file, and the most frequent class of the training split.
        session: an `onnxruntime.InferenceSession`.
        thresholds: what held-out images say about confidence and distance; None in a file that does not say.
        side_by_side: the number of parts into which a batch is split, each on a core of its own.
    """

    path: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    inside: bool
    facts: Mapping[str, str]
    session: Any
    thresholds: ThresholdTable | None = None
    side_by_side: int = 1

    @classmethod
    def open(cls, path: Path, *, many: bool = False) -> OnnxModel:
        """Load a file that `cnn-tl export` wrote, after verifying its checksum.

        Args:
            path: the file.
            many: optimise for throughput: each core takes a part of the batch. By default the cores share each layer,
                which gives the lowest latency for one image, but threads then wait for each other after each layer.

        Raises:
            ArtefactError: it is missing, damaged, foreign, or newer than this version.
        """
        where = printable(path)
        content = _read(path)
        cores = default_workers()
        try:
            options = _options(1 if many else cores)
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = session.get_modelmeta().custom_metadata_map
            _check_version(int(metadata["cnn_tl.format_version"]), metadata["cnn_tl.version"], where)
            _check_ends(session, metadata)
            classes = tuple(json.loads(metadata["class_names"]))
            return cls(
                path=path,
                classes=classes,
                preprocessing=Preprocessing.from_dict(json.loads(metadata["preprocessing"]), where),
                inside=metadata.get("preprocessing_inside") == "true",
                facts={name: metadata[name] for name in _FACTS if name in metadata},
                session=session,
                thresholds=_thresholds(metadata, len(classes)),
                side_by_side=cores if many else 1,
            )
        except ArtefactError:
            raise
        except Exception as error:  # onnxruntime has no common class of errors for a bad model
            raise ArtefactError(f"{where} cannot be loaded: {error}") from error

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs of images of the network's size: logits [N, K], and last the distance if it has one.

        Args:
            x: resized and cropped images, uint8 [N, height, width, 3], if the preprocessing is inside; else normalised
                ones, float32 [N, 3, height, width].
        """
        parts = np.array_split(x, max(1, min(self.side_by_side, len(x))))
        if len(parts) == 1:
            return self._prepared(x)
        with ThreadPoolExecutor(len(parts), thread_name_prefix="onnx") as pool:
            return np.concatenate(list(pool.map(self._prepared, parts)))

    def whole(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the outputs of uncropped images of any size, all the same; the preprocessing must be inside."""
        assert self.inside
        return self._run({self._images: images_nhwc})

    def _prepared(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return self._run({self._images: x, PREPARED: np.array(True)} if self.inside else {INPUT: x})

    @cached_property
    def _images(self) -> str:
        """The name of the input for whole images."""
        return IMAGES if IMAGES in {one.name for one in self.session.get_inputs()} else OLDER_IMAGES

    @cached_property
    def _names(self) -> list[str]:
        """The outputs that are read."""
        return [LOGITS, *(one.name for one in self.session.get_outputs() if one.name == DISTANCE)]

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return joined(*self.session.run(self._names, inputs))


def joined(logits_NK: NDArray[np.float32], distances_N: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the logits, and the distances, if there are any, as one more column."""
    return logits_NK if distances_N is None else np.concatenate([logits_NK, distances_N[:, None]], 1)


def metadata(
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    architecture: str,
    opset: int,
    *,
    inside: bool = False,
    thresholds: ThresholdTable | None = None,
    reliable: Sequence[Mapping[str, float]] = (),
    majority_class: str | None = None,
) -> dict[str, str]:
    """Return the metadata of an exported file; the key `names` is for tools around Ultralytics.

    Args:
        thresholds: what held-out images say about confidence and distance; None if unknown.
        reliable: the same of confidence, for programs that read files of earlier versions, see `Evidence.reliable`.
        majority_class: the most frequent class of the training split; None if unknown.
    """
    return {
        "cnn_tl.format_version": str(FORMAT_VERSION if inside else PLAIN_FORMAT_VERSION),
        "cnn_tl.version": __version__,
        "architecture": architecture,
        "opset": str(opset),
        "class_names": json.dumps(classes),
        "names": ascii(dict(enumerate(classes))),
        "preprocessing": json.dumps(preprocessing.to_dict()),
        "preprocessing_inside": "true" if inside else "false",
        "thresholds": json.dumps(list(reliable)),
        **({} if thresholds is None else {THRESHOLDS: json.dumps(thresholds.to_dict())}),
        **({} if majority_class is None else {"majority_class": majority_class}),
    }


def _thresholds(metadata: Mapping[str, str], num_classes: int) -> ThresholdTable | None:
    written = metadata.get(THRESHOLDS)
    return None if written is None else ThresholdTable.from_dict(json.loads(written), num_classes)


def checksum(model: bytes | memoryview) -> bytes:
    """Return the last bytes of a file whose other bytes are `model`: a metadata entry, encoded as protobuf."""
    digest = hashlib.sha256(model).hexdigest().encode()
    entry = b"\x0a" + bytes([len(_CHECKSUM_KEY)]) + _CHECKSUM_KEY + b"\x12" + bytes([len(digest)]) + digest
    return b"\x72" + bytes([len(entry)]) + entry


def _read(path: Path) -> bytes:
    """Return the file's bytes after verifying its checksum."""
    where = printable(path)
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise ArtefactError(f"{where} cannot be read: {error.strerror}") from error
    end = len(content) - len(checksum(b""))
    if content[end:] == checksum(memoryview(content)[:end]):
        return content
    ours = b"cnn_tl.format_version" in content
    foreign = "is not a model that cnn-tl exported, or has lost its end"
    what = "was damaged or changed after its export" if ours else foreign
    raise ArtefactError(f"{where} {what}; write it again with cnn-tl export RUN")


def _options(threads: int) -> Any:
    """Return quiet options with this many threads; by default onnxruntime would pin one to each core."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    # Spinning threads take the cores from torch and from the decoders: six times slower beside torch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_ends(session: Any, metadata: Mapping[str, str]) -> None:
    """Refuse a file whose graph does not match its metadata.

    Raises:
        ValueError: the inputs, outputs or the number of classes differ.
    """
    inputs, outputs = ({one.name: one for one in ends} for ends in (session.get_inputs(), session.get_outputs()))
    wanted = (IMAGES, OLDER_IMAGES) if metadata.get("preprocessing_inside") == "true" else (INPUT,)
    if not any(name in inputs for name in wanted) or LOGITS not in outputs:
        raise ValueError(f"its graph has no input {wanted[0]} or no output {LOGITS}")
    classes = json.loads(metadata["class_names"])
    count = outputs[LOGITS].shape[-1]
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or len(set(classes)) != len(classes) or len(classes) < 2:
        raise ValueError("class_names is not a list of different names")

    if isinstance(count, int) and count != len(classes):
        raise ValueError(f"it has {len(classes)} class names for {count} logits")


def _check_version(version: int, made_by: str, where: str) -> None:
    if version < 1:
        raise ValueError(f"format version {version}")
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"{where} was made by cnn-tl {made_by} (format {version}; this is {__version__}, format "
            f"{FORMAT_VERSION}); upgrade cnn-tl to use it"
        )
