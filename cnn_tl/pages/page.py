"""One HTML file from a template: styles and script inside it, and a policy by which it can load nothing.

Everything that a template prints is escaped unless it is `Markup`. Styles and the script are allowed by their hashes,
so a name that slips through the escaping still cannot run; therefore templates have no style attributes and no
handlers in attributes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cnn_tl.core import formatting
from cnn_tl.core.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

_INSIDE = {
    "style": "page.css",
    "script": "page.js",
    "review_style": "review.css",
    "review_script": "review.js",
}
"""Name in the templates -> file that they hold; with `_hash` behind the name, its hash for the policy."""

_UNSAFE_IN_SCRIPTS = re.compile("[<>&\u2028\u2029\ud800-\udfff]")

_OPTION = re.compile(r"(?<!\w)(--[a-z][\w-]*)")


def render(template: str, **context: Any) -> str:
    """Return the page that a template of `templates/` makes of a context."""
    return "".join(stream(template, **context))


def stream(template: str, **context: Any) -> Iterator[str]:
    """Yield the pieces of the page one by one: the context may hold iterators that are read on the way."""
    yield from _environment().get_template(template).generate(**context)


def shown(text: str) -> Markup:
    """Return a name for display: control and bidi characters as visible escapes, isolated from the text around it."""
    return Markup("<bdi>{}</bdi>").format(printable(text))


def prose(text: str) -> Markup:
    """Return a sentence for display, in which no line ends within an option such as --model."""
    parts = _OPTION.split(printable(text))
    return Markup().join(
        Markup('<span class="whole">{}</span>').format(one) if i % 2 else one for i, one in enumerate(parts)
    )


def brief(text: str, most: int = 60) -> str:
    """Return a name cut to its first characters, for places where it is repeated."""
    text = printable(text[: most + 1])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def safe_json(value: Any) -> Markup:
    r"""Return JSON that may stand in a <script> element: `<`, `>`, `&` and line separators as \u003c and so on.

    Numbers that are not finite become null.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(_UNSAFE_IN_SCRIPTS.sub(lambda one: f"\\u{ord(one[0]):04x}", text))


def data_url(image: bytes) -> Markup:
    """Return the URL that holds a WebP or JPEG file itself."""
    kind = "webp" if image[8:12] == b"WEBP" else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(image).decode()}")


def no_picture(alt: str) -> Markup:
    """Return the empty place of a thumbnail that is not shown."""
    return Markup('<span class="thumb none" role="img" aria-label="{}">no preview</span>').format(printable(alt))


def picture(image: bytes | None, alt: str) -> Markup:
    """Return an <img> that holds a thumbnail; an empty place without one."""
    if image is None:
        return no_picture(alt)
    return Markup('<img class="thumb" src="{}" alt="{}" decoding="async">').format(data_url(image), printable(alt))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _environment() -> Environment:
    """Return the templates with their filters; jinja2 is imported with the first page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, file in _INSIDE.items():
        text = (TEMPLATES / file).read_text("utf-8")
        environment.globals |= {name: Markup(text), f"{name}_hash": _hash(text)}
    environment.globals["picture"] = picture
    names = ("counted", "percent", "certainty", "points", "small", "duration", "readable_bytes")
    environment.filters |= {name: getattr(formatting, name) for name in names}
    environment.filters |= {
        "shown": shown,
        "prose": prose,
        "brief": brief,
        "printable": printable,
        "safe_json": safe_json,
        "ln": math.log,
    }
    return environment
