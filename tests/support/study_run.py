"""A small evaluation run with two methods of telling names, a study made from it, and a server of it in a thread."""

from __future__ import annotations

import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from human_study.app import create_app
from human_study.definition import Study, read_study
from human_study.make import make_study
from human_study.serve import listen, make_server
from human_study.store import Store
from lorarar.evaluation.results import ImageRecord, MergeFacts, MethodInfo, PairRecord, Results, write_results

# Words that can't come from anywhere else: none of them may ever reach the browser.
OURS, RIVAL = "quokkamerge", "wombatlora"
SECRETS = (OURS, RIVAL, "marmot", "gouache")


def write_run(folder: Path, contents: int = 5, styles: int = 1, images: int = 3) -> Path:
    """A run's folder. Of each method's images the last is accepted by MARS²; of RIVAL's in pair 0, none."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for number in range(contents * styles):
        content, style = f"marmot{number // styles}", f"gouache{number % styles}"
        methods = {
            method: tuple(
                ImageRecord(
                    _image(folder, f"{method}-{number}-{index}.png", (80 * place, 40 * number, 90 * index)),
                    (0.9, 0.9 if index == images - 1 and not (method == RIVAL and number == 0) else 0.1),
                    0.9,
                )
                for index in range(images)
            )
            for place, method in enumerate((OURS, RIVAL), 1)
        }
        subject = tuple(_image(folder, f"{content}-{view}.png", (200, 40 * number, view)) for view in range(2))
        reference = _image(folder, f"{style}.png", (20, 200, number % styles))
        pairs.append(
            PairRecord(
                content,
                style,
                f"a {content} in {style} style",
                subject,
                reference,
                dict.fromkeys(methods, MergeFacts(0.1)),
                methods,
            )
        )
    named = (MethodInfo(OURS, "Ours", "ours"), MethodInfo(RIVAL, "Rival", "rival"))
    write_results(Results({}, {}, named, tuple(pairs)), folder / "results.json")
    return folder


def _image(folder: Path, name: str, color: tuple[int, int, int]) -> str:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", f"made by {name}")
    Image.new("RGB", (24, 24), color).save(folder / name, pnginfo=text)
    return name


def new_study(folder: Path, contents: int = 5, case: str = "random") -> Study:
    """A study made from a new run; `contents` is its number of tasks."""
    run = write_run(folder / "run", contents)
    made = make_study(run, (OURS, RIVAL), case, folder / "study")
    return read_study(made.folder)


@contextmanager
def serving(study: Study, answers: Path, shared_device: bool = False) -> Iterator[tuple[int, Store]]:
    """The real server on a free port, in a thread; yields the port and the store."""
    store = Store(answers, study)
    socket = listen("127.0.0.1", 0)
    socket.listen(128)
    server = make_server(create_app(study, store, shared_device))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield socket.getsockname()[1], store
    finally:
        server.should_exit = True
        thread.join(20)
        socket.close()
    assert not thread.is_alive()


@dataclass
class Reply:
    """One HTTP response, with the raw bytes that a browser would get."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What a query gives on a file of answers, read without the project's code."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


class Browser:
    """A participant's HTTP client: keeps its cookie, and everything it was sent in `seen`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        self.seen: list[str] = []

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {"Cookie": self.cookie} if self.cookie else {}
        connection.request(method, path, body, given | (headers or {}))
        response = connection.getresponse()
        content = response.read()
        fields = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        if "set-cookie" in fields:
            self.cookie = fields["set-cookie"].partition(";")[0]
        self.seen.append(path + repr(fields) + content.decode("latin-1"))
        return Reply(response.status, fields, content)

    def get(self, path: str) -> Reply:
        return self.send("GET", path)

    def post(self, path: str, data: Any) -> Reply:
        return self.send("POST", path, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def start(self) -> list[dict[str, Any]]:
        """Become a participant; the tasks in this one's order."""
        reply = self.post("/api/participants", {})
        assert reply.status == 200, reply.body
        tasks: list[dict[str, Any]] = reply.json()["tasks"]
        return tasks

    def answer(self, position: int, choice: str, seconds: float = 1.5) -> Reply:
        return self.post("/api/answers", {"position": position, "choice": choice, "seconds": seconds})
