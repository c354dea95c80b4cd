"""iPhones through devicectl: what is read from its JSON, and one sentence for whatever goes wrong."""

from __future__ import annotations

import json
import plistlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devices.ios_replay import CONSOLE, UDID, ReplayedIphone, Rule, answer, app_record, document, hangs, writes
from replayed_phone import small_bundle
from test_record import RECORD

from benchmarks.devices import Description, DeviceFailed, Options, Watch
from benchmarks.devices.ios import Ios, Iphone
from benchmarks.devices.ios_facts import chip, model_name, parse_facts, parse_list
from benchmarks.devices.ios_link import (
    DEVELOPER_MODE,
    FULL,
    LOCKED,
    NOT_CONNECTED,
    NOT_INSTALLED,
    UNTRUSTED,
    Answer,
    Devicectl,
    cause,
)
from benchmarks.devices.plan import Job, run_plan
from benchmarks.record import check_record, paper_figure
from lorarar.cli import InputError
from runtime_py.bundle import Bundle

QUICK = Options(cooldown_s=0.0, timeout_s=5.0, runs=7, warmup=2, threads=4)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle(tmp_path / "bundle")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "LOOK_S"):
        monkeypatch.setattr(f"benchmarks.devices.ios_run.{name}", 0.01)


def measure(phone: ReplayedIphone, bundle: Bundle, options: Options = QUICK) -> dict[str, Any]:
    return Iphone(phone, UDID).measure(bundle, "merger", options, Watch())


def with_record(bundle: Bundle, /, **changes: Any) -> ReplayedIphone:
    written = json.dumps(app_record(bundle, **changes)).encode()
    return ReplayedIphone(bundle, {"copy from .*record-": writes(written)})


def app_folder(folder: Path, identifier: str = "org.lorarar.demo") -> Path:
    folder.mkdir()
    (folder / "Info.plist").write_bytes(plistlib.dumps({"CFBundleIdentifier": identifier}))
    return folder


# What devicectl writes.


def test_every_phone_of_the_list_says_what_to_do() -> None:
    found = {device.name: device for device in Ios(ReplayedIphone()).describe()}
    phone = Description(f"ios:{UDID}", "ready", "iPhone 15 Pro", "Apple A17 Pro", "arm64e", "iOS 18.5")
    assert found[f"ios:{UDID}"] == phone
    assert [device.state for device in found.values()] == [
        "ready",
        NOT_CONNECTED,
        UNTRUSTED,
        DEVELOPER_MODE,
        "iOS 16.7.10 is too old for devicectl; update it to iOS 17 or later",
        "ready",  # devicectl tells too little of it to know better
    ]
    assert found["ios:00008120-000000000000004E"].model == "iPhone 15"  # by its product type
    old = found["ios:A0000000-0000-5000-8000-000000000006"]
    assert (old.model, old.soc, old.system) == (None, None, "iOS ?")


def test_the_newer_shape_goes_before_the_older_one() -> None:
    found = parse_list(document("list_5")["result"])
    assert [(facts.name, facts.model, facts.os_version, facts.os_build) for facts in found] == [
        (UDID, "iPhone 15 Pro", "27.0.1", "24A446"),
        ("1D0F2CAF-0000-4000-8000-00000000000A", "iPhone 17 Pro", "27.0.1", "24A446"),
    ]
    assert [facts.simulated for facts in found] == [False, True]
    assert [facts.state for facts in found] == ["ready", "ready"]
    assert {facts.developer_mode for facts in found} == {"enabled"}
    device = Ios(ReplayedIphone(rules={"^list devices": answer("list_5")})).describe()[1]
    assert (device.soc, device.system) == (None, "iOS 27.0.1 (Simulator)")


@pytest.mark.parametrize("name", ["details_2", "details_5"])
def test_the_facts_of_a_phone(name: str) -> None:
    facts = parse_facts(document(name)["result"])
    assert facts.record == {
        "model": "iPhone 15 Pro",
        "manufacturer": "Apple",
        "soc": "Apple A17 Pro",
        "os_version": facts.os_version,
        "os_build": facts.os_build,
    }
    assert (facts.os_version, facts.os_build) in [("18.5", "22F76"), ("27.0.1", "24A446")]


@pytest.mark.parametrize("result", [{}, {"devices": None}, {"devices": [None, {}, {"identifier": ""}]}])
def test_a_list_of_nothing(result: dict[str, Any]) -> None:
    assert parse_list(result) == []
    assert parse_facts({"properties": 5, "deviceProperties": {"developerModeStatus": ""}}).name == ""


