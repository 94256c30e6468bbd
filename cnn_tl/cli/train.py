"""`cnn-tl train`: flags become a recipe, the recipe becomes a run, the run becomes a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnn_tl import distributed
from cnn_tl.cli import console
from cnn_tl.cli.progress import TerminalObserver, duration
from cnn_tl.errors import UsageError, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cnn_tl.progress import FeaturePlan, Plan
    from cnn_tl.recipe import Recipe
    from cnn_tl.training.result import TrainResult
    from cnn_tl.training.run_folder import RunFolder

Mode = Literal["freeze", "finetune", "lp-ft", "auto", "scratch"]
Head = Literal["lbfgs", "ridge", "adamw", "knn", "prototype"]
Device = Literal["auto", "cpu", "cuda", "mps"]

MANY_CLASSES = 30


def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/ and val/ (and test/).")
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="freeze: fit a head on the frozen backbone (default). finetune: train everything from "
                     "pretrained weights. lp-ft: first the head, then everything. auto: lp-ft, kept only if it gains "
                     "more than chance over freeze. scratch: train everything from random weights."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A shipped recipe's name, or a YAML file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Any timm model; see cnn-tl models.", show_default="tf_efficientnet_lite0")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights file: .safetensors or .pth.")] = None,
    head: Annotated[
        Head | None, typer.Option(help="How the head is fitted in mode freeze.", show_default="lbfgs")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training pictures (finetune, scratch, or --head adamw).")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures in one step.")] = None,
    lr: Annotated[
        str | None,
        typer.Option(metavar="RATE|auto", help="Peak learning rate of a loop or an adamw head; auto: as lr-find."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of the network's input.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where to compute.", show_default="auto")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that read pictures; 0: the main one.", show_default="one a core")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice follows from it.", show_default="0")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run folder.", show_default="runs/DATA-MODE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output (or the newest).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:  # fmt: skip
    """Train a classifier on a folder of pictures.

    Strength: recipe < --set < flags. The run folder holds the resolved recipe, the metrics and the model.
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.training import run_folder

    flags: dict[str, object] = {
        "mode": mode, "seed": seed, "data.path": data, "model.name": model, "model.weights": weights,
        "model.image_size": image_size, "head.kind": head, "train.epochs": epochs, "train.batch_size": batch_size,
        "train.lr": _rate(lr), "run.device": device, "run.workers": workers,
    }  # fmt: skip
    source: str | Path | None = recipe
    if resume:
        if dry_run:
            raise UsageError("--resume goes on with a run that is planned already; leave out either it or --dry-run")
        output = output or run_folder.newest_run(data, mode)
        run = run_folder.RunFolder(output)
        run.require_run()
        _refuse_what_a_run_keeps(run, mode, epochs)
        source = recipe or run.recipe
    chosen = recipes.load(source, set_ or [], flags)
    idle = [flag for flag, value in (("--epochs", epochs), ("--lr", lr)) if value is not None]
    if idle and chosen.mode == "freeze" and chosen.head.kind != "adamw":
        have = "has" if len(idle) == 1 else "have"
        console.note(f"{' and '.join(idle)} {have} no effect: the head ({chosen.head.kind}) is fitted, not trained")
    if dry_run:
        _dry_run(chosen, output, as_json=json)
        return

    class Observer(TerminalObserver):
        def plan(self, plan: Plan) -> None:
            console.show(plan_table(plan), console.err)

    from cnn_tl.training.train import train as run_training

    result = run_training(chosen, output, resume=resume, observer=Observer())
    if not distributed.speaks():
        return
    if json:
        console.print_json(result.to_dict())
    else:
        show_result(result)


def _refuse_what_a_run_keeps(run: RunFolder, mode: Mode | None, epochs: int | None) -> None:
    """Refuse flags that say of a run what it cannot become, before they contradict its recipe in other words.

    Raises:
        UsageError: another mode, or epochs where the run counts steps.
    """
    own = run.own_recipe()
    if mode not in (None, own.mode):
        raise UsageError(
            f"{printable(run.path)} was begun in mode {own.mode} and stays in it; leave out --mode {mode}, "
            "or start anew with another --output"
        )
    if epochs is not None and own.train.steps is not None:
        raise UsageError(
            f"{printable(run.path)} is to last {own.train.steps} steps, not epochs; leave out --epochs, "
            "or make it longer with --set train.steps=MORE"
        )


