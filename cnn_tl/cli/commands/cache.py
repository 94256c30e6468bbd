"""`cnn-tl cache`: show, empty or shrink what is cached for later runs."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.help import Command, Group
from cnn_tl.core.errors import ResourceError, printable
from cnn_tl.core.formatting import counted, parse_bytes, readable_bytes

if TYPE_CHECKING:
    from cnn_tl.cache.housekeeping import CacheInfo, SpaceInfo

app = typer.Typer(
    cls=Group,
    help="Show, empty or shrink the cache of features and images, in ~/.cache/cnn-tl or the folder that CNN_TL_CACHE "
    "names.",
    no_args_is_help=True,
)


@app.command("info", cls=Command)
def show_info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is cached, how large it is, and when it was last used."""
    from cnn_tl.cache import housekeeping
    from cnn_tl.cache.location import default_root

    found = housekeeping.info(default_root())
    if as_json:
        console.print_json({**asdict(found), "root": str(found.root)})
    else:
        _show(found)


@app.command(cls=Command)
def clear() -> None:
    """Remove everything from the cache."""
    from cnn_tl.cache import housekeeping
    from cnn_tl.cache.location import default_root

    root = default_root()
    freed = housekeeping.clear(root)
    if left := housekeeping.info(root).nbytes:
        raise ResourceError(
            f"{readable_bytes(left)} in {printable(root)} cannot be removed; check permissions, and what uses it"
        )
    console.say(f"freed {readable_bytes(freed)}")


@app.command(cls=Command)
def prune(
    max_size: Annotated[
        str,
        typer.Option("--max-size", metavar="SIZE", help="Size to shrink to, such as 500MB, 2GB or 1.5GiB."),
    ],
) -> None:
    """Remove the least recently used entries until the cache is small enough."""
    from cnn_tl.cache import housekeeping
    from cnn_tl.cache.location import default_root

    most = parse_bytes(max_size)
    root = default_root()
    freed = housekeeping.prune(root, most)
    left = housekeeping.info(root)
    if left.nbytes - left.leftover_nbytes > most:
        raise ResourceError(
            f"{readable_bytes(left.nbytes)} in {printable(root)} remain, more than {max_size}, because they cannot be "
            "removed; check permissions, and what uses them"
        )
    console.say(f"freed {readable_bytes(freed)}; {readable_bytes(left.nbytes)} are left")


def _show(found: CacheInfo) -> None:
    console.say(f"{printable(found.root)}: {readable_bytes(found.nbytes)}")
    rows = [(*_described(s), f"{s.rows:,}", readable_bytes(s.nbytes), _ago(s.used)) for s in found.spaces]
    rows += [(n.model, "network", "", readable_bytes(n.nbytes), _ago(n.used)) for n in found.networks]
    if rows:
        console.show(console.table(["model", "what", "rows>", "size>", "last used"], rows))
    if found.leftover_nbytes:
        console.note(
            f"{readable_bytes(found.leftover_nbytes)} are unfinished files of processes that were killed or still write"
        )


def _described(space: SpaceInfo) -> tuple[str, str]:
    """Return the model, and what its rows are, in words."""
    facts: dict[str, Any] = space.facts
    pixels = facts.get("preprocessing")
    size = f"{pixels.get('width')} px" if isinstance(pixels, dict) and "width" in pixels else None
    if kind := facts.get("pictures"):
        side = facts.get("side")
        shown = f"{kind}, {size}" if size else f"{kind} of {side} px, rows of {facts.get('row_side')}"
        return "images", printable(shown)
    parts = [facts.get("boundary", "features"), size, facts.get("engine", facts.get("precision")), facts.get("device")]
    return printable(str(facts.get("model", "?"))), printable(", ".join(str(part) for part in parts if part))


def _ago(used: float) -> str:
    seconds = max(0.0, time.time() - used)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{counted(int(seconds // length), unit)} ago"
    return "just now"
