"""Keys, values and policies as a message says them."""

from __future__ import annotations

import json


def shown(value: object) -> str:
    """Return a value as it would be written, as far as a line goes."""
    return shortened(json.dumps(value, default=str))


def shortened(text: str, width: int = 60) -> str:
    """Return a text, or its beginning."""
    return text if len(text) <= width else text[: width - 3] + "..."


def policy_shown(policy: str | tuple[str, ...] | None) -> str:
    """Write a freeze policy as it stands in a recipe."""
    return policy if isinstance(policy, str) else f"[{', '.join(policy or ())}]"