def test_the_table_of_models_agrees_with_pymobiledevice3s() -> None:
    table = pytest.importorskip("pymobiledevice3.irecv_devices").IRECV_DEVICES
    known = {device.product_type: device for device in table}
    ours = [f"iPhone{number}" for number in known_numbers()]
    generations: dict[int, set[str]] = {}
    for product in ours:
        theirs = known[product].display_name.replace(" gen)", " generation)").removesuffix(" (China)")
        assert model_name(product) == theirs
        name = chip(product) or ""
        generations.setdefault(known[product].chip_id, set()).add(name.removeprefix("Apple A")[:2])
    # One number of a chip, one generation: A18 and A18 Pro share theirs.
    assert sorted(next(iter(names)) for names in generations.values()) == [str(number) for number in range(12, 20)]
    assert all(len(names) == 1 for names in generations.values())


def known_numbers() -> list[str]:
    path = Path(__file__).parent.parent / "benchmarks" / "devices" / "ios_models.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    assert {entry["chip"][:7] for entry in models.values()} == {"Apple A"}
    return [product.removeprefix("iPhone") for product in models]


def test_an_unknown_model_is_its_product_type_and_nothing_is_guessed() -> None:
    assert (model_name("iPhone99,9"), chip("iPhone99,9")) == ("iPhone99,9", None)
    assert (model_name(None), chip(None)) == (None, None)


def test_the_innermost_sentence_is_the_one_to_tell() -> None:
    assert answer("launch_unknown").last_words == "Launch failed"
    assert answer("launch_not_installed").last_words.startswith("The requested application")
    assert Answer(64, "", "\nERROR: Missing value for '-t'\n").last_words == "Missing value for '-t'"
    assert Answer(1).last_words == "it said nothing"
    assert [fault.code for fault in answer("launch_locked").faults] == [10002, 1, 7]
    endless: dict[str, Any] = {"code": "x", "domain": 3}
    endless["userInfo"] = {"NSUnderlyingError": {"error": endless}}
    assert len(Answer(1, document={"error": endless}).faults) == 16


def test_a_cause_is_found_in_words_where_there_is_no_json() -> None:
    assert cause(Answer(1, err="ERROR: the device was not, or could not be, unlocked.\n")) == LOCKED
    assert cause(Answer(1, err="The operation failed since the device is out of storage.")) == FULL
    assert cause(Answer(1, err="an unlocked phone blocked it")) is None


# A run that goes well.


@pytest.mark.parametrize("details", ["details_2", "details_5"])
def test_a_record_is_completed_by_the_mac(bundle: Bundle, details: str) -> None:
    phone = ReplayedIphone(bundle, {"info details": answer(details)})
    record = measure(phone, bundle)
    assert check_record(record, "r") is record
    assert (record["kind"], record["runner"], record["memory"]["measure"]) == ("measured", "ios-app", "phys_footprint")
    device = record["device"]
    assert (device["model"], device["soc"], device["manufacturer"]) == ("iPhone 15 Pro", "Apple A17 Pro", "Apple")
    assert (device["cores"], device["abi"], device["ram_bytes"]) == (6, "arm64", 8 * 2**30)  # the app's own
    assert (record["paper"], record["notes"]) == (None, [])
    [launch] = phone.called("process launch")
    digest = record["bundle"]["manifest_sha256"]
    assert launch.startswith(
        f"device process launch --device {UDID} --console --terminate-existing org.lorarar.demo -- --benchmark "
        f"--bundle {digest} --component merger --runs 7 --warmup 2 --cooldown 0 --threads 4 --record-nonce "
    )
    nonce = launch.rpartition(" ")[2]
    container = "--user mobile --domain-type appDataContainer --domain-identifier org.lorarar.demo"
    [fetched] = phone.called("copy from")
    assert f"--source Documents/benchmark/record-{nonce}.json --destination " in fetched and container in fetched
    sent = [call.split() for call in phone.called("copy to")]
    assert [call[call.index("--destination") + 1] for call in sent] == [
        f"Documents/benchmark/{digest}/{name}" for name in ("manifest.json", "merger.onnx", "merger.golden.safetensors")
    ]
    assert all(" ".join(call).endswith(container) for call in sent)
    assert not phone.called("process terminate")


def test_sdxls_merger_stands_beside_the_papers(bundle: Bundle) -> None:
    bundle.manifest["base"] = "sdxl"
    record = measure(ReplayedIphone(bundle), bundle)
    assert record["paper"] == paper_figure("sdxl", "merger") is not None