def _rate(text: str | None) -> float | str | None:
    """Return a number where the text is one; the recipe refuses what is neither that nor `auto`."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _dry_run(recipe: Recipe, output: Path | None, *, as_json: bool) -> None:
    from cnn_tl.training.train import plan

    made = plan(recipe, output, observer=TerminalObserver() if distributed.speaks() else None)
    if not distributed.speaks():
        return
    if as_json:
        console.print_json(made.to_dict())
    else:
        console.show(plan_table(made))


def plan_table(plan: Plan) -> RenderableType:
    """Lay out what is about to happen."""
    from rich.console import Group

    totals = {split: sum(counts[split] for counts in plan.counts.values()) for split in ("train", "val", "test")}
    splits = [split for split, total in totals.items() if total]
    rows = [[printable(name), *(counts[split] for split in splits)] for name, counts in plan.counts.items()]
    if len(rows) > MANY_CLASSES:
        rows[MANY_CLASSES:] = [["...", *("" for _ in splits)]]
    rows.append(["total", *(totals[split] for split in splits)])
    pictures = console.table([f"{len(plan.counts)} classes", *(f"{split}>" for split in splits)], rows)
    height, width = plan.image_size
    share = 100 * plan.trainable / plan.total
    facts = console.table(
        ["plan", ""],
        [
            ["mode", plan.mode],
            ["data", f"{plan.data} ({plan.layout})"],
            ["backbone", f"{plan.backbone}, {height} x {width} px"],
            ["weights", plan.weights],
            ["parameters", f"{plan.trainable:,} of {plan.total:,} train ({share:.3g} %)"],
            ["device", f"{plan.device}, {plan.precision}"],
            ["schedule", plan.schedule],
            *([["phases", plan.phases]] if plan.phases else []),
            *([["features", _features(plan.features)]] if plan.features else []),
            *([["pictures", _pictures(plan.pictures)]] if plan.mode != "freeze" else []),
            ["expected", f"about {duration(plan.seconds)}"],
            ["output", plan.output],
        ],
    )
    return Group(pictures, facts)


def _features(plan: FeaturePlan) -> str:
    from rich.filesize import decimal

    if not plan.computed:
        return f"all {plan.from_cache:,} come from the cache; no picture is decoded"
    found = f"{plan.from_cache:,} come from the cache, " if plan.from_cache else ""
    if not plan.bytes:
        return f"{found}{plan.computed:,} are computed, for this run only"
    return f"{found}{plan.computed:,} are computed and take {decimal(plan.bytes)} in the cache"


def _pictures(plan: FeaturePlan | None) -> str:
    from rich.filesize import decimal

    if plan is None:
        return "each is decoded in each epoch, and none is kept"
    if not plan.computed:
        return f"all {plan.from_cache:,} come from the cache; none is decoded"
    found = f"{plan.from_cache:,} come from the cache, " if plan.from_cache else ""
    return f"{found}{plan.computed:,} are decoded once and take about {decimal(plan.bytes)} in the cache"


def show_result(result: TrainResult) -> None:
    """Print how good the model is, how far that can be trusted, and what to do next; 80 columns suffice."""
    low, high = result.interval
    rows = [
        ["validation accuracy", f"{result.accuracy:.1%}", f"{result.correct} of {result.pictures} pictures"],
        ["95 % interval", f"{low:.1%} - {high:.1%}", "Wilson; more pictures make it narrower"],
        ["largest class always", f"{result.baseline:.1%}", f"what answering {printable(result.baseline_class)} gets"],
    ]
    rows += _epoch_rows(result)
    if "frozen_sha256" in result.facts:
        rows.append(["frozen part", "unchanged", f"buffers too; sha256 {result.facts['frozen_sha256'][:12]}"])
    rows += _verdict_rows(result.facts)
    rows += _temperature_rows(result.facts)
    rows += _speed_rows(result.facts)
    if result.set_aside:
        rows.append(["set aside", f"{result.set_aside}", f"broken pictures, listed in {result.run / 'manifest.json'}"])
    rows.append(["time", duration(result.seconds), ""])
    console.show(console.table(["result", ">", ""], rows))
    if len(result.per_class) <= MANY_CLASSES:
        classes = [[printable(name), f"{right} / {total}"] for name, (right, total) in result.per_class.items()]
        console.show(console.table(["class", "right / pictures>"], classes))
    if result.accuracy < result.facts.get("fitted_head_accuracy", 0.0):
        console.say("fine-tuning did not help here: no epoch was as good as the fitted head alone;")
        console.say("--mode freeze gives that head, --mode auto whichever is better")
        console.say()
    run = shlex.quote(str(result.run))
    console.say("next:")
    console.say(f"  cnn-tl predict {run} IMAGES...")
    console.say(f"  cnn-tl export {run}")


def _epoch_rows(result: TrainResult) -> list[list[str]]:
    """Return which epoch the model is of, if it is of one, and where a loop without a verdict began."""
    facts, rows = result.facts, []
    if "fitted_head_accuracy" in facts and "verdict" not in facts:
        share = facts["fitted_head_accuracy"]
        right = f"{share * result.pictures:.0f} of {result.pictures}, before any fine-tuning"
        rows.append(["fitted head alone", f"{share:.1%}", right])
    if "best_epoch" not in facts or facts.get("verdict", {}).get("kept") == "frozen":
        return rows
    best, epochs = facts["best_epoch"], facts["epochs"]
    if best:
        return [*rows, ["best epoch", f"{best}", f"of {epochs}; chosen on these, so it flatters"]]
    return [*rows, ["last epoch", f"{epochs}", "kept: the weights of the best were lost"]]


def _temperature_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return how much less sure (or surer) a network was made than it had become in its loop."""
    found = facts.get("temperature")
    if found is None:
        return []
    loss = f"validation loss {found['val_loss_before']:.3f}, now {found['val_loss']:.3f}"
    return [["temperature", f"{found['value']:.2f}", loss]]


