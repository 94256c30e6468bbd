"""The result of a finished run, as tables that fit 80 columns."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.accuracy import show_classes
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, duration, percent, points, rate

if TYPE_CHECKING:
    from cnn_tl.training.outcome import DataFacts, Facts, FeatureReads, HeadFit, LoopFacts, Temperature, Verdict
    from cnn_tl.training.result import TrainResult


def show_result(result: TrainResult, advice: Sequence[str] = ()) -> None:
    """Print how accurate the model is, how certain that is, and what to do next; fits 80 columns.

    Args:
        advice: lines on what else to try.
    """
    from cnn_tl.training.outcome import Facts

    facts = Facts.from_dict(result.facts)
    console.show(console.table(["result", ">", ""], _rows(result, facts), dense=True))
    all_are = f"all are in {printable(result.run / 'result.json')}, under per_class"
    show_classes(["right / images>"], result.per_class, all_are, every=False)
    _advise_if_fine_tuning_did_not_help(result.accuracy, facts)
    for line in [*advice, ""] if advice else []:
        console.say(line)
    if result.report is not None:
        console.say(f"all about it, with its mistakes, is in {printable(result.report)}")
        console.say()
    run = shlex.quote(str(result.run))
    console.say("next:")
    console.say_command(["cnn-tl", "predict", run, "IMAGES..."])
    console.say_command(["cnn-tl", "export", run])


def _rows(result: TrainResult, facts: Facts) -> list[list[str]]:
    """Return the rows of the table: name, figure, remark."""
    low, high = result.interval
    baseline_class = printable(result.baseline_class)
    rows = [
        ["validation accuracy", percent(result.accuracy), f"{result.correct} of {counted(result.images, 'image')}"],
        ["95% interval", f"{percent(low)} - {percent(high)}", "Wilson; more images make it narrower"],
        ["majority-class baseline", percent(result.baseline), f"always {baseline_class}, most common in training"],
    ]
    if facts.loop is not None:
        rows += _epoch_rows(facts.loop, facts.verdict, result.images)
    if facts.frozen_sha256 is not None:
        rows.append(["frozen part", "unchanged", f"buffers too; sha256 {facts.frozen_sha256[:12]}"])
    if facts.loop is not None and facts.verdict is not None:
        rows += _verdict_rows(facts.verdict, facts.loop, result.mode)
    if facts.loop is not None and facts.loop.temperature is not None:
        rows.append(_temperature_row(facts.loop.temperature))
    if facts.loop is not None and facts.loop.sources is not None:
        rows.append(["views", "on the device", f"from images {facts.loop.sources}"])
    if facts.features is not None and facts.head is not None:
        rows += _speed_rows(facts.features, facts.head)
    if result.set_aside:
        where = f"broken, listed in {result.run / 'manifest.json'}"
        rows.append(["set aside", counted(result.set_aside, "image"), where])
    if facts.data is not None:
        rows += _data_rows(facts.data)
    since = "since it was resumed" if facts.resumed else ""
    if since and facts.verdict is not None:
        since += "; cost: all starts"
    rows.append(["time", duration(result.seconds), since])
    return rows


def _data_rows(data: DataFacts) -> list[list[str]]:
    """Return what `data.exclude`, `data.relabel` and `data.groups` did."""
    rows = []
    if data.excluded:
        rows.append(["excluded", counted(data.excluded, "image"), "by data.exclude"])
    if data.relabelled:
        rows.append(["relabelled", counted(data.relabelled, "image"), "by data.relabel"])
    if data.groups:
        rows.append(["groups", f"{data.groups:,}", f"of {counted(data.grouped, 'image')}; none crosses splits"])
    if data.kept_apart:
        rows.append(["kept apart", counted(data.kept_apart, "image"), "left out: in a group of another split"])
    return rows


def _advise_if_fine_tuning_did_not_help(accuracy: float, facts: Facts) -> None:
    """Say so where the fitted head alone was as good as what was trained from it, or better."""
    loop, verdict = facts.loop, facts.verdict
    if loop is not None and loop.best_epoch == 0:
        console.say("fine-tuning did not help here: no epoch was better than the fitted head alone,")
        console.say("which is kept; more epochs or a lower --lr may help; --mode freeze fits such a")
        console.say("head faster")
        console.say()
    elif loop is not None and accuracy < (loop.fitted_head_accuracy or 0.0):
        console.say("fine-tuning did not help here: no epoch was as good as the fitted head alone;")
        console.say("--mode freeze gives that head; --mode auto keeps it unless fine-tuning is")
        console.say("better by more than chance")
        console.say()
    if verdict is not None and verdict.worse_than_chance and verdict.kept == "fine-tuned":
        console.say("fine-tuning made it worse, by more than chance; --mode freeze gives the better")
        console.say("model")
        console.say()


def _epoch_rows(loop: LoopFacts, verdict: Verdict | None, images: int) -> list[list[str]]:
    """Return the fitted head's accuracy, unless the verdict has it, and the epoch whose weights are kept."""
    rows: list[list[str]] = []
    if loop.fitted_head_accuracy is not None and verdict is None:
        right = f"{loop.fitted_head_accuracy * images:.0f} of {images}, before epoch 1"
        rows.append(["fitted head alone", percent(loop.fitted_head_accuracy), right])
    if verdict is not None and verdict.kept == "frozen":
        return rows
    if loop.best_epoch is None:
        return [*rows, ["last epoch", f"{loop.epochs}", "kept: the best weights were lost"]]
    if loop.best_epoch == 0:
        return [*rows, ["best epoch", f"none of {loop.epochs}", "kept: the fitted head, before epoch 1"]]
    if loop.epochs == 1 and not rows:
        return [["epoch", "1", "of 1"]]  # there was nothing to choose from
    return [*rows, ["best epoch", f"{loop.best_epoch}", f"of {loop.epochs}; this choice flatters accuracy"]]