def test_a_simulator_is_never_called_measured(bundle: Bundle) -> None:
    phone = ReplayedIphone(bundle, {"info details": answer("details_simulator")})
    record = measure(phone, bundle)
    assert (record["kind"], record["device"]["soc"]) == ("emulated", RECORD["device"]["soc"])
    assert not phone.called("lockState")  # it has none
    assert measure(with_record(bundle, kind="emulated"), bundle)["kind"] == "emulated"


def test_what_was_sent_is_not_sent_again(bundle: Bundle) -> None:
    phone = ReplayedIphone(bundle)
    device = Iphone(phone, UDID)
    device.measure(bundle, "merger", QUICK, Watch())
    (bundle.path / "merger.golden.safetensors").write_bytes(b"other values")
    device.measure(bundle, "merger", QUICK, Watch())
    assert [call.split()[6].rpartition("/")[2] for call in phone.called("copy to")] == [
        *("manifest.json", "merger.onnx", "merger.golden.safetensors"),
        "merger.golden.safetensors",
    ]
    assert len(phone.called("info apps")) == 1


def test_what_a_reader_must_know_is_noted(bundle: Bundle) -> None:
    record = app_record(bundle, notes=["two runs were in the background"])
    record["conditions"]["before"] |= {"thermal_status": None, "charging": True}
    record["conditions"]["after"] |= {"thermal_status": "serious"}
    assert measure(with_record(bundle, **record), bundle)["notes"] == [
        "two runs were in the background",
        "the app tells no thermal state: not known to be cool",
        "throttled: thermal state serious after the run",
        "charging, which warms the device",
    ]


def test_the_app_is_installed_once_and_told_to_clean_up_first(bundle: Bundle, tmp_path: Path) -> None:
    phone = ReplayedIphone(bundle)
    device = Iphone(phone, UDID)
    options = Options(**{**vars(QUICK), "ios_app": app_folder(tmp_path / "Demo.app")})
    for _ in range(2):
        device.measure(bundle, "merger", options, Watch())
    assert phone.called("install app") == [f"device install app --device {UDID} {tmp_path}/Demo.app"]
    launches = [call.partition(" -- ")[2].split()[0] for call in phone.called("process launch")]
    assert launches == ["--benchmark-clean", "--benchmark", "--benchmark"]


def test_an_app_that_devicectl_lost_sight_of_is_waited_for(bundle: Bundle) -> None:
    looks = iter([answer("processes_app"), answer("processes_app"), answer("processes"), answer("processes")])
    phone = ReplayedIphone(bundle, {"info processes": lambda _: next(looks)})
    assert measure(phone, bundle)["kind"] == "measured"
    assert not phone.called("process terminate")


def test_an_app_that_hangs_after_its_record_has_given_it(bundle: Bundle) -> None:
    phone = ReplayedIphone(bundle, {"info processes": answer("processes_app")})
    quick = Options(**{**vars(QUICK), "timeout_s": 0.05})
    assert measure(phone, bundle, quick)["kind"] == "measured"
    assert phone.called("process terminate") == [f"device process terminate --device {UDID} --pid 1802 --kill"]


# Whatever goes wrong is one sentence.


def signalled(number: int) -> Answer:
    return answer("launch", f"{CONSOLE}merger: measuring\nApp terminated due to signal {number}.\n")


NOTHING: dict[str, Rule] = {"copy from .*record-": answer("no_file")}
ENDLESS: dict[str, Rule] = {"info processes": answer("processes_app")}

