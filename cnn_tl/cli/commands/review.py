"""`cnn-tl review`: go through what doctor found suspicious, on a page of this machine."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import Stopped, printable
from cnn_tl.core.formatting import counted

if TYPE_CHECKING:
    from cnn_tl.serving.review.review import Review


def review(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="What `cnn-tl doctor DATA --output FOLDER` wrote.",
            autocompletion=completion.examined_folders,
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8001,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open no browser.")] = False,
) -> None:
    """Decide by keyboard about the images that doctor suspects: keep, relabel, exclude, undo.

    Twins, doubtful labels and outliers appear one by one on a page that only this machine can open. Each decision is
    on the disk at once, in FOLDER: exclude.txt and relabel.csv are for train, decisions.jsonl is what a later review
    goes on from. No image is moved or changed. Ctrl-C ends the review.
    """
    from cnn_tl.doctor.decisions import Decisions
    from cnn_tl.serving import sockets
    from cnn_tl.serving.review import suspects
    from cnn_tl.serving.review.review import Review

    examined = suspects.read(folder)
    if not examined.suspects:
        console.say(f"{printable(folder)} names no suspects: there is nothing to review")
        return
    with sockets.bind("127.0.0.1", port) as listening:
        from cnn_tl.serving.review.server import Server

        decided = Review(examined, Decisions(folder))
        server = Server(listening, decided, folder.resolve().name)

        def say_where() -> None:
            still = f"{decided.decided:,} decided already; " if decided.decided else ""
            console.say(
                f"{counted(decided.total, 'suspect')} of {printable(folder)} at {server.url}; {still}Ctrl-C stops it"
            )
            console.out.file.flush()
            if not no_browser and _has_display():
                import webbrowser

                webbrowser.open(server.url)

        try:
            server.run(say_where)
        except Stopped as stop:
            _say_what_next(decided)
            again = f"cnn-tl review {shlex.quote(printable(folder))}"
            rest = f"; {again} goes on" if decided.decided < decided.total else ""
            raise Stopped(
                f"{decided.decided:,} of {counted(decided.total, 'suspect')} decided{rest}", stop.exit_code - 128
            ) from None
        finally:
            decided.close()


def _say_what_next(decided: Review) -> None:
    """Print the command that uses the decisions, once there are any."""
    if decided.decided:
        console.say("train on the data as corrected:")
        console.say_command(decided.command)


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
