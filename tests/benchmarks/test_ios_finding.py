"""Finding iPhones, the command as a user types it, and the program xcrun itself."""

from __future__ import annotations

import json
import plistlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from devices.ios_replay import OUTPUT, QUICK, UDID, ReplayedIphone, Rule, answer, app_folder, app_record
from devices.replay import hangs

from benchmarks import device as command
from benchmarks.devices.device import Description, DeviceFailed, MeasureOptions
from benchmarks.devices.ios import Ios, Iphone
from benchmarks.devices.ios_link import (
    DEVELOPER_MODE,
    FULL,
    LOCKED,
    NOT_CONNECTED,
    NOT_INSTALLED,
    UNTRUSTED,
    Devicectl,
)
from benchmarks.record import read_records
from lorarar.errors import InputError
from runtime_py.bundle import Bundle


class Elsewhere(ReplayedIphone):
    """Where there is no Xcode."""

    def available(self) -> bool:
        return False


def test_one_or_all_phones() -> None:
    ios = Ios(ReplayedIphone())
    assert [device.name for device in ios.open("any", QUICK)] == ["ios:any"]
    found = [device.name for device in ios.open("all", QUICK)]
    assert f"ios:{UDID}" in found and "ios:00008110-000000000000002E" not in found  # that one isn't connected
    simulators = Ios(ReplayedIphone(rules={"^list devices": answer("list_5")}))
    assert [device.name for device in simulators.open("all", QUICK)] == [f"ios:{UDID}"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"^list devices": answer("list_2", devices=[])}, "no iPhone is connected; plug one in"),
        ({"^list devices": answer("service_timeout")}, r"can't list devices \(Timed out .*\); open Xcode once"),
        ({"^list devices": hangs}, "devicectl gave no answer for 60 s; restart this Mac"),
    ],
)
def test_no_phone(rules: dict[str, Rule], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ios(ReplayedIphone(rules=rules)).open("all", QUICK)


def test_off_a_mac_phones_are_listed_and_not_measured() -> None:
    ios = Ios(Elsewhere(), lambda: [Description("ios:1", "only listed here")])
    assert ios.describe() == [Description("ios:1", "only listed here")]
    for which in ("1", "all"):
        with pytest.raises(InputError, match=r"needs a Mac with Xcode 15 or later, and an iPhone with iOS 17 or later"):
            ios.open(which, QUICK)
    with pytest.raises(InputError, match="`device` ios names no device; give ios:UDID or ios:all"):
        ios.open("", QUICK)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "a.app: not an app; give the folder"),
        (
            lambda folder: app_folder(folder, "com.example.a", "Other"),
            "this is com.example.a; give a build of the demo app",
        ),
        (lambda folder: folder.mkdir() or (folder / "Info.plist").write_text("x"), "not an app"),
        (lambda folder: folder.mkdir() or (folder / "Info.plist").write_bytes(plistlib.dumps([1])), "not an app"),
    ],
)
def test_another_app_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "a.app")
    with pytest.raises(InputError, match=said):
        Ios(ReplayedIphone()).open("all", MeasureOptions(ios_app=tmp_path / "a.app"))


def test_two_identifiers_are_refused(tmp_path: Path) -> None:
    options = MeasureOptions(ios_app=app_folder(tmp_path / "a.app", "com.example.mine"), ios_app_id="com.example.other")
    with pytest.raises(InputError, match=r"`ios_app_id` is com.example.other, but `ios_app` is com.example.mine"):
        Ios(ReplayedIphone()).open("1", options)


# The command, with a program in xcrun's place.

PHONE = """#!{python}
import json, os, shutil, sys
words = sys.argv[2:]
if sys.argv[1] == "--find": sys.exit(0)
written = words[words.index("--json-output") + 1]
verb = " ".join(words[: words.index("--json-output")])
names = {{"list devices": "list_2", "device info details": "details_2", "device info lockState": "lock_state",
    "device info apps": "apps", "device info processes": "processes", "device copy to": "copy",
    "device process launch": "launch", "device copy from": "copy"}}
name = names[verb]
if verb == "device copy from":
    source, destination = (words[words.index(key) + 1] for key in ("--source", "--destination"))
    if "record-" in source and os.path.exists("{record}"): shutil.copy("{record}", destination)
    else: name = "no_file"
if "{locked}" in words:
    name = "launch_locked"
    os.unlink("{record}")
shutil.copy("{output}/" + name + ".json", written)
sys.exit(1 if '"failed"' in open(written).read() else 0)
"""


