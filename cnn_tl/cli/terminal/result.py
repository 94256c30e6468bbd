"""What a finished run amounts to, as tables that fit 80 columns."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.accuracy import show_classes
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, duration, percent, points, rate

if TYPE_CHECKING:
    from cnn_tl.training.result import TrainResult


def show_result(result: TrainResult) -> None:
    """Print how good the model is, how far that can be trusted, and what to do next; 80 columns suffice."""
    low, high = result.interval
    baseline_class = printable(result.baseline_class)
    rows = [
        ["validation accuracy", percent(result.accuracy), f"{result.correct} of {counted(result.images, 'image')}"],
        ["95% interval", f"{percent(low)} - {percent(high)}", "Wilson; more images make it narrower"],
        ["majority-class baseline", percent(result.baseline), f"always {baseline_class}, most common in training"],
    ]
    rows += _epoch_rows(result)
    if "frozen_sha256" in result.facts:
        rows.append(["frozen part", "unchanged", f"buffers too; sha256 {result.facts['frozen_sha256'][:12]}"])
    rows += _verdict_rows(result.facts, result.mode)
    rows += _temperature_rows(result.facts)
    rows += _speed_rows(result.facts)
    if result.set_aside:
        where = f"broken, listed in {result.run / 'manifest.json'}"
        rows.append(["set aside", counted(result.set_aside, "image"), where])
    since = "since it was resumed" if result.facts.get("resumed") else ""
    if since and "verdict" in result.facts:
        since += "; cost: all starts"
    rows.append(["time", duration(result.seconds), since])
    console.show(console.table(["result", ">", ""], rows, dense=True))
    all_are = f"all are in {printable(result.run / 'result.json')}, under per_class"
    show_classes(["right / images>"], result.per_class, all_are, every=False)
    _say_if_it_was_no_use(result)
    run = shlex.quote(str(result.run))
    console.say("next:")
    console.say_command(["cnn-tl", "predict", run, "IMAGES..."])
    console.say_command(["cnn-tl", "export", run])


def _say_if_it_was_no_use(result: TrainResult) -> None:
    """Say so where the fitted head alone was as good as what has been trained from it, or better."""
    if result.facts.get("best_epoch") == 0:
        console.say("fine-tuning did not help here: no epoch was better than the fitted head alone,")
        console.say("which is kept; more epochs or a lower --lr may help, or --mode freeze, which is")
        console.say("quicker and gives such a head too")
        console.say()
    elif result.accuracy < result.facts.get("fitted_head_accuracy", 0.0):
        console.say("fine-tuning did not help here: no epoch was as good as the fitted head alone;")
        console.say("--mode freeze gives that head; --mode auto keeps it unless fine-tuning gains")
        console.say("more than chance can do")
        console.say()
    if result.facts.get("verdict", {}).get("worse_than_chance") and result.facts["verdict"]["kept"] == "fine-tuned":
        console.say("fine-tuning made it worse, by more than chance; --mode freeze gives the better")
        console.say()


def _epoch_rows(result: TrainResult) -> list[list[str]]:
    """Return which epoch the model is of, if it is of one, and where a loop without a verdict began."""
    facts, rows = result.facts, []
    if "fitted_head_accuracy" in facts and "verdict" not in facts:
        share = facts["fitted_head_accuracy"]
        right = f"{share * result.images:.0f} of {result.images}, before any fine-tuning"
        rows.append(["fitted head alone", percent(share), right])
    if "best_epoch" not in facts or facts.get("verdict", {}).get("kept") == "frozen":
        return rows
    best, epochs = facts["best_epoch"], facts["epochs"]
    if best is None:
        return [*rows, ["last epoch", f"{epochs}", "kept: the best weights were lost"]]
    if epochs == 1 and ("fitted_head_accuracy" not in facts or "verdict" in facts):
        return [*rows, ["epoch", f"{best}", "of 1"]]  # there was nothing to choose from
    return [*rows, ["best epoch", f"{best}", f"of {epochs}; this choice flatters accuracy"]]


def _temperature_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return how much less sure (or surer) a network was made than it had become in its loop."""
    found = facts.get("temperature")
    if found is None:
        return []
    loss = f"validation loss {found['val_loss_before']:.3f}, now {found['val_loss']:.3f}"
    return [["temperature", f"{found['value']:.2f}", loss]]


def _verdict_rows(facts: Mapping[str, Any], mode: str) -> list[list[str]]:
    """Return what fine-tuning gained over the head on frozen features, where both were tried."""
    verdict = facts.get("verdict")
    if verdict is None:
        return []
    low, high = verdict["interval"]
    right = f"{verdict['only_fine_tuned_right']} gained, {verdict['only_frozen_right']} lost"
    spread = f"{right}; 95% {points(low, unit='')} to {points(high, unit='')}"
    rows = [["frozen backbone", percent(verdict["frozen_accuracy"]), "the head alone"]]
    if verdict["kept"] == "frozen":
        which = "in the last" if facts["best_epoch"] is None else f"in epoch {facts['best_epoch']}"
        tuned = f"{which} of {facts['epochs']}; not kept"
        rows.append(["fine-tuned", percent(verdict["fine_tuned_accuracy"]), tuned])
    return [
        *rows,
        ["fine-tuning gained", points(verdict["gain"]), spread],
        _mcnemar(verdict),
        ["verdict", *_judged(verdict)],
        ["kept", verdict["kept"], "by the verdict" if mode == "auto" else f"as mode {mode} does"],
        ["cost", duration(verdict["seconds_fine_tuning"]), f"after {duration(verdict['seconds_head'])} for the head"],
    ]


def _judged(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """Name the better model, and say whether chance could do as much."""
    if verdict["more_than_chance"]:
        return "fine-tuned", "better by more than chance"
    if verdict.get("worse_than_chance"):
        return "frozen", "better by more than chance"
    return "even", "no more than chance can do"


def _mcnemar(verdict: Mapping[str, Any]) -> list[str]:
    """Name the test's p, and that it allows for the choice of the best epoch by the same images."""
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
        rows.append(["decode", rate(features["decode_images_per_second"]), "reading and resizing alone"])
        network = f"{features['way']}, batches of {features['batch_size']}, alone"
        rows.append(["forward pass", rate(features["forward_images_per_second"]), network])
        both = f"both together, {counted(features['computed'], 'feature')}"
        rows.append(["embedding", rate(features["images_per_second"]), both])
    if features["from_cache"]:
        rows.append(["from the cache", f"{features['from_cache']:,}", "features that were at hand already"])
    return [*rows, ["head", duration(head["seconds"]), _head(head)]]


def _head(head: Mapping[str, Any]) -> str:
    """Return what was fitted, and why it is not the usual kind."""
    reason = head.get("chosen_because")
    return f"{head['kind']}: {reason}" if reason else str(head["kind"])
