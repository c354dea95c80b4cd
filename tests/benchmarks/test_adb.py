"""Android devices over adb: records, and one sentence for whatever goes wrong."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from devices.replay import hangs
from records import RECORD
from replayed_phone import (
    SERIAL,
    ReplayedPhone,
    Rule,
    conditions_text,
    facts_text,
    hot_text,
    output,
    record_of,
)

from benchmarks.devices.adb import Android, AndroidDevice
from benchmarks.devices.adb_link import HOME, Adb
from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.processes import ProgramOutput as Answer
from benchmarks.record import check_record, paper_figure
from lorarar.errors import InputError
from runtime_py.bundle import Bundle
from runtime_py.hashes import file_sha256


@pytest.fixture
def options(tmp_path: Path) -> MeasureOptions:
    for name in ("runner", "libonnxruntime.so"):
        (tmp_path / name).write_text(name)
    return MeasureOptions(
        runner=tmp_path / "runner", libraries=(tmp_path / "libonnxruntime.so",), cooldown_s=0.0, timeout_s=5.0
    )


def listed(state: str) -> dict[str, Rule]:
    return {"^devices": Answer(0, f"List of devices attached\n{SERIAL} {state}\n")}


RUN = "lorarar-runner /"


def measure(phone: ReplayedPhone, bundle: Bundle, options: MeasureOptions) -> dict[str, Any]:
    return AndroidDevice(phone, SERIAL).measure(bundle, "hypernet", options, Watch())


def test_a_record_is_completed_by_the_host(bundle: Bundle, options: MeasureOptions) -> None:
    looked = threading.Event()

    def runner(_: str) -> Answer:
        assert looked.wait(60)
        return Answer(0, json.dumps(record_of(bundle)))

    def memory(_: str) -> Answer:
        looked.set()
        return Answer(0, output("meminfo_14"))

    phone = ReplayedPhone(bundle, {RUN: runner, "dumpsys meminfo": memory})
    record = measure(phone, bundle, options)
    assert check_record(record, "r") is record
    assert (record["kind"], record["device"]["model"]) == ("measured", "Pixel 8")
    assert record["paper"] is None  # it has none for this base
    assert record["memory"] == {"peak_bytes": 39321 * 1024, "measure": "pss"}
    assert record["conditions"]["before"]["thermal_status"] == "none"
    assert record["conditions"]["cooldown_s"] == 0
    assert record["notes"][0] == "cores not pinned: the scheduler chose among 9"
    [call] = phone.called("lorarar-runner /")
    assert phone.called("KEYCODE_WAKEUP")
    digest = record["bundle"]["manifest_sha256"]
    assert f"{HOME}/{digest} --component hypernet --runs 20 --warmup 3 --library {HOME}/bin/libonnxruntime.so" in call


def test_sdxls_hypernetwork_stands_beside_the_papers(bundle: Bundle, options: MeasureOptions) -> None:
    bundle.manifest["base"] = "sdxl"
    record = measure(ReplayedPhone(bundle, {}), bundle, options)
    assert record["paper"] == paper_figure("sdxl", "hypernet") is not None


def test_an_emulator_is_never_called_measured(bundle: Bundle, options: MeasureOptions) -> None:
    phone = ReplayedPhone(bundle, {"getprop": Answer(0, facts_text("getprop_emulator_12"))})
    assert measure(phone, bundle, options)["kind"] == "emulated"


def test_what_the_runner_calls_emulated_stays_so(bundle: Bundle, options: MeasureOptions) -> None:
    """It looks at the CPU, where some emulators have the properties of a phone."""
    answer = Answer(0, json.dumps(record_of(bundle) | {"kind": "emulated"}))
    assert measure(ReplayedPhone(bundle, {RUN: answer}), bundle, options)["kind"] == "emulated"


def test_only_what_changed_is_copied(bundle: Bundle, options: MeasureOptions) -> None:
    phone = ReplayedPhone(bundle)
    measure(phone, bundle, options)
    assert len(phone.called("^push")) == 5  # manifest, artifact, golden file, runner, library

    def on_the_device(command: str) -> Answer:
        folder = bundle.path if "manifest" in command else options.libraries[0].parent
        names = [name for name in command.partition("sha256sum ")[2].split() if (folder / name).is_file()]
        have = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names if name != "hypernet.onnx")
        return Answer(0, have + f"{'0' * 64}  hypernet.onnx\n")

    again = ReplayedPhone(bundle, {"sha256sum": on_the_device})
    measure(again, bundle, options)
    assert [call.split()[1].rpartition("/")[2] for call in again.called("^push")] == ["hypernet.onnx", "runner"]


@pytest.mark.parametrize(
    ("cpus", "mask", "note"),
    [
        ("big", "1f0", "pinned to its big cores: 4, 5, 6, 7, 8"),
        ("f0", "f0", "pinned to the cores of mask f0"),
        ("0xf0", "f0", "pinned to the cores of mask f0"),
        ("fff0", "1f0", "pinned to the cores of mask 1f0"),  # of 9 cores
    ],
)
def test_cores_are_pinned_on_request(bundle: Bundle, options: MeasureOptions, cpus: str, mask: str, note: str) -> None:
    phone = ReplayedPhone(bundle)
    record = measure(phone, bundle, replace(options, cpus=cpus))
    assert record["notes"][0] == note
    called = phone.called("lorarar-runner /")[0]
    # Its runtime would count all of the phone's cores.
    assert f"taskset {mask} {HOME}" in called and f"--threads {int(mask, 16).bit_count()}" in called
    with pytest.raises(DeviceFailed, match="`cpus` e00 names none of its 9 cores; give up to 1ff"):
        measure(phone, bundle, replace(options, cpus="e00"))


def test_it_cools_down_first_and_says_how_long(
    bundle: Bundle, options: MeasureOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.devices.adb.LOOK_S", 0.02)
    states = iter([hot_text(71, 2), hot_text(55), hot_text(44), hot_text(60, 2)])
    phone = ReplayedPhone(bundle, {"thermalservice": lambda _: Answer(0, next(states))})
    said: list[str] = []
    device = AndroidDevice(phone, SERIAL)
    record = device.measure(bundle, "hypernet", replace(options, cooldown_s=1.0), Watch(said.append))
    assert record["conditions"]["cooldown_s"] == pytest.approx(0.04)
    assert "cooling down: thermal status moderate, CPU 71 °C" in said
    assert "throttled: thermal status moderate after the run" in record["notes"]


def test_a_busy_or_silent_phone_is_noted(bundle: Bundle, options: MeasureOptions) -> None:
    busy = ReplayedPhone(bundle, {"thermalservice": Answer(0, conditions_text(load="8.10"))})
    assert (
        "busy: 90% of its cores were in use in the minute before the run, this measurement's own work included"
        in measure(busy, bundle, options)["notes"]
    )
    silent = ReplayedPhone(bundle, {"thermalservice": Answer(0, "")})
    assert any("not known to be cool" in note for note in measure(silent, bundle, options)["notes"])


# Whatever goes wrong is one sentence.


def after_first(pattern: str, gone: str) -> dict[str, Rule]:
    """The device goes into another state while it runs what matches."""
    state = ["device"]

    def run(_: str) -> Answer:
        state[0] = gone
        return Answer(255, "", "error: closed")

    def devices(_: str) -> Answer:
        line = f"{SERIAL}\t{state[0]}\n" if state[0] else ""
        return Answer(0, f"List of devices attached\n{line}\n")

    return {pattern: run, "^devices": devices}


WRONG: list[tuple[str, dict[str, Rule], str]] = [
    ("unplugged while it runs", after_first(RUN, ""), "it is not connected; plug it in"),
    ("unplugged while copying", after_first("^push", ""), "it is not connected"),
    ("offline", after_first(RUN, "offline"), "adb calls it offline"),
    ("unauthorised", {"^devices": Answer(0, f"List of devices attached\n{SERIAL} unauthorized\n")}, "unlock it"),
    (
        "an unknown state",
        {"^devices": Answer(0, f"List of devices attached\n{SERIAL} fastbootd\n")},
        "calls it fastbootd",
    ),
    ("adb's server is broken", {"^devices": Answer(1, "", "error: cannot connect to daemon\n")}, "adb kill-server"),
    ("adb's server hangs", {"^devices": hangs}, "adb gave no answer"),
    ("the device hangs", {"getprop": hangs}, "it gave no answer for 60 s"),
    ("too little space", {"^df": Answer(0, "x 9 9 0 100% /data")}, r"it is full: 0 MB are needed and 0 MB are free"),
    (
        "full on the way",
        {"^push": Answer(1, "", "adb: error: failed to copy 'a' to 'b': remote couldn't write file: No space left")},
        "it is full: manifest.json doesn't fit",
    ),
    (
        "not writable",
        {"^push": Answer(1, "", "adb: error: b: Permission denied\n")},
        r"be copied .*\(b: Permission den",
    ),
    ("no folder", {"^mkdir": Answer(1, "", "mkdir: '/data': Read-only file system")}, "can't be made on it"),
    (
        "no result",
        {RUN: Answer(1, "", "a line\nerror: noise_pred holds values that are not finite")},
        "output is not PyTorch's: noise_pred holds",
    ),
    ("bad input", {RUN: Answer(2, "", "error: bundle has no unet\n")}, "refused its input: bundle has no unet"),
    ("no runtime", {RUN: Answer(3, "", "error: libonnxruntime.so is missing")}, "runtime failed: libonnxruntime"),
    ("another ABI", {RUN: Answer(126, "", "sh: not executable: 64-bit ELF file")}, "build it for this device's ABI"),
    ("crash", {RUN: Answer(139, "", "Segmentation fault")}, r"the runner crashed \(SIGSEGV\)"),
    ("an odd signal", {RUN: Answer(128 + 120, "")}, r"crashed \(signal 120\)"),
    ("out of memory", {RUN: Answer(137, "", "Killed")}, "for want of memory"),
    ("an odd exit code", {RUN: Answer(9, "")}, "ended with exit code 9: it said nothing"),
    ("full while it runs", {RUN: Answer(1, "", "can't create run.pid: No space left on device")}, "it is full"),
    ("no JSON", {RUN: Answer(0, "Hello")}, "is no record"),
    ("not JSON's numbers", {RUN: Answer(0, '{"schema_version": NaN}')}, "is no record"),
    ("no object", {RUN: Answer(0, "[]")}, "is no record"),
    ("no valid record", {RUN: Answer(0, '{"schema_version": 1}')}, "record is not valid"),
    ("too hot", {"thermalservice": Answer(0, hot_text(71))}, r"too hot after 0 s \(thermal status none, CPU 71 °C\)"),
    ("throttling", {"thermalservice": Answer(0, hot_text(40, 3))}, r"too hot after 0 s \(thermal status severe"),
]


@pytest.mark.parametrize(("rules", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_one_sentence(bundle: Bundle, options: MeasureOptions, rules: dict[str, Rule], said: str) -> None:
    with pytest.raises(DeviceFailed, match=said) as caught:
        measure(ReplayedPhone(bundle, rules), bundle, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"component": "unet"}, "of another component"),
        ({"runner": "python"}, "of another runner"),
        ({"bundle": RECORD["bundle"]}, "of another manifest"),
        ({"artifact": {"file": "f", "bytes": 1, "sha256": "b" * 64}}, "of another artifact"),
    ],
)
def test_a_record_of_something_else_is_refused(
    bundle: Bundle, options: MeasureOptions, change: dict[str, Any], said: str
) -> None:
    phone = ReplayedPhone(bundle, {RUN: Answer(0, json.dumps(record_of(bundle, **change)))})
    with pytest.raises(DeviceFailed, match=said):
        measure(phone, bundle, options)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_runner_that_hangs_or_is_interrupted_is_stopped(
    bundle: Bundle, options: MeasureOptions, interrupted: bool
) -> None:
    killed, stop = threading.Event(), threading.Event()

    def runner(_: str) -> Answer:
        if interrupted:
            stop.set()
        assert killed.wait(10)
        return Answer(137, "", "Killed")

    def kill(_: str) -> Answer:
        killed.set()
        return Answer(0, "")

    phone = ReplayedPhone(bundle, {RUN: runner, "kill -9": kill})
    quick = replace(options, timeout_s=60.0 if interrupted else 0.2)
    with pytest.raises(DeviceFailed, match="plan was interrupted" if interrupted else "within 0 s and was stopped"):
        AndroidDevice(phone, SERIAL).measure(bundle, "hypernet", quick, Watch(stop=stop))


def test_an_interrupted_copy_is_the_last(bundle: Bundle, options: MeasureOptions) -> None:
    stop = threading.Event()

    def push(_: str) -> Answer:
        stop.set()
        return Answer(-15, "")

    phone = ReplayedPhone(bundle, {"^push": push})
    with pytest.raises(DeviceFailed, match="plan was interrupted"):
        AndroidDevice(phone, SERIAL).measure(bundle, "hypernet", options, Watch(stop=stop))
    assert len(phone.called("^push")) == 1


def test_everything_is_removed_unless_it_is_to_be_kept(bundle: Bundle, options: MeasureOptions) -> None:
    for keep in (False, True):
        phone = ReplayedPhone(bundle)
        device = AndroidDevice(phone, SERIAL)
        device.measure(bundle, "hypernet", replace(options, keep=keep), Watch())
        device.close()
        assert phone.called(f"^rm -rf {HOME}$") == ([] if keep else [f"rm -rf {HOME}"])


def test_what_can_not_be_removed_is_told(bundle: Bundle, options: MeasureOptions) -> None:
    phone = ReplayedPhone(bundle, {"^rm -rf": Answer(1, "", "rm: x: Permission denied")})
    device = AndroidDevice(phone, SERIAL)
    device.measure(bundle, "hypernet", options, Watch())
    with pytest.raises(DeviceFailed, match="can't be removed from it"):
        device.close()


def test_an_untouched_device_is_left_alone(bundle: Bundle) -> None:
    phone = ReplayedPhone(bundle)
    AndroidDevice(phone, SERIAL).close()
    assert phone.calls == []


# The demo app.

APP = MeasureOptions(app=True, cooldown_s=0.0, timeout_s=5.0, threads=2)
STARTED = Answer(0, "Starting: Intent { cmp=org.lorarar.demo/.BenchmarkActivity }\nStatus: ok\nComplete\n")


def test_the_app_measures(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.devices.adb_run.SAMPLE_S", 0.01)
    text = json.dumps(record_of(bundle, runner="android-app"))
    answers = iter([Answer(1, "", "cat: No such file"), Answer(0, text[:40]), Answer(0, text)])
    phone = ReplayedPhone(bundle, {"benchmark.json$": lambda c: next(answers) if " cat " in c else Answer(0, "")})
    record = measure(phone, bundle, APP)
    assert (record["runner"], record["memory"]["measure"]) == ("android-app", "pss")
    [start] = phone.called("^am start")
    assert start.startswith(
        "am start -W -S -n org.lorarar.demo/.BenchmarkActivity --es bundle /data/local/tmp/lorarar/"
    )
    assert start.endswith("--es component hypernet --ei runs 20 --ei warmup 3 --ei threads 2")
    assert phone.called("^am force-stop org.lorarar.demo")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            {"run-as .* rm": Answer(1, "", "run-as: unknown package: org.lorarar.demo")},
            "unknown package.*install its debug",
        ),
        (
            {"^am start": Answer(0, "Starting\nError type 3\nError: no such class.\n")},
            "Error type 3",
        ),
        ({"^pidof": Answer(1, ""), "run-as .* cat": Answer(1, "")}, "stopped without a result"),
        ({"run-as .* cat": Answer(0, '{"error": "the bundle has no unet"}')}, "gave no record: the bundle has no unet"),
        ({"run-as .* cat": Answer(0, "{ half"), "timeout": Answer(0, "")}, "within 0 s and was stopped"),
    ],
)
def test_an_app_that_gives_no_record(bundle: Bundle, rules: dict[str, Rule], said: str) -> None:
    quick = replace(APP, timeout_s=0.05)
    with pytest.raises(DeviceFailed, match=said):
        measure(ReplayedPhone(bundle, rules), bundle, quick)


# Finding devices.


def test_the_list_shows_every_device(bundle: Bundle) -> None:
    phone = ReplayedPhone(bundle, {"^devices": Answer(0, output("devices")), "emulator-5554 shell": hangs})
    found = {device.name: device for device in Android(phone).describe()}
    assert len(found) == 9
    assert found[f"adb:{SERIAL}"].state == "ready"
    assert (found[f"adb:{SERIAL}"].model, found[f"adb:{SERIAL}"].system) == ("Pixel 8", "Android 14")
    assert "USB debugging" in found["adb:R5CT70ABCDE"].state
    assert "gave no answer" in found["adb:emulator-5554"].state


def test_one_all_or_no_device(bundle: Bundle, options: MeasureOptions) -> None:
    phone = ReplayedPhone(bundle, {"^devices": Answer(0, output("devices"))})
    assert [device.name for device in Android(phone).open("any", options)] == ["adb:any"]
    assert len(Android(phone).open("all", options)) == 9
    none = ReplayedPhone(bundle, {"^devices": Answer(0, "List of devices attached\n\n")})
    with pytest.raises(InputError, match="no Android device is connected"):
        Android(none).open("all", options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpus": "fast"}, "hexadecimal mask"),
        ({"runner": None}, "give `runner`"),
        ({"runner": Path("nowhere")}, "nowhere: no such file"),
        ({"libraries": (Path("gone.so"),)}, "gone.so: no such file"),
        ({"app": True}, "leave out `runner`"),
    ],
)
def test_wrong_options(bundle: Bundle, options: MeasureOptions, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Android(ReplayedPhone(bundle)).open("all", replace(options, **change))


# The program itself.


def test_the_program_gives_code_and_streams_and_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adb = tmp_path / "adb"
    adb.write_text('#!/bin/sh\necho "out $*"; echo err >&2; [ "$1" = sleep ] && sleep 9; exit 7\n')
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert Adb().run(["a", "b c"], 5.0) == Answer(7, "out a b c\n", "err\n")
    with pytest.raises(TimeoutError):
        Adb().run(["sleep"], 0.1)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="adb is not installed"):
        Adb().run(["devices"], 5.0)
