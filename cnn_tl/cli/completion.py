"""Shell completion: names that are known without importing torch.

If no name begins with what was typed, the shell completes file names.
"""

from __future__ import annotations

from pathlib import Path


def recipes(incomplete: str) -> list[str]:
    """Complete shipped recipes."""
    from cnn_tl.recipe import names

    return _beginning(names(), incomplete)


def guides(incomplete: str) -> list[str]:
    """Complete guides."""
    from cnn_tl.guides import topics

    return _beginning(topics(), incomplete)


def settings(incomplete: str) -> list[str]:
    """Complete the keys of a recipe for `--set`."""
    from cnn_tl.recipe import KEYS

    return _beginning([f"{key}=" for key in KEYS], incomplete)


def models(incomplete: str) -> list[str]:
    """Complete well-known models; the complete list would need timm, which takes seconds to import."""
    from cnn_tl.networks.pretrained.known import NAMES

    return _beginning(NAMES, incomplete)


def runs(incomplete: str) -> list[str]:
    """Complete run folders in the typed folder and in `runs`."""
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    found = {path.parent for place in {folder, Path("runs")} for path in place.glob("*/recipe.yaml")}
    return _beginning(sorted(str(path) for path in found), incomplete)


def examined_folders(incomplete: str) -> list[str]:
    """Complete folders that doctor wrote, in the typed folder."""
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    found = {path.parent for pattern in ("labels.csv", "twins.csv") for path in folder.glob(f"*/{pattern}")}
    return _beginning(sorted(str(path) for path in found), incomplete)


def models_and_runs(incomplete: str) -> list[str]:
    """Complete run folders and models, for a command that takes either."""
    return [*runs(incomplete), *models(incomplete)]


def _beginning(names: list[str] | tuple[str, ...], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