WRONG: list[tuple[str, dict[str, Rule], str]] = [
    ("unknown", {"info details": answer("not_found")}, "it is not connected; plug it in and unlock it"),
    ("unplugged while copying", {"copy to": answer("gone")}, "it is not connected"),
    ("unplugged while it runs", {"process launch": answer("gone"), **NOTHING}, "it is not connected"),
    ("unplugged before the record", {"copy from .*record-": answer("gone")}, "it is not connected"),
    ("not trusted", {"info details": answer("details_2", connectionProperties={"pairingState": "unpaired"})}, "trust"),
    ("developer mode is off", {"info apps": answer("developer_mode_off")}, "Developer Mode is off; switch it on"),
    ("no disk image", {"info apps": answer("disk_image")}, "Xcode can't prepare it for development"),
    ("locked", {"info lockState": answer("lock_state", passcodeRequired=True)}, "it is locked; unlock it"),
    ("locked since it was started", {"info details": answer("tunnel_locked")}, "it is locked"),
    ("locked meanwhile", {"process launch": answer("launch_locked"), **NOTHING}, "it is locked"),
    ("not installed", {"info apps": answer("apps_none")}, "not installed on it; build it in Xcode, or give --ios-app"),
    ("gone meanwhile", {"process launch": answer("launch_not_installed"), **NOTHING}, "is not installed on it"),
    ("not trusted code", {"process launch": answer("launch_untrusted"), **NOTHING}, "VPN & Device Management"),
    ("no launch", {"process launch": answer("launch_unknown"), **NOTHING}, r"be launched \(Launch failed\); launch it"),
    ("full", {"copy to": answer("full")}, "it is full; free some space on it"),
    ("not copied", {"copy to": answer("unsupported")}, r"manifest.json can't be copied to it \(The capability"),
    ("not fetched", {"copy from .*record-": answer("unsupported")}, r"record-\w+.json can't be copied from it"),
    ("devicectl hangs", {"info details": hangs}, "it gave no answer for 60 s; restart it, or use another cable"),
    ("devicectl's words", {"info apps": Answer(64, "", "Error: Unknown option\n")}, r"listed \(Unknown option\)"),
    ("crash", {"process launch": signalled(11), **NOTHING}, r"the demo app crashed \(SIGSEGV\)"),
    ("an odd signal", {"process launch": signalled(120), **NOTHING}, r"crashed \(signal 120\)"),
    ("out of memory", {"process launch": signalled(9), **NOTHING}, r"iOS killed the demo app \(signal 9\)"),
    ("no record", NOTHING, r"ended without a record \(Waiting for .*\); install its build"),
    ("hang", {**NOTHING, **ENDLESS}, "it didn't finish within 0 s and was stopped; allow more with --timeout"),
    ("no JSON", {"copy from .*record-": writes(b"Hello")}, "what the demo app wrote is no record"),
    ("half a record", {"copy from .*record-": writes(b'{"schema_version": 1')}, "is no record"),
    ("not JSON's numbers", {"copy from .*record-": writes(b'{"schema_version": NaN}')}, "is no record"),
    ("no object", {"copy from .*record-": writes(b"[]")}, "is no record"),
    ("not UTF-8", {"copy from .*record-": writes(b"\xff\xfe{}")}, "is no record"),
    ("no valid record", {"copy from .*record-": writes(b'{"schema_version": 1}')}, "record is not valid"),
    ("its own words", {"copy from .*record-": writes(b'{"error": "it has\\nno unet"}')}, "no record: it has no unet"),
]


@pytest.mark.parametrize(("rules", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_one_sentence(bundle: Bundle, rules: dict[str, Rule], said: str) -> None:
    quick = Options(**{**vars(QUICK), "timeout_s": 0.05 if "info processes" in rules else 5.0})
    with pytest.raises(DeviceFailed, match=said) as caught:
        measure(ReplayedIphone(bundle, rules), bundle, quick)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"component": "unet"}, "of another component"),
        ({"runner": "python"}, "of another runner"),
        ({"bundle": RECORD["bundle"]}, "of another manifest"),
        ({"artifact": {"file": "f", "bytes": 1, "sha256": "b" * 64}}, "of another artifact"),
        ({"parity": {"status": "failed", "psnr_db": 12.34, "max_error": 1.0}}, "parity failed: .*, 12.3 dB, so that"),
        ({"parity": {"status": "not_run", "psnr_db": None, "max_error": None}}, "parity failed: .* not PyTorch's, so"),
        ({"device": 5}, "record is not valid"),
        ({"parity": None}, "record is not valid"),
    ],
)
def test_a_record_of_something_else_is_refused(bundle: Bundle, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DeviceFailed, match=said):
        measure(with_record(bundle, **change), bundle)


def test_a_run_that_started_hot_is_no_result(bundle: Bundle) -> None:
    record = app_record(bundle)
    record["conditions"]["before"]["thermal_status"] = "critical"
    record["conditions"]["cooldown_s"] = 300.0
    with pytest.raises(DeviceFailed, match=r"too hot after 300 s \(thermal state critical\); let it lie"):
        measure(with_record(bundle, **record), bundle)


