"""Make the web application. It sends no method's name: images have keyed ids, tasks are places in one's own order.

GET  /                    the page            GET /api/state         the example; with a participant, the tasks
POST /api/participants    start               POST /api/answers      {"position", "choice", "seconds"}
GET  /images/{id}         one image as PNG
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from human_study.definition import Example, Study, Task, clean_png
from human_study.store import CHOICES, Store, StudyFull, UnknownParticipant

MAX_BODY = 1024  # bytes; an answer takes about 60
MAX_SECONDS = 86_400.0
COOKIE_SECONDS = 30 * 86_400  # how long a participant can come back
CACHED_IMAGES = 128  # of at most 1024 × 1024 pixels: up to about 200 MB for photographs

_PAGE = {
    "/": ("index.html", "text/html"),
    "/study.css": ("study.css", "text/css"),
    "/study.js": ("study.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(study: Study, store: Store, shared_device: bool = False) -> Starlette:
    """Make the ASGI application. `shared_device` lets the next person start after the thank-you page."""
    server = _Server(study, store, shared_device)
    routes = [Route(path, _page(*entry)) for path, entry in _PAGE.items()]
    routes += [
        Route("/api/state", server.state),
        Route("/api/participants", server.start, methods=["POST"]),
        Route("/api/answers", server.answer, methods=["POST"]),
        Route("/images/{image}", server.image),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refusal, Exception: _failure})


class _Server:
    def __init__(self, study: Study, store: Store, shared_device: bool) -> None:
        self.study = study
        self.store = store
        self.shared_device = shared_device
        self.tasks = {task.id: task for task in study.tasks}
        # Two studies on one host share its cookies, whatever their ports.
        self.cookie = f"participant_{hashlib.sha256(store.image_key).hexdigest()[:12]}"
        self.ids = {path: self._id(path) for path in study.image_paths()}
        self.images = {image: path for path, image in self.ids.items()}
        self.png = lru_cache(maxsize=CACHED_IMAGES)(clean_png)

    def _id(self, path: Path) -> str:
        """Return an id that tells nothing of the path without the study's key, and stays the same over restarts."""
        name = path.relative_to(self.study.folder).as_posix()
        return hmac.new(self.store.image_key, name.encode(), hashlib.sha256).hexdigest()[:24]

    async def state(self, request: Request) -> Response:
        token = request.cookies.get(self.cookie)
        return _json(await run_in_threadpool(self._state, token))

    def _state(self, token: str | None) -> dict[str, Any]:
        example = self.study.example
        tasks: list[dict[str, Any]] | None = None
        # An unknown participant's answers were moved away since: this person starts anew.
        with suppress(UnknownParticipant):
            tasks = None if token is None else self._tasks(token)
        return {
            "question": self.study.question,
            "total": len(self.study.tasks),
            "shared_device": self.shared_device,
            "example": self._shown(example, example.options, better=example.better, explanation=example.explanation),
            "tasks": tasks,
        }

    def _tasks(self, token: str) -> list[dict[str, Any]]:
        listed = []
        for assignment, choice in self.store.order(token):
            task = self.tasks[assignment.task]
            options = [task.images[method] for method in assignment.options]
            listed.append(self._shown(task, options, choice=choice))
        return listed

    def _shown(self, task: Task | Example, options: Sequence[Path], **more: Any) -> dict[str, Any]:
        subject, style = self.ids[task.subject_reference], self.ids[task.style_reference]
        return {"subject": subject, "style": style, "options": [self.ids[option] for option in options], **more}

    async def start(self, request: Request) -> Response:
        await _read_json(request)
        try:
            token = await run_in_threadpool(self.store.new_participant)
        except StudyFull:
            raise HTTPException(503, "This study takes no more participants.") from None
        response = _json(await run_in_threadpool(self._state, token))
        response.set_cookie(self.cookie, token, max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
        return response

    async def answer(self, request: Request) -> Response:
        position, choice, seconds = _check_answer(await _read_json(request))
        token = request.cookies.get(self.cookie)
        if token is None:
            raise HTTPException(401, "No participant: start the study first, with cookies allowed.")
        try:
            given = await run_in_threadpool(self.store.record, token, position, choice, seconds)
        except UnknownParticipant:
            raise HTTPException(401, "This participant is not known here; reload the page to start.") from None
        except IndexError:
            raise HTTPException(400, f"position must be 0 to {len(self.tasks) - 1}.") from None
        return _json({"answered": given, "total": len(self.tasks)})

    async def image(self, request: Request) -> Response:
        path = self.images.get(request.path_params["image"])
        if path is None:
            raise HTTPException(404, "No such image in this study.")
        content = await run_in_threadpool(self.png, path)
        headers = {**_HEADERS, "Cache-Control": "private, max-age=86400"}
        return Response(content, media_type="image/png", headers=headers)


def _check_answer(data: Mapping[str, Any]) -> tuple[int, str, float]:
    position, choice, seconds = (data.get(key) for key in ("position", "choice", "seconds"))
    # SQLite's integers have 64 bits; no study comes near.
    if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position < 2**31:
        raise HTTPException(400, "position must be a whole number from 0.")
    if choice not in CHOICES:
        raise HTTPException(400, f"choice must be one of {', '.join(CHOICES)}.")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
        raise HTTPException(400, "seconds must be a number from 0.")
    # Somebody may leave a task open overnight: the answer counts, its time says no more than a day.
    return position, str(choice), float(min(seconds, MAX_SECONDS))


async def _read_json(request: Request) -> dict[str, Any]:
    """Return the body, a JSON object of at most MAX_BODY bytes. A foreign page's form can't send JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send application/json.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"Send at most {MAX_BODY} bytes.")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "This is not valid JSON.") from None
    if not isinstance(data, dict):
        raise HTTPException(400, "Send one JSON object.")
    return data


def _page(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("human_study") / "page" / name).read_bytes()
    headers = {**_HEADERS, "Cache-Control": "no-cache"}

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return endpoint


def _json(data: Mapping[str, Any], status: int = HTTPStatus.OK) -> JSONResponse:
    return JSONResponse(data, status, headers={**_HEADERS, "Cache-Control": "no-store"})


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


async def _failure(request: Request, error: Exception) -> Response:
    # The reason goes to the server's log; it may hold a path.
    return _json({"error": "The server failed. Tell the person who runs the study, then try again."}, 500)
