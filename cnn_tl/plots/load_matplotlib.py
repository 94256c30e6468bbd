"""Import matplotlib without messages, and with its font list in the cache instead of the home folder."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path

from cnn_tl.cache.location import default_root

_VARIABLE = "MPLCONFIGDIR"


def load_matplotlib() -> None:
    """Import matplotlib with its fonts, before anything else imports it.

    A user's `matplotlibrc` or MPLCONFIGDIR is respected. If no folder is writable, matplotlib uses a temporary one; its
    warnings about that, and about building the font list, are hidden.
    """
    if "matplotlib.font_manager" in sys.modules:
        return
    logger = logging.getLogger("matplotlib")
    level, chosen = logger.level, os.environ.get(_VARIABLE)
    if not chosen and not _user_has_settings():
        os.environ[_VARIABLE] = str(default_root() / "matplotlib")
    logger.setLevel(logging.ERROR)
    try:
        importlib.import_module("matplotlib.font_manager")
    finally:
        logger.setLevel(level)
        if chosen is None:
            os.environ.pop(_VARIABLE, None)  # matplotlib has read it; child processes must not inherit it
        else:
            os.environ[_VARIABLE] = chosen


def _user_has_settings() -> bool:
    """Return whether there is a `matplotlibrc` where matplotlib looks for it."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - pathlib's raises where there is no home
    places = [Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "matplotlib", home / ".matplotlib"]
    if local := os.environ.get("LOCALAPPDATA"):
        places.append(Path(local) / "matplotlib")
    return "MATPLOTLIBRC" in os.environ or any((place / "matplotlibrc").is_file() for place in places)