def _verdict_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return what fine-tuning gained over the head on frozen features, where both were tried."""
    verdict = facts.get("verdict")
    if verdict is None:
        return []
    low, high = verdict["interval"]
    chance = "more than chance" if verdict["more_than_chance"] else "no more than chance can do"
    right = f"{verdict['only_fine_tuned_right']} gained, {verdict['only_frozen_right']} lost"
    spread = f"{right}; 95 %: {100 * low:+.1f} to {100 * high:+.1f}"
    rows = [["frozen backbone", f"{verdict['frozen_accuracy']:.1%}", "the head alone"]]
    if verdict["kept"] == "frozen":
        which = f"in epoch {facts['best_epoch']}" if facts["best_epoch"] else "in the last"
        tuned = f"{which} of {facts['epochs']}; not kept"
        rows.append(["fine-tuned", f"{verdict['fine_tuned_accuracy']:.1%}", tuned])
    return [
        *rows,
        ["fine-tuning gained", f"{100 * verdict['gain']:+.1f} pp", spread],
        ["verdict", verdict["kept"], chance],
        _mcnemar(verdict),
        ["cost", duration(verdict["seconds_fine_tuning"]), f"after {duration(verdict['seconds_head'])} for the head"],
    ]


def _mcnemar(verdict: Mapping[str, Any]) -> list[str]:
    """Name the test's p, and that it allows for the choice of the best epoch by the same pictures."""
    epochs = int(verdict.get("chosen_from_epochs", 1))
    if epochs == 1:
        return ["McNemar", f"p = {verdict['p']:.2g}", "exact test"]
    return ["McNemar", f"p ≤ {verdict['p']:.2g}", f"exact test, the best of {epochs} epochs"]


def _speed_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return what the features and the head took, each stage by itself."""
    features, head = facts.get("features"), facts.get("head")
    if features is None or head is None:
        return []
    rows = []
    if features["computed"]:
        rows.append(["decode", f"{features['decode_images_per_second']:,.0f} img/s", "reading and resizing alone"])
        network = f"{features['way']}, batches of {features['batch_size']}, alone"
        rows.append(["forward pass", f"{features['forward_images_per_second']:,.0f} img/s", network])
        both = f"both together, {features['computed']:,} features"
        rows.append(["embedding", f"{features['images_per_second']:,.0f} img/s", both])
    if features["from_cache"]:
        rows.append(["from the cache", f"{features['from_cache']:,}", "features that were at hand already"])
    return [*rows, ["head", f"{head['seconds']:.2g} s", str(head["kind"])]]
