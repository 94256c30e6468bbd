"""How to do a run again: its command, the versions, the seed, and digests of data, recipe and weights."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core import files
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import share_as_typed
from cnn_tl.core.imports import installed_version
from cnn_tl.data.manifest import Manifest
from cnn_tl.networks import bundle
from cnn_tl.pages.content import Table
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.training.result import TrainResult
from cnn_tl.training.run_folder import RunFolder

if TYPE_CHECKING:
    from cnn_tl.evaluating.evaluate import Evaluation

PACKAGES = ("numpy", "pillow", "onnxruntime", "torch", "torchvision", "timm")
"""What decides numbers; those that are not installed are left out."""


def commands_of(folder: RunFolder) -> tuple[str, ...]:
    """Return the command that trains this model again, and those that use it."""
    run, recipe = shlex.quote(printable(folder.path)), shlex.quote(printable(folder.recipe))
    return (
        f"cnn-tl train --recipe {recipe} --output ANOTHER",
        f"cnn-tl predict {run} IMAGES...",
        f"cnn-tl evaluate {run} DATA",
        f"cnn-tl report {run}",
        f"cnn-tl learning-curve {run}",
    )


def evaluate_command(evaluation: Evaluation) -> str:
    """Return the command that evaluates the same model on the same images."""
    split = ["--split", evaluation.split] if evaluation.split else []
    limit = [] if evaluation.limit is None else ["--limit", str(evaluation.limit)]
    found = evaluation.abstention
    promise, share, unknown = found.promise, found.unknown_share, found.unknown
    promised = [] if promise is None else ["--max-error", share_as_typed(promise.max_error)]
    called = [] if share is None else ["--unknown", share_as_typed(share)]
    foreign = [] if unknown is None else ["--unknown-images", unknown.folder]
    command = ["cnn-tl", "evaluate", evaluation.model, evaluation.data]
    return shlex.join([*command, *split, *limit, *promised, *called, *foreign])


def provenance_of(folder: RunFolder, manifest: Manifest, result: TrainResult) -> dict[str, Any]:
    """Return versions, seed and digests as plain data.

    Raises:
        ArtefactError: recipe or bundle are damaged.
    """
    recipe: ResolvedRecipe = folder.own_recipe()
    about = bundle.describe(folder.bundle).facts
    digests = {
        "data": manifest.digest(),
        "recipe.yaml": files.sha256_file(folder.recipe),
        "weights": _listed(folder.bundle, bundle.WEIGHTS),
        "frozen": result.facts.get("frozen_sha256"),
    }
    return {
        "mode": result.mode,
        "seed": recipe.seed,
        "pretrained": about.get("weights"),
        "trained_with": about.get("version"),
        "reported_with": versions(),
        "sha256": {name: value for name, value in digests.items() if value},
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages here; none is imported."""
    from cnn_tl import __version__

    found = {"cnn-tl": __version__, "python": platform.python_version()}
    installed = {package: installed_version(package) for package in PACKAGES}
    return found | {package: version for package, version in installed.items() if version is not None}


def provenance_table(provenance: Mapping[str, Any]) -> Table:
    """Return the table of the same."""
    installed = ", ".join(f"{name} {version}" for name, version in provenance["reported_with"].items())
    rows = [
        ("mode", provenance["mode"], ""),
        ("seed", str(provenance["seed"]), ""),
        ("pretrained weights", "", str(provenance["pretrained"] or "unknown")),
        ("trained with", f"cnn-tl {provenance['trained_with'] or 'of unknown version'}", ""),
        ("this page", "", f"written with {installed}"),
    ]
    rows += [(f"sha256 of {_NAMES.get(name, name)}", "", value) for name, value in provenance["sha256"].items()]
    return Table("How to do it again", tuple(rows))


_NAMES = {"data": "the data", "weights": "the model", "frozen": "the frozen part"}


def _listed(folder: Path, name: str) -> str | None:
    """Return the digest of a file that the list beside it gives: large weights are not read again."""
    lines = files.read_bytes(folder / files.CHECKSUMS).decode("utf-8", "replace").splitlines()
    return next((line.split()[0] for line in lines if line.endswith(f"  {name}")), None)
