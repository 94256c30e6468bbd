"""An exported ONNX file as a model: onnxruntime, numpy and what the file says about itself; no torch.

The file ends with a seal, the SHA-256 of all bytes before it, because onnxruntime computes with damaged
weights without a word. To ONNX the seal is one more metadata entry: other tools read the file as usual.
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
from cnn_tl.core import files, telemetry
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.preprocessing import Preprocessing

onnxruntime = telemetry.onnxruntime()

FORMAT_VERSION = 2
PLAIN_FORMAT_VERSION = 1
"""What a file without preprocessing is written as: every version of cnn-tl reads it."""

INPUT, IMAGES, PREPARED = "input", "images", "prepared"
OLDER_IMAGES = "pictures"  # what older exports call the input
LOGITS, PROBABILITIES, FEATURES = "logits", "probabilities", "features"

_FACTS = ("architecture", "opset", "onnxruntime", "precision", "cnn_tl.version", "majority_class")
_ERRORS_ONLY = 3
_SEAL_KEY = b"cnn_tl.sha256"


@dataclass(frozen=True)
class OnnxModel:
    """A model that runs in onnxruntime on the CPU.

    Attributes:
        path: the file.
        classes: the class names, in the order of the logits.
        preprocessing: what an image goes through before the model.
        inside: whether it does its own preprocessing: it then takes images, uint8 [N, H, W, 3], not normalised ones.
        facts: architecture, opset, the oldest onnxruntime that reads it, precision, the version of cnn-tl that wrote
            the file, and the most frequent class of the training split.
        session: an `onnxruntime.InferenceSession`.
        side_by_side: into how many parts a batch is split, each of which has a core for itself.
    """

    path: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    inside: bool
    facts: Mapping[str, str]
    session: Any
    side_by_side: int = 1

    @classmethod
    def open(cls, path: Path, *, many: bool = False) -> OnnxModel:
        """Load a file that `cnn-tl export` wrote, after checking every byte of it.

        Args:
            path: the file.
            many: for many images the cores share out a batch, where for one they share out each layer of it, which
                answers the one sooner and all of them later: threads that meet after each layer wait for each other.

        Raises:
            ArtefactError: it is missing, damaged, foreign, or newer than this version.
        """
        where = printable(path)
        sealed = _read(path)
        cores = default_workers()
        try:
            options = _options(1 if many else cores)
            session = onnxruntime.InferenceSession(sealed, options, providers=["CPUExecutionProvider"])
            metadata = session.get_modelmeta().custom_metadata_map
            _check_version(int(metadata["cnn_tl.format_version"]), metadata["cnn_tl.version"], where)
            _check_ends(session, metadata)
            return cls(
                path=path,
                classes=tuple(json.loads(metadata["class_names"])),
                preprocessing=Preprocessing.from_dict(json.loads(metadata["preprocessing"]), where),
                inside=metadata.get("preprocessing_inside") == "true",
                facts={name: metadata[name] for name in _FACTS if name in metadata},
                session=session,
                side_by_side=cores if many else 1,
            )
        except ArtefactError:
            raise
        except Exception as error:  # onnxruntime has no one class for a bad model
            raise ArtefactError(f"{where} cannot be loaded: {error}") from error

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits [N, K] of images of the network's size.

        Args:
            x: where the preprocessing is inside, resized and cropped images, uint8 [N, height, width, 3]; else
                normalised ones, float32 [N, 3, height, width].
        """
        parts = np.array_split(x, max(1, min(self.side_by_side, len(x))))
        if len(parts) == 1:
            return self._prepared(x)
        with ThreadPoolExecutor(len(parts), thread_name_prefix="onnx") as pool:
            return np.concatenate(list(pool.map(self._prepared, parts)))

    def whole(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits [N, K] of whole images of any one size, where the preprocessing is inside."""
        assert self.inside
        return self._logits({self._images: images_nhwc})

    def _prepared(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return self._logits({self._images: x, PREPARED: np.array(True)} if self.inside else {INPUT: x})

    @cached_property
    def _images(self) -> str:
        """The name of the input for whole images."""
        return IMAGES if IMAGES in {one.name for one in self.session.get_inputs()} else OLDER_IMAGES

    def _logits(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run([LOGITS], inputs)[0]
        return logits


def metadata(
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    architecture: str,
    opset: int,
    *,
    inside: bool = False,
    thresholds: Sequence[Mapping[str, float]] = (),
    majority_class: str | None = None,
) -> dict[str, str]:
    """Return what an exported file says about itself; `names` is where tools around Ultralytics look.

    Args:
        thresholds: how sure an answer must be to be reliable, see `statistics.thresholds`.
        majority_class: the most frequent class of the training split; None where that is not known.
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
        "thresholds": json.dumps(list(thresholds)),
        **({} if majority_class is None else {"majority_class": majority_class}),
    }


def seal(model: bytes | memoryview) -> bytes:
    """Return the end of a file whose other bytes are `model`: a metadata entry, encoded as protobuf."""
    digest = hashlib.sha256(model).hexdigest().encode()
    entry = b"\x0a" + bytes([len(_SEAL_KEY)]) + _SEAL_KEY + b"\x12" + bytes([len(digest)]) + digest
    return b"\x72" + bytes([len(entry)]) + entry


def _read(path: Path) -> bytes:
    """Return the file's bytes if its seal is whole."""
    where = printable(path)
    try:
        content = files.read_bytes(path)
    except OSError as error:
        raise ArtefactError(f"{where} cannot be read: {error.strerror}") from error
    end = len(content) - len(seal(b""))
    if content[end:] == seal(memoryview(content)[:end]):
        return content
    ours = b"cnn_tl.format_version" in content
    foreign = "is not a model that cnn-tl exported, or has lost its end"
    what = "was damaged or changed after its export" if ours else foreign
    raise ArtefactError(f"{where} {what}; write it anew with cnn-tl export RUN")


def _options(threads: int) -> Any:
    """Return quiet options with so many threads; left to itself, onnxruntime would pin every core."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    # Threads that wait in a loop take the cores from torch and from the decoders: six times slower beside torch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_ends(session: Any, metadata: Mapping[str, str]) -> None:
    """Refuse a file whose graph is not what its metadata say.

    Raises:
        ValueError: it takes or gives something else, or has other classes.
    """
    inputs, outputs = ({one.name: one for one in ends} for ends in (session.get_inputs(), session.get_outputs()))
    wanted = (IMAGES, OLDER_IMAGES) if metadata.get("preprocessing_inside") == "true" else (INPUT,)
    if not any(name in inputs for name in wanted) or LOGITS not in outputs:
        raise ValueError(f"its graph has no input {wanted[0]} or no output {LOGITS}")
    classes = json.loads(metadata["class_names"])
    count = outputs[LOGITS].shape[-1]
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or len(set(classes)) != len(classes) or len(classes) < 2:
        raise ValueError("class_names are no list of different names")
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