def _temperature_row(found: Temperature) -> list[str]:
    """Return by what the logits were divided, and what that did to the validation loss."""
    loss = f"validation loss {found.val_loss_before:.3f}, now {found.val_loss:.3f}"
    return ["temperature", f"{found.value:.2f}", loss]


def _verdict_rows(verdict: Verdict, loop: LoopFacts, mode: str) -> list[list[str]]:
    """Return what fine-tuning gained over the head on frozen features."""
    low, high = verdict.interval
    right = f"{verdict.only_fine_tuned_right} gained, {verdict.only_frozen_right} lost"
    spread = f"{right}; 95% {points(low, unit='')} to {points(high, unit='')}"
    rows = [["frozen backbone", percent(verdict.frozen_accuracy), "the head alone"]]
    if verdict.kept == "frozen":
        which = "in the last" if loop.best_epoch is None else f"in epoch {loop.best_epoch}"
        rows.append(["fine-tuned", percent(verdict.fine_tuned_accuracy), f"{which} of {loop.epochs}; not kept"])
    return [
        *rows,
        ["fine-tuning gained", points(verdict.gain), spread],
        _mcnemar_row(verdict),
        ["verdict", *_better_model(verdict)],
        ["kept", verdict.kept, "by the verdict" if mode == "auto" else f"always in mode {mode}"],
        ["cost", duration(verdict.seconds_fine_tuning), f"after {duration(verdict.seconds_head)} for the head"],
    ]


def _better_model(verdict: Verdict) -> tuple[str, str]:
    """Name the better model, and whether the difference is more than chance."""
    if verdict.more_than_chance:
        return "fine-tuned", "better by more than chance"
    if verdict.worse_than_chance:
        return "frozen", "better by more than chance"
    return "even", "no more than chance"


def _mcnemar_row(verdict: Verdict) -> list[str]:
    """Return the p-value of the test, which allows for choosing the best epoch on the same images."""
    if verdict.chosen_from_epochs == 1:
        return ["McNemar", f"p = {verdict.p:.2g}", "exact test"]
    return ["McNemar", f"p ≤ {verdict.p:.2g}", f"exact test, the best of {verdict.chosen_from_epochs} epochs"]


def _speed_rows(features: FeatureReads, head: HeadFit) -> list[list[str]]:
    """Return the speed of each stage, and the time for the head."""
    rows = []
    if features.computed:
        batches = "one at a time" if features.batch_size == 1 else f"batches of {features.batch_size}"
        network = f"{features.way}, {batches}"
        rows.append(["decode", rate(features.decode_images_per_second or 0.0), "reading and resizing alone"])
        rows.append(["forward pass", rate(features.forward_images_per_second or 0.0), network])
        both = f"both together, {counted(features.computed, 'feature')}"
        rows.append(["embedding", rate(features.images_per_second or 0.0), both])
    if features.from_cache:
        rows.append(["from the cache", f"{features.from_cache:,}", "features, not computed again"])
    return [*rows, ["head", duration(head.seconds), _head(head)]]


def _head(head: HeadFit) -> str:
    """Return the kind of the head, and why it is not the usual one."""
    kind, reason = head.chosen["kind"], head.chosen.get("chosen_because")
    return f"{kind}: {reason}" if reason else str(kind)
