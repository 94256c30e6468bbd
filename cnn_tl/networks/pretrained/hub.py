"""Published weights on the Hugging Face hub or at a URL: the cache, the download, and failing fast offline."""

from __future__ import annotations

import glob
import os
import re
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cnn_tl.core.errors import ResourceError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

FILES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT = 2.0
"""Seconds that the first contact may take; the resolver and the hub's own retries can take fifty."""


def cached(cfg: PretrainedCfg) -> Path | None:
    """Return the weights file that an earlier download, by any tool, has left on this machine."""
    if cfg.hf_hub_id:
        return cached_repository(cfg.hf_hub_id)
    path = _url_path(_url(cfg))
    return path if path.is_file() else None


def cached_repository(repository: str) -> Path | None:
    """Return the weights file of the newest revision of a repository that was downloaded.

    This reads the documented layout of the hub's cache, because the hub's own function takes 0.2 s to import. An
    installation without torch lacks it, and finds none.
    """
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text("utf-8")
    except (OSError, ValueError):
        return None
    found = (folder / "snapshots" / revision / name for name in FILES)
    return next((path for path in found if path.is_file()), None)


def cached_url(url: str) -> Path | None:
    """Return the file that torch.hub has downloaded from a URL; works without torch, so it ignores `set_dir`."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    path = Path(os.path.expanduser(home), "hub", "checkpoints", Path(urlsplit(url).path).name)  # noqa: PTH111 - may fail
    return path if path.is_file() else None


def start_probe(model: str) -> None:
    """Start to find out whether the hub answers, unless its cache seems to have the model.

    This runs while torch and timm are imported; `download` uses the answer.
    """
    if find_spec("huggingface_hub") is None:  # reported by `download`
        return
    from huggingface_hub import constants

    if not any(Path(constants.HF_HUB_CACHE).glob(f"models--timm--{glob.escape(model)}*")):
        _started[constants.ENDPOINT] = _Probe(constants.ENDPOINT)


def download(cfg: PretrainedCfg) -> Path:
    """Download the weights into the cache of the hub (or of torch.hub) and return the file.

    `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN` and the proxy variables are honoured.

    Raises:
        ResourceError: there is no network, no such file, or the download was interrupted.
    """
    from huggingface_hub import constants

    url = constants.ENDPOINT if cfg.hf_hub_id else _url(cfg)
    probe = _started.pop(url, None)
    if probe is None or probe.is_stale:
        probe = _Probe(url)
    probe.require_answer()
    try:
        return _from_hub(cfg.hf_hub_id) if cfg.hf_hub_id else _from_url(url)
    except Exception as error:  # requests, httpx, urllib and the hub share no base class
        reason = " ".join(str(error).split())[:200]
        raise ResourceError(f"the download from {_host(url)} failed: {reason}") from error


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
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)  # by convention the start of the file's SHA-256
    torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
    return path


def _url(cfg: PretrainedCfg) -> str:
    assert isinstance(cfg.url, str), "timm's PretrainedCfg names a repository or one URL"
    return cfg.url


def _url_path(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


class _Probe:
    """Requests any answer from a URL in its own thread, because no timeout applies to the resolver."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._error: Exception | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    @property
    def is_stale(self) -> bool:
        """Whether the answer is more than a minute old."""
        return time.monotonic() - self._began > 60

    def require_answer(self) -> None:
        """Raise a `ResourceError` unless the answer comes within `TIMEOUT` of the request."""
        self._thread.join(max(0.0, self._began + TIMEOUT - time.monotonic()))
        error = TimeoutError(f"no answer within {TIMEOUT:g} s") if self._thread.is_alive() else self._error
        if error is not None:
            reason = " ".join(str(error).split())[:200]
            raise ResourceError(f"{_host(self._url)} cannot be reached ({reason})") from error

    def _ask(self) -> None:
        try:
            from huggingface_hub import get_session

            get_session().head(self._url, timeout=TIMEOUT)
        except Exception as error:  # noqa: BLE001 - any error means that it cannot be reached
            self._error = error


_started: dict[str, _Probe] = {}


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
