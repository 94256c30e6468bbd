"""Replace an attribute or an imported module for the duration of a block."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_MISSING: Any = object()


@contextmanager
def attribute_replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set `owner.name` inside the block, then restore it.

    An attribute that the owner only inherits is removed again, not set on the owner.

    Raises:
        AttributeError: the owner has no such attribute.
    """
    getattr(owner, name)
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def modules_replaced(stand_ins: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Let `import` find these modules inside the block; None makes the import fail, as if nothing were installed.

    A stand-in that the block itself has replaced by another module is left alone.
    """
    before = {name: sys.modules.get(name, _MISSING) for name in stand_ins}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name, _MISSING) is not stand_in:
                continue
            if before[name] is _MISSING:
                del sys.modules[name]
            else:
                sys.modules[name] = before[name]
