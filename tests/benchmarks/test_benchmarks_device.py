"""`lorarar bench device`: several devices at once, records kept after every run, failures as sentences."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from records import of_a_unet
from replayed_phone import record_of

from benchmarks import device as command
from benchmarks.devices import phone
from benchmarks.devices.device import Description, DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.plan import PlanTask, device_kinds, open_devices, run_plan, tasks_of
from benchmarks.record import read_records
from lorarar.command_line import run_command
from lorarar.errors import InputError
from runtime_py.bundle import Bundle

Measure = Callable[[Bundle, str, Watch], dict[str, Any]]


class Pretended:
    """A device that does what a test says."""

    def __init__(self, name: str, measure: Measure, closing: str = "") -> None:
        self.name, self._measure, self.closing = name, measure, closing
        self.closed = 0

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        watch.say("measuring")
        return self._measure(bundle, component, watch)

    def close(self) -> None:
        self.closed += 1
        if self.closing:
            raise DeviceFailed(self.closing)


class PretendedKind:
    usage = "shelf:NAME"
    takes = ("runs", "warmup", "keep")

    def __init__(self, *devices: Pretended) -> None:
        self.devices = devices

    def describe(self) -> list[Description]:
        return [
            Description(device.name, "ready", "A phone", None, "arm64-v8a", "Android 14") for device in self.devices
        ]

    def open(self, which: str, options: MeasureOptions) -> list[Pretended]:
        return [device for device in self.devices if which in ("all", device.name.partition(":")[2])]


def works(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
    return record_of(bundle, component=component)


def fails(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
    raise DeviceFailed(f"it has no {component} today")


@pytest.fixture
def bundle(opened: Bundle) -> Bundle:
    return opened


def connect(monkeypatch: pytest.MonkeyPatch, *devices: Pretended) -> None:
    monkeypatch.setattr(command, "device_kinds", lambda: {"shelf": PretendedKind(*devices)})


def test_a_plan_goes_on_and_keeps_what_was_measured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
        return (works if component == "hypernet" else fails)(bundle, component, watch)

    devices = [Pretended("shelf:1", works), Pretended("shelf:2", half), Pretended("shelf:3", fails, "it fell down")]
    connect(monkeypatch, *devices)
    file = tmp_path / "records.json"
    assert command.main(["--device", "shelf:all", "--bundle", "b", "--out", str(file)]) == 1
    assert [record["component"] for record in read_records(file)] == ["hypernet", "unet", "hypernet"]
    said = capsys.readouterr().out
    assert said.count("MEASURED") == 3
    assert "failed shelf:2, unet of" in said and "it has no unet today" in said
    assert "failed shelf:3, cleaning up: it fell down" in said
    assert "3 records in" in said
    assert [device.closed for device in devices] == [1, 1, 1]


def test_without_a_failure_it_exits_0(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(monkeypatch, Pretended("shelf:1", works))
    given = ["--device", "shelf:1", "--device", "shelf:1", "--bundle", "b", "--component", "unet"]
    assert command.main(given) == 0
    assert capsys.readouterr().out.count("MEASURED") == 1


def test_nothing_is_written_when_nothing_was_measured(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(monkeypatch, Pretended("shelf:1", fails))
    assert command.main(["--device", "shelf:1", "--bundle", "b", "--out", str(tmp_path / "r.json")]) == 1
    assert not (tmp_path / "r.json").exists()
    assert "no record was written" in capsys.readouterr().out


def test_devices_work_side_by_side_and_records_are_there_after_each_run(bundle: Bundle) -> None:
    both = threading.Barrier(2)
    kept: list[int] = []

    def together(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
        both.wait(10)
        return works(bundle, component, watch)

    devices = [Pretended("shelf:1", together), Pretended("shelf:2", together)]
    tasks = [PlanTask(bundle, "hypernet"), PlanTask(bundle, "unet")]
    result = run_plan(devices, tasks, MeasureOptions(), keep=lambda records: kept.append(len(records)))
    assert kept == [1, 2, 3, 4]
    assert [name for name, _ in result.named_records] == ["shelf:1", "shelf:1", "shelf:2", "shelf:2"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_runs_cleans_and_keeps_the_records(
    number: signal.Signals,
    code: int,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
        if component == "hypernet":
            return works(bundle, component, watch)
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        watch.wait(10.0)
        raise AssertionError("it was not interrupted")

    device = Pretended("shelf:1", interrupted)
    connect(monkeypatch, device)
    file = tmp_path / "records.json"
    with pytest.raises(SystemExit) as caught:
        run_command(lambda _: command.main(["--device", "shelf:1", "--bundle", "b", "--out", str(file)]))
    assert caught.value.code == code
    assert len(read_records(file)) == 1
    assert "the plan was interrupted" in capsys.readouterr().out
    assert device.closed == 1


def test_a_mistake_of_ours_is_not_a_devices_failure_and_the_device_is_cleaned(bundle: Bundle) -> None:
    def broken(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
        raise ZeroDivisionError

    device = Pretended("shelf:1", broken)
    result = run_plan([device], [PlanTask(bundle, "hypernet")], MeasureOptions())
    assert isinstance(result.mistake, ZeroDivisionError) and result.failures == []
    assert device.closed == 1


def test_records_that_can_not_be_kept_end_the_plan_and_are_not_counted(bundle: Bundle) -> None:
    done: list[str] = []

    def waits(bundle: Bundle, component: str, watch: Watch) -> dict[str, Any]:
        watch.wait(60)
        done.append(component)
        return works(bundle, component, watch)

    def full(records: Sequence[dict[str, Any]]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "records.json")

    devices = [Pretended("shelf:1", works), Pretended("shelf:2", waits)]
    result = run_plan(devices, [PlanTask(bundle, "hypernet")] * 3, MeasureOptions(), keep=full)
    assert isinstance(result.mistake, OSError) and result.kept == 0 and done == []
    assert [device.closed for device in devices] == [1, 1]


def test_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(PretendedKind):
        def describe(self) -> list[Description]:
            raise InputError("the shelf is broken; mend it")

    kinds = {"shelf": PretendedKind(Pretended("shelf:1", works)), "broken": Broken()}
    monkeypatch.setattr(command, "device_kinds", lambda: kinds)
    assert command.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "shelf:1" in said and "the shelf is broken; mend it" in said
    connect(monkeypatch)
    assert command.main(["--list"]) == 0
    assert "no device is connected" in capsys.readouterr().out


def test_the_kinds_that_there_are() -> None:
    assert list(device_kinds()) == ["local", "adb", "ios"]
    with pytest.raises(InputError, match="--device adb names no device; give adb:SERIAL or adb:all"):
        command.main(["--device", "adb", "--bundle", "b"])
    assert [device.name for device in open_devices(device_kinds(), ["local"], MeasureOptions(), [])] == ["local"]


@pytest.mark.parametrize(
    ("devices", "option"),
    [
        (["--device", "local"], ["--app"]),
        (["--device", "local"], ["--runner", "r"]),
        (["--device", "local"], ["--library", "l.so"]),
        (["--device", "local"], ["--ios-app", "Demo.app"]),
        (["--device", "local"], ["--cpus", "big"]),
        (["--device", "local"], ["--cooldown", "300"]),
        (["--device", "local"], ["--max-celsius", "40"]),
        (["--device", "local"], ["--keep"]),
        (["--device", "adb:1"], ["--ios-app", "Demo.app"]),
        (["--device", "ios:1"], ["--app"]),
        (["--device", "ios:1"], ["--runner", "r"]),
        (["--device", "ios:1"], ["--library", "l.so"]),
        (["--device", "ios:1"], ["--cpus", "f0"]),
        (["--device", "ios:1"], ["--max-celsius", "40"]),
        (["--device", "ios:1", "--device", "local"], ["--app"]),
        (["--estimate", "Pixel 9"], ["--runs", "3"]),
        (["--estimate", "Pixel 9"], ["--app"]),
        (["--list"], ["--out", "r.json"]),
        (["--list"], ["--device", "local"]),
    ],
)
def test_an_option_that_means_nothing_to_the_devices_is_refused(devices: list[str], option: list[str]) -> None:
    bundle = [] if devices == ["--list"] else ["--bundle", "nowhere"]
    with pytest.raises(InputError, match=rf"({option[0]}\b.*leave it|leave {option[0]}) out"):
        command.main([*devices, *bundle, *option])


def test_an_option_for_one_of_several_devices_is_taken(tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    runner.write_text("a runner")
    options = MeasureOptions(runner=runner)
    found = open_devices(device_kinds(), ["local", "adb:1"], options, ["runner", "runs"])
    assert [device.name for device in found] == ["local", "adb:1"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--bundle", "b"], "give a --device or an --estimate, and a --bundle"),
        (["--device", "shelf:1"], "give a --device or an --estimate, and a --bundle"),
        (["--device", "phone", "--bundle", "b"], "--device phone: give shelf:NAME"),
        (["--device", "adb", "--bundle", "b"], "--device adb: give shelf:NAME"),
        (["--device", "shelf:1", "--bundle", "b", "--component", "vae"], "no vae, only hypernet, unet"),
        (["--device", "shelf:1", "--bundle", "b", "--runs", "0"], "--runs is 0"),
        (["--device", "shelf:1", "--bundle", "b", "--warmup", "-1"], "--warmup is -1"),
        (["--device", "shelf:1", "--bundle", "b", "--cooldown", "nan"], "--cooldown is nan"),
        (["--device", "shelf:1", "--bundle", "b", "--cooldown", "-1"], "--cooldown is -1"),
        (["--device", "shelf:1", "--bundle", "b", "--out", "."], ".: this is a folder"),
    ],
)
def test_bad_input(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str) -> None:
    connect(monkeypatch, Pretended("shelf:1", works))
    with pytest.raises(InputError, match=said):
        command.main(given)


def test_a_bundle_without_the_usual_components(bundle: Bundle) -> None:
    bundle.manifest["components"]["vae_decoder"] = bundle.manifest["components"].pop("hypernet")
    del bundle.manifest["components"]["unet"]
    with pytest.raises(InputError, match="it has no hypernet or unet; choose `component` vae_decoder"):
        tasks_of([bundle], [])
    assert [task.component for task in tasks_of([bundle], ["vae_decoder"])] == ["vae_decoder"]


def test_the_table_is_of_the_record_and_fits_a_terminal(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    connect(monkeypatch, Pretended("shelf:1", lambda bundle, component, watch: record_of(bundle, kind="emulated")))
    assert command.main(["--device", "shelf:1", "--bundle", "b", "--component", "hypernet"]) == 0
    said = capsys.readouterr().out
    for text in ("a host", "shelf:1", "hypernet", "onnx fp32", "EMULATED", "500.0", "700.0", "0 rss", "140.0"):
        assert text in said
    assert "say nothing of a phone" in said


@pytest.mark.parametrize(
    ("parity", "told"),
    [
        ({}, ("64.0 ", "0.9987")),
        ({"psnr_db": None}, ("equal", "0.9987")),
        ({"psnr_db": 54.0, "within_tolerance": False}, ("54.0*", "out of the bundle's tolerance")),
        ({"psnr_db": 45.0, "within_tolerance": False, "status": "below"}, ("45.0*", "< 50", "out of the bundle's")),
    ],
)
def test_the_table_marks_what_is_below_a_bound(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parity: dict[str, Any],
    told: tuple[str, ...],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    connect(monkeypatch, Pretended("shelf:1", lambda bundle, component, watch: of_a_unet(**parity)))
    assert command.main(["--device", "shelf:1", "--bundle", "b", "--component", "unet"]) == 0
    said = capsys.readouterr().out
    for text in (*told, "MEASURED", "500.0"):
        assert text in said
    assert ("*" in said) == ("within_tolerance" in parity)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.0004123, "0.412"), (0.04123, "41.23"), (0.5, "500.0"), (41.23, "41230")]
)
def test_times_have_four_digits(seconds: float | None, text: str) -> None:
    assert command._ms(seconds) == text


@pytest.mark.parametrize(("looks", "in_time"), [([False, True], True), ([False, False], False)])
def test_a_look_that_took_too_long_is_followed_by_a_last_one(
    monkeypatch: pytest.MonkeyPatch, looks: list[bool], in_time: bool
) -> None:
    begun: list[bool] = []
    monkeypatch.setattr(phone.time, "monotonic", lambda: 99.0 * len(begun))

    def over() -> bool:
        begun.append(True)
        return looks[len(begun) - 1]

    assert phone.wait_until(over, 2.0, Watch(), lambda: 0.0) is in_time
    assert len(begun) == len(looks)