@pytest.fixture
def phone(opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Bundle]:
    """Puts a program in xcrun's place; the component whose launch fails."""
    (tmp_path / "record.json").write_text(json.dumps(app_record(opened)))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("benchmarks.devices.ios_run.POLL_S", 0.01)

    def put(locked: str) -> Bundle:
        facts = {"python": sys.executable, "record": tmp_path / "record.json", "output": OUTPUT, "locked": locked}
        (tmp_path / "xcrun").write_text(PHONE.format(**facts))
        (tmp_path / "xcrun").chmod(0o755)
        return opened

    return put


def test_the_command_measures_and_cleans_up(
    phone: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phone("nothing")
    file = tmp_path / "records.json"
    assert (
        command.main(["--device", f"ios:{UDID}", "--bundle", "b", "--component", "hypernet", "--out", str(file)]) == 0
    )
    [record] = read_records(file)
    assert (record["kind"], record["device"]["soc"], record["runner"]) == ("measured", "Apple A17 Pro", "ios-app")
    said = capsys.readouterr().out
    assert "iPhone 15 Pro" in said and "MEASURED" in said and "1 record in" in said


def test_the_commands_plan_goes_on_after_a_failure(
    phone: Callable[[str], Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    phone("unet")  # the word that is in its launch's arguments alone
    assert command.main(["--device", f"ios:{UDID}", "--bundle", "b"]) == 1
    said = capsys.readouterr().out
    assert said.count("MEASURED") == 1
    assert f"failed ios:{UDID}, unet of" in said and "it is locked; unlock it" in said and "cleaning up" not in said


# The program itself.

XCRUN = """#!/bin/sh
[ "$1" = --find ] && exit ${FOUND:-0}
for word in "$@"; do [ "$last" = --json-output ] && file=$word; last=$word; done
printf '{"info": {"outcome": "success"}, "result": {"words": "%s"}}' "$*" > "$file"
echo out; echo err >&2
[ "$2" = broken ] && echo '{' > "$file"
[ "$2" = sleep ] && exec sleep 9
exit 7
"""


@pytest.fixture
def xcrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "xcrun"
    program.write_text(XCRUN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_the_program_gives_code_streams_and_json(xcrun: Path) -> None:
    given = Devicectl().run(["list", "devices"], ["--", "-t"], 5.0, threading.Event())
    assert (given.code, given.out, given.err, given.outcome, given.well) == (7, "out\n", "err\n", "success", False)
    words = given.result["words"].split()
    assert words[:4] == ["devicectl", "list", "devices", "--json-output"] and words[-2:] == ["--", "-t"]
    assert not Path(words[4]).exists()
    broken = Devicectl().run(["broken"], [], 5.0, threading.Event())
    assert (broken.document, broken.result, broken.outcome) == ({}, {}, "")


def test_the_program_is_timed_and_ended_on_request(xcrun: Path) -> None:
    with pytest.raises(TimeoutError):
        Devicectl().run(["sleep"], [], 0.1, threading.Event())
    stop = threading.Event()
    stop.set()
    assert Devicectl().run(["sleep"], [], 30.0, stop).code != 0


def test_where_there_is_no_xcode(xcrun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Devicectl().available()
    monkeypatch.setenv("FOUND", "72")  # the command-line tools alone
    assert not Devicectl().available()
    xcrun.unlink()
    assert not Devicectl().available()
    with pytest.raises(InputError, match="there is no xcrun: measuring an iPhone needs a Mac with Xcode"):
        Devicectl().run(["list", "devices"], [], 5.0, threading.Event())
    monkeypatch.setattr("benchmarks.devices.ios_link.Devicectl.available", lambda self: True)
    with pytest.raises(DeviceFailed, match="there is no xcrun"):
        Iphone(Devicectl(), UDID).link.ask("device", "info", "details")


def test_the_sentences_are_the_ones_that_users_read() -> None:
    for sentence in (NOT_CONNECTED, UNTRUSTED, DEVELOPER_MODE, LOCKED, NOT_INSTALLED, FULL):
        assert "; " in sentence and not sentence.endswith(".")
