"""A run on an iPhone through devicectl: its record, one sentence for whatever goes wrong, and cleaning up."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from devices.ios_replay import (
    CONSOLE,
    QUICK,
    UDID,
    ReplayedIphone,
    Rule,
    answer,
    app_folder,
    app_record,
    writes,
)
from devices.replay import hangs
from records import RECORD

from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.ios import Ios, Iphone
from benchmarks.devices.ios_link import DevicectlOutput
from benchmarks.devices.plan import PlanTask, run_plan
from benchmarks.record import MAX_RECORD_BYTES, NOT_COMPARED, check_record, paper_figure
from runtime_py.bundle import Bundle


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "LOOK_S"):
        monkeypatch.setattr(f"benchmarks.devices.ios_run.{name}", 0.01)


def measure(phone: ReplayedIphone, bundle: Bundle, options: MeasureOptions = QUICK) -> dict[str, Any]:
    return Iphone(phone, UDID).measure(bundle, "hypernet", options, Watch())


def with_record(bundle: Bundle, /, **changes: Any) -> ReplayedIphone:
    written = json.dumps(app_record(bundle, **changes)).encode()
    return ReplayedIphone(bundle, {"copy from .*record-": writes(written)})


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
        f"--bundle {digest} --component hypernet --runs 7 --warmup 2 --cooldown 0 --threads 4 --record-nonce "
    )
    nonce = launch.rpartition(" ")[2]
    container = "--user mobile --domain-type appDataContainer --domain-identifier org.lorarar.demo"
    [fetched] = phone.called("copy from")
    assert f"--source Documents/benchmark/record-{nonce}.json --destination " in fetched and container in fetched
    sent = [call.split() for call in phone.called("copy to")]
    assert [call[call.index("--destination") + 1] for call in sent] == [
        f"Documents/benchmark/{digest}/{name}"
        for name in ("manifest.json", "hypernet.onnx", "hypernet.golden.safetensors")
    ]
    assert all(" ".join(call).endswith(container) for call in sent)
    assert not phone.called("process terminate")


def test_sdxls_hypernetwork_stands_beside_the_papers(bundle: Bundle) -> None:
    bundle.manifest["base"] = "sdxl"
    record = measure(ReplayedIphone(bundle), bundle)
    assert record["paper"] == paper_figure("sdxl", "hypernet") is not None


def test_a_simulator_is_never_called_measured(bundle: Bundle) -> None:
    phone = ReplayedIphone(bundle, {"info details": answer("details_simulator")})
    record = measure(phone, bundle)
    assert (record["kind"], record["device"]["soc"]) == ("emulated", RECORD["device"]["soc"])
    assert not phone.called("lockState")  # it has none
    assert measure(with_record(bundle, kind="emulated"), bundle)["kind"] == "emulated"


def test_what_was_sent_is_not_sent_again(bundle: Bundle) -> None:
    phone = ReplayedIphone(bundle)
    device = Iphone(phone, UDID)
    device.measure(bundle, "hypernet", QUICK, Watch())
    (bundle.path / "hypernet.golden.safetensors").write_bytes(b"other values")
    device.measure(bundle, "hypernet", QUICK, Watch())
    assert [call.split()[6].rpartition("/")[2] for call in phone.called("copy to")] == [
        *("manifest.json", "hypernet.onnx", "hypernet.golden.safetensors"),
        "hypernet.golden.safetensors",
    ]
    assert len(phone.called("info apps")) == 1


def test_a_run_below_the_gate_keeps_its_times(bundle: Bundle) -> None:
    parity = RECORD["parity"] | {"status": "below", "within_tolerance": False, "psnr_db": 12.34}
    record = measure(with_record(bundle, parity=parity), bundle)
    assert record["parity"] == parity and record["runs"] == RECORD["runs"]


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
    options = replace(QUICK, ios_app=app_folder(tmp_path / "Demo.app"))
    for _ in range(2):
        device.measure(bundle, "hypernet", options, Watch())
    assert phone.called("install app") == [f"device install app --device {UDID} {tmp_path}/Demo.app"]
    launches = [call.partition(" -- ")[2].split()[0] for call in phone.called("process launch")]
    assert launches == ["--benchmark-clean", "--benchmark", "--benchmark"]


@pytest.mark.parametrize("is_given", [True, False])
def test_an_app_may_have_an_identifier_of_its_own(bundle: Bundle, tmp_path: Path, is_given: bool) -> None:
    """Apple's identifiers belong to one team each: that of the build is taken, or the option's."""
    own, known = "org.example.mine", json.dumps(answer("apps").document)
    apps = replace(answer("apps"), document=json.loads(known.replace("org.lorarar.demo", own)))
    phone = ReplayedIphone(bundle, {"info apps": apps})
    options = replace(QUICK, ios_app=app_folder(tmp_path / "Demo.app", own)) if is_given else QUICK
    (device,) = Ios(phone).open(UDID, options if is_given else replace(QUICK, ios_app_id=own))
    device.measure(bundle, "hypernet", options, Watch())
    device.close()
    for command in ("info apps", "process launch", "copy to", "copy from"):
        assert phone.called(command) and all(own in call for call in phone.called(command)), command
    assert not phone.called("org.lorarar.demo")


def test_an_app_that_devicectl_lost_sight_of_is_waited_for(bundle: Bundle) -> None:
    looks = iter([answer("processes_app"), answer("processes_app"), answer("processes"), answer("processes")])
    phone = ReplayedIphone(bundle, {"info processes": lambda _: next(looks)})
    assert measure(phone, bundle)["kind"] == "measured"
    assert not phone.called("process terminate")


def test_an_app_that_hangs_after_its_record_has_given_it(bundle: Bundle) -> None:
    phone = ReplayedIphone(bundle, {"info processes": answer("processes_app")})
    quick = replace(QUICK, timeout_s=0.05)
    assert measure(phone, bundle, quick)["kind"] == "measured"
    assert phone.called("process terminate") == [f"device process terminate --device {UDID} --pid 1802 --kill"]


# Whatever goes wrong is one sentence.


def signalled(number: int) -> DevicectlOutput:
    return answer("launch", f"{CONSOLE}hypernet: measuring\nApp terminated due to signal {number}.\n")


def with_error(given: DevicectlOutput) -> DevicectlOutput:
    return DevicectlOutput(1, given.out, given.err, answer("launch_unknown").document)


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
    ("not installed", {"info apps": answer("apps_none")}, "not installed on it; build it in Xcode, or give `ios_app`"),
    ("gone meanwhile", {"process launch": answer("launch_not_installed"), **NOTHING}, "is not installed on it"),
    ("not trusted code", {"process launch": answer("launch_untrusted"), **NOTHING}, "VPN & Device Management"),
    ("no launch", {"process launch": answer("launch_unknown"), **NOTHING}, r"be launched \(Launch failed\); launch it"),
    ("full", {"copy to": answer("full")}, "it is full; free some space on it"),
    ("not copied", {"copy to": answer("unsupported")}, r"manifest.json can't be copied to it \(The capability"),
    ("not fetched", {"copy from .*record-": answer("unsupported")}, r"record-\w+.json can't be copied from it"),
    ("devicectl hangs", {"info details": hangs}, "it gave no answer for 60 s; restart it, or use another cable"),
    (
        "devicectl's words",
        {"info apps": DevicectlOutput(64, "", "Error: Unknown option\n")},
        r"listed \(Unknown option\)",
    ),
    ("crash", {"process launch": signalled(11), **NOTHING}, r"the demo app crashed \(SIGSEGV\)"),
    ("an odd signal", {"process launch": signalled(120), **NOTHING}, r"crashed \(signal 120\)"),
    ("a crash that is an error too", {"process launch": with_error(signalled(6)), **NOTHING}, r"crashed \(SIGABRT\)"),
    ("out of memory", {"process launch": signalled(9), **NOTHING}, r"iOS killed the demo app \(signal 9\)"),
    ("no record", NOTHING, r"ended without a record \(Waiting for .*\); install its build"),
    ("hang", {**NOTHING, **ENDLESS}, "it didn't finish within 0 s and was stopped; allow more with `timeout_s`"),
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
    quick = replace(QUICK, timeout_s=0.05 if "info processes" in rules else 5.0)
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
        ({"parity": RECORD["parity"] | {"psnr_db": 12.34}}, "is passed, but 12.34 dB and the gate of 70 dB"),
        ({"parity": NOT_COMPARED}, "without parity is no result"),
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


def test_too_large_a_record_is_none(bundle: Bundle) -> None:
    written = json.dumps(app_record(bundle)).encode() + b" " * MAX_RECORD_BYTES
    with pytest.raises(DeviceFailed, match="is no record"):
        measure(ReplayedIphone(bundle, {"copy from .*record-": writes(written)}), bundle)


def test_an_interrupted_run_ends_the_app(bundle: Bundle) -> None:
    watch = Watch()
    ended: list[str] = []

    def launch(_: str) -> DevicectlOutput:
        watch.stop.set()
        return answer("launch", CONSOLE)

    def terminate(command: str) -> DevicectlOutput:
        ended.append(command)
        return answer("terminate")

    phone = ReplayedIphone(bundle, {"process launch": launch, **ENDLESS, "process terminate": terminate})
    with pytest.raises(DeviceFailed, match="the plan was interrupted"):
        Iphone(phone, UDID).measure(bundle, "hypernet", QUICK, watch)
    assert len(ended) == 1


def test_an_interrupted_copy_is_the_last(bundle: Bundle) -> None:
    watch = Watch()

    def copy_to(_: str) -> DevicectlOutput:
        watch.stop.set()
        return answer("launch")

    phone = ReplayedIphone(bundle, {"copy to": copy_to})
    with pytest.raises(DeviceFailed, match="the plan was interrupted"):
        Iphone(phone, UDID).measure(bundle, "hypernet", QUICK, watch)
    assert len(phone.called("copy to")) == 1


def test_the_plan_goes_on_and_cleans_up(bundle: Bundle) -> None:
    """The first of two components fails; the second is measured, and the phone is as it was."""
    answers = iter([signalled(11), answer("launch", CONSOLE), answer("launch", CONSOLE)])
    written = iter([answer("no_file"), writes(json.dumps(app_record(bundle)).encode())])

    def copy_from(command: str) -> DevicectlOutput:
        rule = next(written)
        return rule(command) if callable(rule) else rule

    phone = ReplayedIphone(bundle, {"process launch": lambda _: next(answers), "copy from .*record-": copy_from})
    result = run_plan([Iphone(phone, UDID)], [PlanTask(bundle, "hypernet"), PlanTask(bundle, "hypernet")], QUICK)
    assert len(result.records) == 1
    assert [failure.reason.partition(";")[0] for failure in result.failures] == ["the demo app crashed (SIGSEGV)"]
    assert phone.called("process launch")[-1].endswith("org.lorarar.demo -- --benchmark-clean")


# Cleaning up.


def closed(bundle: Bundle, rules: dict[str, Rule], options: MeasureOptions = QUICK) -> ReplayedIphone:
    phone = ReplayedIphone(bundle)
    device = Iphone(phone, UDID)
    device.measure(bundle, "hypernet", options, Watch())
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
    options = replace(QUICK, ios_app=app_folder(tmp_path / "Demo.app"))
    apps = chain([answer("apps_none")], repeat(answer("apps")))
    phone = ReplayedIphone(bundle, {"info apps": lambda _: next(apps)})
    device = Iphone(phone, UDID)
    device.measure(bundle, "hypernet", options, Watch())
    device.close()
    assert phone.calls[-1] == f"device uninstall app --device {UDID} org.lorarar.demo"
    phone.change({"uninstall app": answer("gone")})
    device.app.ours = True
    with pytest.raises(DeviceFailed, match="the demo app is still there: it is not connected"):
        device.close()


@pytest.mark.parametrize("fails", ["install", "look"])
def test_an_app_whose_installation_was_not_seen_to_end_is_uninstalled(
    bundle: Bundle, tmp_path: Path, fails: str
) -> None:
    """The phone is lost sight of just after the app is on it, and found again for the plan's next component."""
    apps = chain([answer("apps_none"), *[answer("gone")] * (fails == "look")], repeat(answer("apps")))
    installs = chain([answer("gone")] * (fails == "install"), repeat(answer("install")))
    rules: dict[str, Rule] = {"info apps": lambda _: next(apps), "install app": lambda _: next(installs)}
    phone = ReplayedIphone(bundle, rules)
    device = Iphone(phone, UDID)
    options = replace(QUICK, ios_app=app_folder(tmp_path / "Demo.app"))
    with pytest.raises(DeviceFailed):
        device.measure(bundle, "hypernet", options, Watch())
    device.measure(bundle, "hypernet", options, Watch())
    device.close()
    assert phone.calls[-1] == f"device uninstall app --device {UDID} org.lorarar.demo"


def test_an_app_that_was_not_installed_after_all_is_not_uninstalled(bundle: Bundle, tmp_path: Path) -> None:
    phone = ReplayedIphone(bundle, {"info apps": answer("apps_none"), "install app": answer("gone")})
    device = Iphone(phone, UDID)
    with pytest.raises(DeviceFailed):
        device.measure(bundle, "hypernet", replace(QUICK, ios_app=app_folder(tmp_path / "Demo.app")), Watch())
    device.close()
    assert not phone.called("uninstall")


def test_files_are_kept_on_request_and_an_untouched_phone_is_left_alone(bundle: Bundle) -> None:
    assert closed(bundle, {}, replace(QUICK, keep=True)).calls == []
    phone = ReplayedIphone(bundle)
    Iphone(phone, UDID).close()
    assert phone.calls == []
