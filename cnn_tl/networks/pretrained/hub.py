"""Published weights, on the Hugging Face hub or at a URL: the cache, the download, no long wait offline."""

from __future__ import annotations

import glob
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cnn_tl.core.errors import ResourceError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

FILES = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 2.0
"""Seconds that the first contact may take; the resolver and the hub's own retries can take fifty."""


def cached(card: PretrainedCfg) -> Path | None:
    """Return the weights file that an earlier download, by any tool, left on this machine."""
    if card.hf_hub_id:
        return cached_repository(card.hf_hub_id)
    path = _url_path(_url(card))
    return path if path.is_file() else None


def cached_repository(repository: str) -> Path | None:
    """Return the weights file of a repository's newest revision that was fetched.

    By the layout that the hub documents for its cache, because its own function takes 0.2 s to import.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text("utf-8")
    except (OSError, ValueError):
        return None
    found = (folder / "snapshots" / revision / name for name in FILES)
    return next((path for path in found if path.is_file()), None)


def cached_url(url: str) -> Path | None:
    """Return the file that torch.hub has downloaded from a URL; without torch, so its `set_dir` does not count."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    path = Path(os.path.expanduser(home), "hub", "checkpoints", Path(urlsplit(url).path).name)  # noqa: PTH111 - may fail
    return path if path.is_file() else None


def knock_early(model: str) -> None:
    """Begin to find out whether the hub answers, unless its cache seems to hold the model.

    For the seconds in which torch and timm are imported; `download` takes the answer.
    """
    from huggingface_hub import constants

    if not any(Path(constants.HF_HUB_CACHE).glob(f"models--timm--{glob.escape(model)}*")):
        _early[constants.ENDPOINT] = _Knock(constants.ENDPOINT)


def download(card: PretrainedCfg) -> Path:
    """Download the weights into the cache of the hub (or of torch.hub) and return the file.

    `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN` and the proxy variables are honoured.

    Raises:
        ResourceError: no network, no such file there, or the download broke off.
    """
    from huggingface_hub import constants

    place = constants.ENDPOINT if card.hf_hub_id else _url(card)
    knock = _early.pop(place, None)
    if knock is None or knock.is_stale:
        knock = _Knock(place)
    knock.require_answer()
    try:
        return _from_hub(card.hf_hub_id) if card.hf_hub_id else _from_url(place)
    except Exception as error:  # requests, httpx, urllib and the hub have no common ancestor
        reason = " ".join(str(error).split())[:200]
        raise ResourceError(f"the download from {_host(place)} failed: {reason}") from error


def _from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    *preferred, last = FILES
    for name in preferred:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, last))


def _from_url(url: str) -> Path:
    import torch

    path = _url_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)  # by the field's habit, the start of the file's SHA-256
    torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
    return path


def _url(card: PretrainedCfg) -> str:
    assert isinstance(card.url, str), "timm's cards name a repository or one URL"
    return card.url


def _url_path(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


class _Knock:
    """Asks a place for any answer at all, in a thread of its own, because no timeout bounds the resolver."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._error: Exception | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    @property
    def is_stale(self) -> bool:
        """Whether the answer is of another minute than this one."""
        return time.monotonic() - self._began > 60

    def require_answer(self) -> None:
        """Raise a `ResourceError` unless the answer comes before our patience ends; it began with the question."""
        self._thread.join(max(0.0, self._began + PATIENCE - time.monotonic()))
        error = TimeoutError(f"no answer within {PATIENCE:g} s") if self._thread.is_alive() else self._error
        if error is not None:
            reason = " ".join(str(error).split())[:200]
            raise ResourceError(f"{_host(self._place)} cannot be reached ({reason})") from error

    def _ask(self) -> None:
        try:
            from huggingface_hub import get_session

            get_session().head(self._place, timeout=PATIENCE)
        except Exception as error:  # noqa: BLE001 - whatever keeps us away is the answer
            self._error = error


_early: dict[str, _Knock] = {}


def _host(place: str) -> str:
    return urlsplit(place).hostname or place
