"""The routes of the HTTP API, and the form of their answers."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cnn_tl import __version__
from cnn_tl.abstention.distance import UNKNOWN_SHARE
from cnn_tl.abstention.rule import Verdict
from cnn_tl.core.errors import BadImageError, ResourceError
from cnn_tl.core.formatting import counted
from cnn_tl.serving.limits import Gate
from cnn_tl.serving.metrics import Measured
from cnn_tl.serving.service import Service

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class _Json(JSONResponse):
    """JSON in ASCII, since the name of a class may not be valid UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class Ranked(BaseModel):
    """A class and its probability, 0..1."""

    label: str
    probability: float


class Row(BaseModel):
    """The prediction for one image, as `cnn-tl predict --format json` writes it."""

    file: str
    label: str | None
    probability: float | None
    top: list[Ranked]
    verdict: Verdict | None
    set: list[str] | None
    distance: float | None
    error: str | None


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str


class Judging(BaseModel):
    """By which rule images are answered, unsure or unknown, see `cnn-tl guide abstention`.

    Without `max_error` and `unknown` a verdict is a remark; else the label of an image that is not answered is null.
    """

    max_error: float | None
    unknown: float | None
    least_probability: float
    most_distance: float | None
    withholds: bool


class Health(BaseModel):
    """Whether the server answers, and with which model."""

    status: str
    model: str
    classes: list[str]
    heat_map: str
    version: str
    max_files: int
    max_bytes: int
    rule: Judging


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "wrong field, parameter or number of files"},
    408: {"model": Problem, "description": "the request took too long to arrive"},
    413: {"model": Problem, "description": "the request is too large"},
    415: {"model": Problem, "description": "not multipart/form-data"},
    503: {"model": Problem, "description": "the server is busy; `Retry-After` says when to try again"},
}
_UNREADABLE: dict[int | str, dict[str, Any]] = {
    422: {"model": list[Row], "description": "an image cannot be read; its row says why, the others are answered"}
}
_HEAT_MAP: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/png": {}},
        "description": "X-Class (percent-encoded), X-Method; X-Caveat, if present, says why not to trust it",
    },
    422: {"model": Problem, "description": "the image cannot be read"},
    501: {"model": Problem, "description": "the server lacks a package for drawing"},
}


def build(service: Service, *, local: bool) -> FastAPI:
    """Return the application.

    Args:
        local: whether only this machine can reach it.
    """
    app = FastAPI(
        title="cnn-tl",
        version=__version__,
        description=f"The model {service.name}: {counted(len(service.classifier.classes), 'class')}.",
        docs_url=None,
        redoc_url=None,  # both would load their scripts from elsewhere
    )
    _add_api(app, service)
    _add_page(app)
    _add_problems(app)

    app.add_middleware(Gate, limits=service.limits, local=local)
    paths = [*PAGE, "/predict", "/explain", "/health", "/metrics", "/openapi.json"]
    app.add_middleware(Measured, metrics=service.metrics, paths=paths)
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post("/predict", response_model=list[Row], responses=_REFUSALS | _UNREADABLE)
    async def predict(
        files: Annotated[list[UploadFile], File(description="One or many images.")],
        top: Annotated[int, Query(ge=1, description="How many classes to list for each image.")] = 1,
    ) -> Response:
        """Predict the class of images, one row each."""
        most = service.limits.files
        if len(files) > most:
            raise HTTPException(400, f"{counted(len(files), 'file')} in one request; {most} at most")
        images = [(upload.filename or "", await upload.read()) for upload in files]
        answers = await service.answers(images, top)
        unread = any(answer.error is not None for answer in answers)
        return _Json([answer.to_dict() for answer in answers], 422 if unread else 200)

    @app.post("/explain", response_class=Response, responses=_REFUSALS | _HEAT_MAP)
    async def explain(
        file: Annotated[UploadFile, File(description="One image.")],
        request: Request,
        label: Annotated[
            str | None, Query(alias="class", description="The class to explain; by default the predicted one.")
        ] = None,
    ) -> Response:
        """Draw the evidence for a class as PNG, over the part of the image that the network sees."""
        named = _with_surrogates(request, "class", label)
        explained, png, caveat = await service.heat(await file.read(), named)
        headers = {"X-Class": quote(explained, errors="surrogatepass"), "X-Method": service.explains}
        if caveat is not None:
            headers["X-Caveat"] = caveat
        return Response(png, media_type="image/png", headers=headers)

    @app.get(
        "/health", response_model=Health, responses={503: {"model": Health, "description": "the server is stopping"}}
    )
    async def health() -> Response:
        """Say whether the server answers, and with which model."""
        facts = {
            "status": "ok" if service.ready else "stopping",
            "model": service.name,
            "classes": service.classifier.classes,
            "heat_map": service.explains,
            "version": __version__,
            "max_files": service.limits.files,
            "max_bytes": service.limits.body,
            "rule": _rule(service),
        }
        return _Json(facts, 200 if service.ready else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return counters and durations in the text format of Prometheus."""
        return Response(generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _rule(service: Service) -> dict[str, Any]:
    rule, knows_distance = service.rule, math.isfinite(service.rule.most_distance)
    by_default = UNKNOWN_SHARE if knows_distance else None
    return {
        "max_error": service.max_error,
        "unknown": by_default if service.unknown is None else service.unknown,
        "least_probability": rule.least_confidence,
        "most_distance": rule.most_distance if knows_distance else None,
        "withholds": rule.withholds,
    }


def _with_surrogates(request: Request, name: str, decoded: str | None) -> str | None:
    """Return a parameter with its lone surrogates, as in `X-Class`; the decoder of the framework drops them."""
    query = request.scope["query_string"].decode("latin-1")
    values = parse_qs(query, keep_blank_values=True, errors="surrogateescape").get(name)
    try:
        return values[-1].encode(errors="surrogateescape").decode(errors="surrogatepass") if values else decoded
    except UnicodeError:
        return decoded


def _add_page(app: FastAPI) -> None:
    def add(path: str, content: bytes, media_type: str) -> None:
        async def page() -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(path, page, methods=["GET"], include_in_schema=False)

    for path, (name, media_type) in PAGE.items():
        add(path, files("cnn_tl.serving").joinpath("page", name).read_bytes(), media_type)


def _add_problems(app: FastAPI) -> None:
    """Answer every error with `{"error": one line}`."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _Json({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "multipart/form-data":
            return _Json({"error": f"send images as multipart/form-data, not {kind or 'without a type'}"}, 415)
        first = error.errors()[0]
        where, name = first["loc"][0], str(first["loc"][1]) if len(first["loc"]) > 1 else ""
        if where == "body":
            wrong = f"no file in the field {name!r}"
            if first["type"] != "missing":  # there may be other files
                wrong = f"a field {name!r} holds text instead of a file"
            return _Json({"error": f"{wrong}; curl -F {name}=@image.jpg sends one"}, 400)
        return _Json({"error": f"{name}: {first['msg']}"}, 400)

    @app.exception_handler(BadImageError)
    async def unreadable(request: Request, error: BadImageError) -> Response:
        return _Json({"error": error.reason}, 422)

    @app.exception_handler(ResourceError)
    async def lacking_resource(request: Request, error: ResourceError) -> Response:
        return _Json({"error": str(error)}, 503, {"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def our_bug(request: Request, error: Exception) -> Response:
        return _Json({"error": f"a bug in cnn-tl {__version__}: {type(error).__name__}"}, 500)
