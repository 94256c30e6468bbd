"""What every test of the command line checks besides: no line that is printed cuts a word, on screens of any width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from whole_words import WIDTHS, faults_of

from cnn_tl.cli.terminal import console


@pytest.fixture(autouse=True)
def words_stay_whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Print what a test prints on screens of other widths too, beside it, and look for words that are cut."""
    faults: list[str] = []
    inside = False

    def is_own(screen: object) -> bool:
        return screen is console.out or screen is console.err

    def watched(name: str) -> None:
        original = getattr(console, name)

        def call(*args: Any, **options: Any) -> None:
            nonlocal inside
            original(*args, **options)
            screens = [arg for arg in (*args, *options.values()) if isinstance(arg, Console)]
            if inside or not all(map(is_own, screens)):
                return
            inside = True

            def show(screen: Console) -> None:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(console, "breaks_lines", lambda _: True)
                    patch.setattr(console, "out", screen)
                    others = [screen if isinstance(arg, Console) else arg for arg in args]
                    original(*others, **{key: screen if key == "screen" else value for key, value in options.items()})

            try:
                faults.extend(faults_of(show, f"{name}: "))
            finally:
                inside = False

        monkeypatch.setattr(console, name, call)

    for name in ("put", "put_groups", "say_command"):
        watched(name)
    original_show = console.show

    def show_table(renderable: Any, screen: Console | None = None) -> None:
        original_show(renderable, screen or console.out)
        if not isinstance(renderable, Text) and (screen is None or is_own(screen)):  # texts are pages of --help
            made_for = (120,) if console.width() >= 120 else WIDTHS  # inspect has more columns there
            faults.extend(faults_of(lambda paper: paper.print(renderable), "table: ", made_for))

    monkeypatch.setattr(console, "show", show_table)
    yield
    assert not faults, "\n".join(faults)