def test_too_large_a_record_is_none(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.devices.ios.MAX_RECORD_BYTES", 10)
    with pytest.raises(DeviceFailed, match="is no record"):
        measure(ReplayedIphone(bundle), bundle)


def test_an_interrupted_run_ends_the_app(bundle: Bundle) -> None:
    watch = Watch()
    ended: list[str] = []

    def launch(_: str) -> Answer:
        watch.stop.set()
        return answer("launch", CONSOLE)

    def terminate(command: str) -> Answer:
        ended.append(command)
        return answer("terminate")

    phone = ReplayedIphone(bundle, {"process launch": launch, **ENDLESS, "process terminate": terminate})
    with pytest.raises(DeviceFailed, match="the plan was interrupted"):
        Iphone(phone, UDID).measure(bundle, "merger", QUICK, watch)
    assert len(ended) == 1


def test_the_plan_goes_on_and_cleans_up(bundle: Bundle) -> None:
    """The first of two components fails; the second is measured, and the phone is as it was."""
    answers = iter([signalled(11), answer("launch", CONSOLE), answer("launch", CONSOLE)])
    written = iter([answer("no_file"), writes(json.dumps(app_record(bundle)).encode())])

    def copy_from(command: str) -> Answer:
        rule = next(written)
        return rule(command) if callable(rule) else rule

    phone = ReplayedIphone(bundle, {"process launch": lambda _: next(answers), "copy from .*record-": copy_from})
    outcome = run_plan([Iphone(phone, UDID)], [Job(bundle, "merger"), Job(bundle, "merger")], QUICK)
    assert len(outcome.records) == 1
    assert [failure.reason.partition(";")[0] for failure in outcome.failures] == ["the demo app crashed (SIGSEGV)"]
    assert phone.called("process launch")[-1].endswith("org.lorarar.demo -- --benchmark-clean")


# Cleaning up.


def closed(bundle: Bundle, rules: dict[str, Rule], options: Options = QUICK) -> ReplayedIphone:
    phone = ReplayedIphone(bundle)
    device = Iphone(phone, UDID)
    device.measure(bundle, "merger", options, Watch())
    phone.calls = []
    phone.change(rules)
    device.close()
    device.close()
    return phone


def test_cleaning_up_is_done_by_the_app_once_and_looked_at(bundle: Bundle) -> None:
    phone = closed(bundle, {})
    assert len(phone.called("--benchmark-clean$")) == 1
    assert len(phone.called("copy from .*/manifest.json ")) == 1
    assert not phone.called("uninstall")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"process launch": answer("launch_locked")}, "Documents/benchmark is still there: it is locked"),
        ({"copy from .*/manifest.json": writes(b"{}")}, "is still there: the demo app didn't remove it; delete"),
        ({"info processes": answer("processes_app")}, "doesn't end after --benchmark-clean"),
    ],
)
def test_what_is_left_is_told(
    bundle: Bundle, rules: dict[str, Rule], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.devices.ios_run.ANSWER_S", 0.05)
    with pytest.raises(DeviceFailed, match=said):
        closed(bundle, rules)


def test_an_app_that_this_plan_installed_is_uninstalled(bundle: Bundle, tmp_path: Path) -> None:
    options = Options(**{**vars(QUICK), "ios_app": app_folder(tmp_path / "Demo.app")})
    apps = iter([answer("apps_none"), answer("apps")])
    phone = ReplayedIphone(bundle, {"info apps": lambda _: next(apps)})
    device = Iphone(phone, UDID)
    device.measure(bundle, "merger", options, Watch())
    device.close()
    assert phone.calls[-1] == f"device uninstall app --device {UDID} org.lorarar.demo"
    phone.change({"uninstall app": answer("gone")})
    device.app.ours = True
    with pytest.raises(DeviceFailed, match="the demo app is still there: it is not connected"):
        device.close()


def test_files_are_kept_on_request_and_an_untouched_phone_is_left_alone(bundle: Bundle) -> None:
    assert closed(bundle, {}, Options(**{**vars(QUICK), "keep": True})).calls == []
    phone = ReplayedIphone(bundle)
    Iphone(phone, UDID).close()
    assert phone.calls == []


# Finding phones.


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
    with pytest.raises(InputError, match="--device ios names no device; give ios:UDID or ios:all"):
        ios.open("", QUICK)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runner": Path("runner")}, "--runner is for Android"),
        ({"libraries": (Path("a.so"),)}, "--library is for Android"),
        ({"cpus": "big"}, "--cpus is for Android"),
        ({"ios_app": Path("nowhere.app")}, "nowhere.app: not an app; give the folder"),
    ],
)
def test_wrong_options(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ios(ReplayedIphone()).open("all", Options(**{**vars(QUICK), **change}))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: app_folder(folder, "com.example.other"), "this is com.example.other; give a build of org.lor"),
        (lambda folder: folder.mkdir() or (folder / "Info.plist").write_text("x"), "not an app"),
        (lambda folder: folder.mkdir() or (folder / "Info.plist").write_bytes(plistlib.dumps([1])), "not an app"),
    ],
)
def test_another_app_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "a.app")
    with pytest.raises(InputError, match=said):
        Ios(ReplayedIphone()).open("all", Options(ios_app=tmp_path / "a.app"))


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
