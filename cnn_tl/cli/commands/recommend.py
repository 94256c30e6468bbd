"""`cnn-tl recommend`: which backbone to take for a folder of images."""

from __future__ import annotations

from typing import Annotated

import typer

from cnn_tl.cli import completion, options
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import parse_duration

Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="Backbones, joined by commas or in several --models; NAME=FILE has its weights in a file.",
        show_default="those whose packages are installed",
        autocompletion=completion.models,
    ),
]
ImageSizes = Annotated[
    str | None,
    typer.Option(
        metavar="SIZES",
        help="Sides of the network's input to try with each, such as 224,288.",
        show_default="each model's own",
    ),
]
BudgetOption = Annotated[str, typer.Option("--budget", metavar="TIME", help="Time that may be spent: 90s, 5m, 1h.")]
Limit = Annotated[int, typer.Option(min=1, help="Compare on at most this many images.")]


def recommend(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/ and val/.")],
    models: Models = None,
    image_sizes: ImageSizes = None,
    budget: BudgetOption = "5m",
    limit: Limit = 2000,
    recipe: options.Recipe = None,
    set_: options.Changes = None,
    device: options.TrainDevice = None,
    workers: options.RecipeThreads = None,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare backbones on a sample of the images, and recommend one, with the command that trains it.

    A head is cross-validated on the features of each. Recommended is the fastest of those that are at most half a point
    less accurate than the best one, and cannot be told apart from it. The features are kept, so that train need not
    compute them again. Images of val and test are not looked at.
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.advising.recommend.recommend import recipe_for, recommend
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.cli.terminal.recommendation import show_recommendation, train_words
    from cnn_tl.doctor.twin_groups import find_twin_groups

    seconds, sizes = parse_duration(budget), _sizes(image_sizes)
    flags: dict[str, object] = {"data.path": data, "run.device": device, "run.workers": workers, "seed": seed}
    chosen = recipes.load(recipe, [*(set_ or []), "mode=freeze"], flags)
    for line in recipes.renamed(recipe, set_ or []):
        console.note(line)
    found = recommend(
        recipe_for(chosen), models or (), sizes,
        budget=seconds, limit=limit, observer=TerminalObserver(), find_twins=find_twin_groups,
    )  # fmt: skip
    given: dict[str, object] = {"--recipe": recipe, "--device": device, "--workers": workers, "--seed": seed}
    words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    words += [word for change in set_ or () for word in ("--set", change)]
    command = train_words(data, found.chosen.candidate, words)
    if json:
        console.print_json(found.to_dict() | {"command": " ".join(command)})
        return
    show_recommendation(found)
    console.say("next:")
    console.say_command(command)


def _sizes(text: str | None) -> list[int]:
    """Return the image sizes of a text such as "224,288".

    Raises:
        UsageError: it is not a list of whole numbers.
    """
    try:
        return [int(part) for part in (text or "").split(",") if text]
    except ValueError as error:
        raise UsageError(
            f"--image-sizes {printable(text or '')!r}: write sides in pixels, joined by commas, such as 224,288"
        ) from error
