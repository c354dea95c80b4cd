"""The human study's HTTP interface without a browser, and its command. Its page is tested in a real one by
tests/human_study/test_human_study_browser.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from study_run import OURS, RIVAL, SECRETS, Browser, new_study, rows, serving, write_run

from human_study import serve as serve_module
from human_study.definition import Study, clean_png
from human_study.store import read_answers
from lorarar.commands.study import main
from lorarar.errors import InputError

TASKS = 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return new_study(tmp_path_factory.mktemp("study"), TASKS)


@pytest.fixture
def port(study: Study, tmp_path: Path) -> Iterator[int]:
    with serving(study, tmp_path / "answers.sqlite") as (port, _):
        yield port


def test_no_method_content_or_style_name_reaches_the_browser(port: int, study: Study) -> None:
    browser = Browser(port)
    for path in ("/", "/study.css", "/study.js", "/api/state", "/images/none", "/none"):
        browser.get(path)
    tasks = browser.start()
    state = browser.get("/api/state").json()
    images = {state["example"]["subject"], state["example"]["style"], *state["example"]["options"]}
    for position, task in enumerate(tasks):
        images |= {task["subject"], task["style"], *task["options"]}
        browser.answer(position, "option1")
    browser.answer(99, "option1")
    for image in images:
        reply = browser.get(f"/images/{image}")
        assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    everything = "\n".join(browser.seen).lower()
    assert not [word for word in SECRETS if word in everything]
    assert str(study.folder) not in everything
    assert len(everything) > 10_000


def test_the_secrets_would_be_found(study: Study) -> None:
    text = (study.folder / "study.json").read_text()
    assert all(word in text for word in SECRETS)


def test_options_are_the_images_of_the_recorded_methods(port: int, study: Study, tmp_path: Path) -> None:
    browser = Browser(port)
    tasks = browser.start()
    recorded = rows(tmp_path / "answers.sqlite", "SELECT task, option1, option2 FROM assignments ORDER BY position")
    by_id = {task.id: task for task in study.tasks}
    for shown, (name, *methods) in zip(tasks, recorded, strict=True):
        task = by_id[name]
        for image, method in zip(shown["options"], methods, strict=True):
            assert browser.get(f"/images/{image}").body == clean_png(task.images[method])
        assert browser.get(f"/images/{shown['subject']}").body == clean_png(task.subject_reference)
        assert browser.get(f"/images/{shown['style']}").body == clean_png(task.style_reference)


def test_a_participant_resumes_and_others_do_not_mix(port: int, tmp_path: Path) -> None:
    first, second = Browser(port), Browser(port)
    order = first.start()
    second.start()
    assert first.answer(0, "option2").json() == {"answered": 1, "total": TASKS}
    again = first.get("/api/state").json()["tasks"]
    assert [task["choice"] for task in again] == ["option2", None, None, None, None]
    assert [task["options"] for task in again] == [task["options"] for task in order]
    assert all(task["choice"] is None for task in second.get("/api/state").json()["tasks"])
    assert Browser(port).get("/api/state").json()["tasks"] is None


def test_answers_and_image_ids_survive_a_restart(study: Study, tmp_path: Path) -> None:
    answers = tmp_path / "answers.sqlite"
    with serving(study, answers) as (port, _):
        browser = Browser(port)
        browser.start()
        browser.answer(0, "similar")
        before = browser.get("/api/state").json()
    with serving(study, answers) as (port, _):
        browser.port = port
        assert browser.get("/api/state").json() == before


def test_the_cookie_is_closed_to_scripts_and_other_sites(port: int) -> None:
    browser = Browser(port)
    cookie = browser.post("/api/participants", {}).headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


def test_two_studies_on_one_host_have_different_cookies(study: Study, tmp_path: Path) -> None:
    names = set()
    for place in ("a", "b"):
        with serving(study, tmp_path / f"{place}.sqlite") as (port, _):
            browser = Browser(port)
            browser.start()
            names.add(browser.cookie.partition("=")[0])
    assert len(names) == 2


GOOD = {"position": 0, "choice": "option1", "seconds": 1}


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (GOOD | {"choice": OURS}, 400, "choice must be one of option1, similar, option2."),
        (GOOD | {"choice": ["option1"]}, 400, "choice must be one of"),
        (GOOD | {"choice": None}, 400, "choice must be one of"),
        (GOOD | {"position": TASKS}, 400, "position must be 0 to 4."),
        (GOOD | {"position": -1}, 400, "position must be a whole number from 0."),
        (GOOD | {"position": True}, 400, "position must be a whole number from 0."),
        (GOOD | {"position": 2**70}, 400, "position must be a whole number from 0."),
        (GOOD | {"position": "0"}, 400, "position must be a whole number from 0."),
        (GOOD | {"seconds": -1}, 400, "seconds must be a number from 0."),
        (GOOD | {"seconds": float("nan")}, 400, "seconds must be a number from 0."),
        (GOOD | {"seconds": float("inf")}, 400, "seconds must be a number from 0."),
        (GOOD | {"seconds": None}, 400, "seconds must be a number from 0."),
        ([GOOD], 400, "Send one JSON object."),
        (GOOD | {"more": "x" * 2000}, 413, "Send at most 1024 bytes."),
    ],
)
def test_invalid_answers_are_refused(port: int, tmp_path: Path, data: Any, status: int, message: str) -> None:
    browser = Browser(port)
    browser.start()
    reply = browser.post("/api/answers", data)
    assert reply.status == status
    assert message in reply.json()["error"]
    assert rows(tmp_path / "answers.sqlite", "SELECT count(*) FROM answers") == [(0,)]


def test_a_task_left_open_counts_a_day_at_most(port: int, tmp_path: Path) -> None:
    browser = Browser(port)
    browser.start()
    assert browser.post("/api/answers", GOOD | {"seconds": 10**400}).status == 200
    assert rows(tmp_path / "answers.sqlite", "SELECT seconds FROM answers") == [(86_400.0,)]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 1000, "application/json", 400),
        (b"9" * 1000, "application/json", 400),
        (json.dumps(GOOD).encode(), "text/plain", 415),
        (b"position=0", "application/x-www-form-urlencoded", 415),
    ],
)
def test_bodies_that_are_no_json_are_refused(port: int, body: bytes, kind: str, status: int) -> None:
    browser = Browser(port)
    browser.start()
    reply = browser.send("POST", "/api/answers", body, {"Content-Type": kind})
    assert reply.status == status
    assert reply.json()["error"]


def test_unknown_participants_are_refused(port: int) -> None:
    stranger = Browser(port)
    reply = stranger.answer(0, "option1")
    assert (reply.status, reply.json()["error"]) == (
        401,
        "No participant: start the study first, with cookies allowed.",
    )
    known = Browser(port)
    known.start()
    stranger.cookie = known.cookie[:-4] + "AAAA"
    reply = stranger.answer(0, "option1")
    assert (reply.status, reply.json()["error"]) == (
        401,
        "This participant is not known here; reload the page to start.",
    )
    assert stranger.get("/api/state").json()["tasks"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/images/../study.json",
        "/images/..%2fstudy.json",
        "/images/%2e%2e/answers.sqlite",
        "/images//etc/passwd",
        "/images/0000.png",
        "/images/images%2f0000.png",
        "/study.json",
        "/answers.sqlite",
        "/page/../../definition.py",
        "/images/",
    ],
)
def test_nothing_but_the_studys_images_is_served(port: int, path: str) -> None:
    assert Browser(port).get(path).status == 404


def test_pages_allow_no_other_origin(port: int) -> None:
    browser = Browser(port)
    for path in ("/", "/study.css", "/study.js", "/api/state"):
        reply = browser.get(path)
        assert reply.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data:;")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert b"://" not in reply.body


def test_several_participants_at_once(port: int, study: Study, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def take_part() -> None:
        try:
            browser = Browser(port)
            for position, task in enumerate(browser.start()):
                assert browser.get(f"/images/{task['options'][0]}").status == 200
                assert browser.answer(position, "option1").status == 200
            assert all(task["choice"] for task in browser.get("/api/state").json()["tasks"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take_part) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    answers = read_answers(tmp_path / "answers.sqlite", study)
    assert len(answers) == 10 * TASKS
    assert all(answer.preferred == answer.option1 for answer in answers)


# The command


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_makes_serves_and_summarises(
    stop: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, study = write_run(tmp_path / "run", contents=2), tmp_path / "study"
    argv = ["make", "--results", str(run), "--methods", f"{OURS},{RIVAL}", "--case", "best", "-o", str(study)]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert f"2 comparisons of {OURS} and {RIVAL}, best images" in out
    assert err == f"warning: marmot0 in gouache0: {RIVAL} has no image that MARS² accepts; one at random is shown\n"

    command = [sys.executable, "-u", "-m", "lorarar.commands.study", "serve", str(study), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            assert server.stdout.readline() == f"2 comparisons, answers in {study / 'answers.sqlite'}\n"
            address = server.stdout.readline().split()[1]
            with urllib.request.urlopen(address, timeout=30) as page:
                assert b"Comparing images" in page.read()
            browser = Browser(int(address.rstrip("/").rpartition(":")[2]))
            browser.start()
            browser.answer(0, "similar")
            server.send_signal(stop)
            out, err = server.communicate(timeout=60)
        finally:
            server.kill()  # of a server that has stopped, this does nothing
    assert (server.returncode, err) == (0, "")
    assert out == f"stopped: 1 answers of 1 participants in {study / 'answers.sqlite'}\n"

    (tmp_path / "taken" / "answers.csv").mkdir(parents=True)
    for taken, says in (
        (tmp_path / "taken", "answers.csv: this is a folder"),
        (study / "study.json", "this is a file"),
    ):
        with pytest.raises(InputError, match=says):
            main(["summary", str(study), "-o", str(taken)])
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["answers.csv"]
    assert main(["summary", str(study), "-o", str(tmp_path / "report")]) == 0
    assert "1 answers of 1 participants (0 of them complete)" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "answers.csv",
        "summary.csv",
        "summary.md",
        "summary.png",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["make", "--results", "RUN", "--methods", "one", "-o", "x"], "give two names with a comma between"),
        (["make", "--results", "RUN", "--methods", f"{OURS},{OURS}", "-o", "x"], "was given twice"),
        (["make", "--results", "RUN", "--methods", f"{OURS},dare", "-o", "x"], "evaluate with --methods dare"),
        (["make", "--results", "STUDY", "-o", "x"], "no such file; give the output folder"),
        (["make", "--results", "RUN", "--question", " ", "-o", "x"], "--question is ' '; give words"),
        (["make", "--results", "RUN", "--case", "worst", "-o", "x"], "invalid choice: 'worst'"),
        (["serve", "RUN"], "no such file; give the folder of a study"),
        (["serve", "STUDY", "--port", "70000"], "a port is 0 to 65535"),
        (["serve", "STUDY", "--host", "no such host"], "not an address of this machine; use 127.0.0.1"),
        (["serve", "STUDY", "--answers", "STUDY/study.json"], "can't be used as a file of answers"),
        (["summary", "STUDY"], "no answers there; run  lorarar study serve  first"),
        (["summary", "STUDY", "STUDY", "--answers", "x"], "--answers goes with one STUDY"),
        ([], "the following arguments are required"),
    ],
)
def test_what_the_command_refuses(
    study: Study, tmp_path: Path, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(study.folder.parent / "run"), "STUDY": str(study.folder)}
    before = (study.folder / "study.json").read_bytes()
    with pytest.raises(InputError, match=message):
        main([word.replace("RUN", places["RUN"]).replace("STUDY", places["STUDY"]) for word in argv])
    assert not (tmp_path / "x").exists()
    assert (study.folder / "study.json").read_bytes() == before


def test_a_port_in_use_is_said(study: Study) -> None:
    with closing(serve_module.listen("127.0.0.1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"can't listen on 127.0.0.1 port {port} .* choose another --port"):
            main(["serve", str(study.folder), "--port", str(port)])


def test_addresses() -> None:
    assert serve_module.url("127.0.0.1", 80) == "http://127.0.0.1:80/"
    assert serve_module.url("::1", 80) == "http://[::1]:80/"
    assert "0.0.0.0" not in serve_module.url("0.0.0.0", 80)
    assert serve_module.is_local("localhost") and serve_module.is_local("127.0.0.1")
    assert not serve_module.is_local("0.0.0.0") and not serve_module.is_local("192.0.2.7")


def test_the_printed_qr_code_is_the_codes_matrix() -> None:
    import segno

    text = "http://192.0.2.7:8000/"
    light = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    lines = serve_module.qr_code(text).splitlines()
    read = [[light[block][half] for block in line] for line in lines for half in (0, 1)]
    matrix = [[1 - int(bool(module)) for module in row] for row in segno.make(text, error="l").matrix_iter(border=2)]
    assert read[: len(matrix)] == matrix
    assert all(all(row) for row in read[len(matrix) :])


@pytest.mark.parametrize("argv", [["--help"], ["make", "--help"], ["serve", "--help"], ["summary", "--help"]])
def test_help_needs_no_extra(argv: list[str]) -> None:
    missing = ("torch", "starlette", "uvicorn", "segno", "playwright")
    code = (
        f"import runpy, sys\nfor name in {missing!r}: sys.modules[name] = None\n"
        f"sys.argv = ['x', *{argv!r}]\nrunpy.run_module('lorarar.commands.study', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage: lorarar study" in result.stdout


def test_the_missing_extra_is_named(study: Study) -> None:
    code = (
        "import sys\nsys.modules['starlette'] = None\n"
        "from lorarar.command_line import run_command\nfrom lorarar.commands.study import main\n"
        f"sys.argv = ['x', 'serve', {str(study.folder)!r}]\nrun_command(main)"
    )
    environment = os.environ | {"COLUMNS": "200"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 2
    assert "is not installed: install it with pip install 'lorarar-toolkit[study]'" in result.stderr
