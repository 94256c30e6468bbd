"""`cnn-tl doctor`: what is wrong with a folder of images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli import completion, options
from cnn_tl.cli.subject import subject_of
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.formatting import counted

if TYPE_CHECKING:
    from cnn_tl.doctor.diagnosis import Diagnosis

Source = Annotated[
    Path,
    typer.Argument(
        metavar="DATA|RUN",
        help="Folder of class folders, or of train/, val/, test/; or a run, whose data are then examined.",
        autocompletion=completion.runs,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Also write lists of what was found, and a page, into this folder."),
]
FailOn = Annotated[
    str | None,
    typer.Option(metavar="KINDS", help="Exit with 3 if any of these was found, such as leaks,labels; all: any kind."),
]


def doctor(
    source: Source,
    output: Output = None,
    fail_on: FailOn = None,
    recipe: options.Recipe = None,
    set_: options.Changes = None,
    model: options.Backbone = None,
    weights: options.Weights = None,
    device: options.TrainDevice = None,
    workers: options.RecipeThreads = None,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Find what spoils a model: twins, leaks, wrong labels, shortcuts, series, outliers. No image is changed.

    Images are compared by the features of a pretrained backbone, which are kept, and by their pixels. The findings
    come in the order of the harm that they do; kinds are leaks, conflicts, labels, shortcuts, series, twins, broken,
    outliers.
    """
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.doctor.examine import examined
    from cnn_tl.doctor.summary import summary_of
    from cnn_tl.doctor.written import remember, require_folder, write_folder

    kinds = _kinds(fail_on)
    flags: dict[str, object] = {
        "seed": seed, "model.name": model, "model.weights": weights, "run.device": device, "run.workers": workers,
    }  # fmt: skip
    subject = subject_of(source, recipe, set_ or [], flags)
    if output is not None:
        require_folder(output, subject.recipe.data.folder)
    with examined(subject, printable(source), TerminalObserver()) as found:
        if output is not None:
            write_folder(found, output)
        remember(found, output)
        if json:
            console.print_json(summary_of(found))
        else:
            show_diagnosis(found)
            _say_next(found, source, output)
        if output is not None:
            console.note(f"lists and the page are in {printable(output)}: open {printable(output / 'index.html')}")
        failing = [one for one in found.findings if one.kind in kinds]
    if failing:
        raise DataError(f"found {', '.join(f'{one.count:,} {one.kind}' for one in failing)} (--fail-on {fail_on})")


def _kinds(fail_on: str | None) -> frozenset[str]:
    """Return the kinds of findings that `--fail-on` names.

    Raises:
        UsageError: there is no such kind.
    """
    from cnn_tl.doctor.findings import KINDS

    if fail_on is None:
        return frozenset()
    named = [name.strip() for name in fail_on.split(",")]
    if unknown := [name for name in named if name not in (*KINDS, "all")]:
        raise UsageError(f"--fail-on {printable(unknown[0])!r}: the kinds are {', '.join(KINDS)}, or all")
    return frozenset(KINDS if "all" in named else named)


def show_diagnosis(found: Diagnosis) -> None:
    """Print the findings, the most harmful first, and what was not found."""
    from cnn_tl.doctor.findings import KINDS
    from cnn_tl.doctor.wording import sensitivity

    images = found.collection
    console.say(f"{counted(len(images), 'image')} of {counted(len(images.classes), 'class')} in {found.name}")
    if found.findings:
        rows = [[one.kind, f"{one.text}\nfor example: {one.example}\n-> {one.advice}\n"] for one in found.findings]
        console.show(console.table(["finding", "the most harmful first"], rows, dense=True))
    kinds = {one.kind for one in found.findings}
    if clean := [kind for kind in KINDS if kind not in kinds]:
        console.say(f"not found: {', '.join(clean)}")
    console.say(f"twins: {sensitivity(found.screens.twins)}")


def _say_next(found: Diagnosis, source: Path, output: Path | None) -> None:
    from cnn_tl.doctor.findings import REVIEWED

    kinds = {one.kind for one in found.findings}
    if kinds and output is None:
        console.say("next:")
        console.say_command(["cnn-tl", "doctor", printable(shlex.quote(str(source))), "--output", "FOLDER"])
    elif kinds & REVIEWED and output is not None:
        console.say("next:")
        console.say_command(["cnn-tl", "review", printable(shlex.quote(str(output)))])
