"""Two emulated arm64 phones of different processors, over real adb: records, and whatever can go wrong with them.

Every program and library that runs on them is an arm64 one; their times are an emulator's and say nothing of a phone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devices.build_runner import build_for_android, onnxruntime_arm64
from devices.emulated import APP, NEW, OLD, Phone, listeners
from devices.executed import decibels
from devices.farm import Farm
from devices.fetch import ONNXRUNTIME_ANDROID, android_archive
from replayed_phone import record_of
from shared_bundles import MiniatureBundle, SharedUNets

from benchmarks import device as command
from benchmarks.devices.adb_link import HOME
from benchmarks.devices.device import Watch
from benchmarks.record import read_records
from runtime_py.bundle import Bundle

pytestmark = pytest.mark.devices

BOTH = ["--device", f"adb:{NEW.serial}", "--device", f"adb:{OLD.serial}"]
SMALL = Phone("Emulated small", "Stand-in 76", "cortex-a76", 16103, data_megabytes=1)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    farm = Farm(tmp_path_factory.mktemp("farm"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "ANDROID_ADB_SERVER_PORT", "ADB_MDNS"):
            patch.setenv(name, farm.server.environment[name])
        try:
            farm.start(NEW, OLD)
            yield farm
        finally:
            farm.stop()


@pytest.fixture(scope="module")
def onnx_runner(arm64_runner: Path) -> list[str]:
    """The options that name the arm64 runner and ONNX Runtime's arm64 library."""
    return ["--runner", str(arm64_runner), "--library", str(onnxruntime_arm64())]


@pytest.fixture(scope="module")
def executorch_runner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name the arm64 runner with ExecuTorch's Android library, and what that needs."""
    program = build_for_android("arm64", tmp_path_factory.mktemp("runner-executorch"))
    libraries = [option for path in sorted(program.parent.glob("*.so")) for option in ("--library", str(path))]
    return ["--runner", str(program), *libraries]


@pytest.fixture(scope="module")
def runners(onnx_runner: list[str], executorch_runner: list[str]) -> dict[str, list[str]]:
    """The options by the runtime's library: ONNX Runtime's for Linux, and both runtimes' Android libraries."""
    android = str(android_archive(ONNXRUNTIME_ANDROID) / "jni" / "arm64-v8a" / "libonnxruntime.so")
    return {
        "onnx": onnx_runner,
        "onnx for Android": [*executorch_runner, "--library", android],
        "executorch for Android": executorch_runner,
    }


@pytest.fixture(scope="module")
def bundles(miniature_bundle: MiniatureBundle, shared_unets: SharedUNets) -> dict[str, Path]:
    """The miniature's hypernetwork for two runtimes and in two precisions, and a UNet that is emulated in seconds."""
    return {
        "hypernet-fp32": miniature_bundle("hypernet", "onnx", "fp32"),
        "hypernet-fp16": miniature_bundle("hypernet", "onnx", "fp16"),
        "hypernet-executorch": miniature_bundle("hypernet", "executorch", "fp32"),
        "unet-fp32": shared_unets["onnx", "fp32"].path,
    }


def measure(*given: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    line = [sys.executable, "-m", "benchmarks.device", *given]
    environment = os.environ | {"COLUMNS": "160"}
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=600, env=environment)


def stand_in(folder: Path, script: str) -> list[str]:
    """The options that name a runner which is that shell script."""
    program = folder / "stand-in-runner"
    program.write_text(f"#!/system/bin/sh\n{script}\n")
    return ["--runner", str(program)]


def written_record(bundle: Path) -> str:
    """A script that writes a valid record of that hypernetwork."""
    record = record_of(Bundle.open(bundle))
    return f"echo '{json.dumps(record)}'"


def check_record_of(record: dict[str, Any], phone: Phone, component: str, runtime: str, precision: str) -> None:
    """It is of that phone and that artifact, and says that the phone is emulated."""
    assert (record["kind"], record["runner"]) == ("emulated", "native")
    assert (record["device"]["model"], record["device"]["soc"], record["device"]["os"]) == (
        phone.model,
        phone.soc,
        "android",
    )
    assert record["device"]["cpu"] == f"{phone.cpu.title()} ×2"
    assert (record["component"], record["runtime"]["name"]) == (component, runtime)
    assert record["bundle"]["precision"] == precision
    assert record["memory"]["measure"] in ("pss", "rss")
    assert record["conditions"]["before"]["temperatures_c"]["BIG"] == 36.5
    assert record["conditions"]["before"]["battery_percent"] == 22
    assert record["paper"] is None  # it has no figure for the miniature


def test_two_phones_of_different_processors(farm: Farm) -> None:
    done = measure("--list")
    assert done.returncode == 0
    for phone in (NEW, OLD):
        assert f"adb:{phone.serial}" in done.stdout and phone.model in done.stdout
    assert done.stdout.count("Android 14 (emulated)") == 2
    assert farm.shell(NEW, "uname -m") == farm.shell(OLD, "uname -m") == "aarch64\n"


def test_nobody_else_can_reach_them(farm: Farm) -> None:
    opened = listeners() - farm.before
    assert len(opened) == 3  # two phones and the adb server
    assert all(address.startswith(("127.0.0.1:", "[::ffff:127.0.0.1]:")) for address in opened), opened


@pytest.mark.parametrize(
    ("name", "component", "library", "runs"),
    [
        ("hypernet-fp32", "hypernet", "onnx", 2),
        ("hypernet-fp32", "hypernet", "onnx for Android", 2),
        ("hypernet-executorch", "hypernet", "executorch for Android", 2),
        ("unet-fp32", "unet", "onnx for Android", 1),
    ],
)
def test_both_give_records_in_fp32(
    farm: Farm,
    runners: dict[str, list[str]],
    bundles: dict[str, Path],
    tmp_path: Path,
    name: str,
    component: str,
    library: str,
    runs: int,
) -> None:
    file, runtime = tmp_path / "records.json", "executorch" if "executorch" in library else "onnxruntime"
    often = ["--runs", str(runs), "--warmup", str(runs - 1), "--threads", "1"]
    done = measure(*BOTH, "--bundle", str(bundles[name]), *runners[library], *often, "--out", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("EMULATED") == 2
    for phone, record in zip((NEW, OLD), read_records(file), strict=True):
        check_record_of(record, phone, component, runtime, "fp32")
        assert decibels(record) > 100 and record["parity"]["within_tolerance"]
        assert (record["parity"]["delta"] is not None) == (component == "unet")
        assert farm.shell(phone, "ls -A /data/local/tmp") == ""


def test_fp16_is_within_its_tolerance_on_either_processor(
    farm: Farm, onnx_runner: list[str], bundles: dict[str, Path], tmp_path: Path
) -> None:
    """ONNX Runtime adds up in fp16 where the processor can; but the hypernetwork's graph is in fp32 inside."""
    file = tmp_path / "records.json"
    often = ["--runs", "2", "--warmup", "1", "--threads", "1"]
    done = measure(*BOTH, "--bundle", str(bundles["hypernet-fp16"]), *onnx_runner, *often, "--out", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    new, old = read_records(file)
    for record, phone in ((new, NEW), (old, OLD)):
        check_record_of(record, phone, "hypernet", "onnxruntime", "fp16")
    # What is left is the rounding of its inputs and outputs, the same everywhere.
    assert new["parity"]["max_error"] == pytest.approx(old["parity"]["max_error"], rel=0.01)
    assert 0 < new["parity"]["max_error"] < 2e-3 and new["parity"]["psnr_db"] > 60


@pytest.mark.full
def test_a_unet_that_is_added_up_in_fp16_is_a_record_out_of_tolerance(
    farm: Farm, onnx_runner: list[str], miniature_bundle: MiniatureBundle, tmp_path: Path
) -> None:
    """ONNX Runtime's kernels for cores with half precision give 54 dB of the miniature's UNet.

    The program must have 60, and any device 50.
    """
    file, bundle = tmp_path / "records.json", miniature_bundle("unet", "onnx", "fp16")
    often = ["--runs", "1", "--warmup", "0", "--threads", "1"]
    done = measure(*BOTH, "--bundle", str(bundle), *onnx_runner, *often, "--out", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    new, old = read_records(file)
    for record, phone, within in ((new, NEW, False), (old, OLD, True)):
        check_record_of(record, phone, "unet", "onnxruntime", "fp16")
        assert (record["parity"]["status"], record["parity"]["within_tolerance"]) == ("passed", within)
    assert done.stdout.count("*") == 2 and "out of the bundle's tolerance" in done.stdout


def test_only_what_changed_is_copied_again(
    farm: Farm, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundles["hypernet-fp32"]
    program = stand_in(tmp_path, written_record(bundle))
    given = ["--device", f"adb:{NEW.serial}", "--bundle", str(bundle)]
    times = f"cd {HOME} && find . -type f ! -name run.pid -exec stat -c '%n %Y %Z' {{}} + | grep -v runner | sort"
    assert command.main([*given, *program, "--keep"]) == 0
    first = farm.shell(NEW, times)
    assert first.count("\n") == 3
    time.sleep(1)
    assert command.main([*given, *stand_in(tmp_path, f"# changed\n{written_record(bundle)}"), "--keep"]) == 0
    assert farm.shell(NEW, times) == first
    assert "# changed" in farm.shell(NEW, f"cat {HOME}/bin/lorarar-runner")
    assert command.main([*given, *program]) == 0
    assert farm.shell(NEW, "ls -A /data/local/tmp") == ""


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("kill -SEGV $$", [], "the runner crashed (SIGSEGV)"),
        ("sleep 987", ["--timeout", "15"], "it didn't finish within 15 s and was stopped"),
        (
            "echo 'error: noise_pred holds values that are not finite' >&2; exit 1",
            [],
            "output is not PyTorch's: noise_pred holds",
        ),
        ("cat /dev/zero > $0.more", [], "it is full"),
    ],
)
def test_a_runner_that_fails(
    farm: Farm,
    bundles: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    script: str,
    options: list[str],
    said: str,
) -> None:
    """On one phone; the other gives its record all the same."""
    bundle = bundles["hypernet-fp32"]
    script = f'if [ "$(getprop ro.product.model)" = "{OLD.model}" ]; then {script}; else {written_record(bundle)}; fi'
    file = tmp_path / "records.json"
    given = [*BOTH, "--bundle", str(bundle), *stand_in(tmp_path, script), *options, "--out", str(file)]
    assert command.main(given) == 1
    [record] = read_records(file)
    assert record["device"]["model"] == NEW.model
    assert said in capsys.readouterr().out
    assert farm.shell(OLD, "ls -A /data/local/tmp") == ""
    assert "sleep 987" not in farm.commands(OLD)


def test_a_program_of_another_processor(
    farm: Farm, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--device", f"adb:{NEW.serial}", "--bundle", str(bundles["hypernet-fp32"]), "--runner", "/usr/bin/true"]
    assert command.main(given) == 1
    assert "build it for this device's ABI" in capsys.readouterr().out


def test_a_full_phone(farm: Farm, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    farm.start(SMALL)
    given = ["--device", f"adb:{SMALL.serial}", "--bundle", str(bundles["unet-fp32"])]
    assert command.main([*given, *stand_in(tmp_path, "exit 0")]) == 1
    assert "it is full: 2 MB are needed and 1 MB are free" in capsys.readouterr().out
    farm.phones[SMALL].stop()


def test_a_phone_that_is_too_hot_or_cools_down(
    farm: Farm,
    bundles: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle, file = bundles["hypernet-fp32"], tmp_path / "records.json"
    given = ["--device", f"adb:{NEW.serial}", "--bundle", str(bundle), *stand_in(tmp_path, written_record(bundle))]
    phone = farm.phones[NEW]
    phone.set_temperature(81.5, status=3)
    assert command.main([*given, "--cooldown", "0"]) == 1
    assert "too hot after 0 s (thermal status severe, CPU 82 °C)" in capsys.readouterr().out
    monkeypatch.setattr(Watch, "wait", lambda watch, seconds: phone.set_temperature(40.0))
    assert command.main([*given, "--out", str(file)]) == 0
    assert read_records(file)[0]["conditions"]["cooldown_s"] == 5


def test_cores_are_pinned(farm: Farm, bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle, file = bundles["hypernet-fp32"], tmp_path / "records.json"
    script = f"grep -q '^Cpus_allowed:.*2$' /proc/self/status && {written_record(bundle)}"
    given = ["--device", f"adb:{NEW.serial}", "--bundle", str(bundle), *stand_in(tmp_path, script)]
    assert command.main([*given, "--cpus", "big", "--out", str(file)]) == 0
    assert read_records(file)[0]["notes"][0] == "pinned to its big cores: 1"


def test_the_demo_apps_stand_in(farm: Farm, bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle, file = bundles["hypernet-fp32"], tmp_path / "records.json"
    app = farm.phones[NEW].state / "app"
    record = json.dumps(record_of(Bundle.open(bundle), runner="android-app"))
    app.write_text(f"#!/system/bin/sh\n[ -f $2/manifest.json ] && sleep 10 && echo '{record}' > $1; sleep 60\n")
    app.chmod(0o755)
    given = ["--device", f"adb:{NEW.serial}", "--bundle", str(bundle), "--app", "--out", str(file)]
    assert command.main(given) == 1  # not installed yet
    farm.shell(NEW, f"mkdir -p /data/data/{APP}/files")
    assert command.main(given) == 0
    assert read_records(file)[0]["memory"]["measure"] == "pss"
    assert farm.shell(NEW, f"ls -A /data/data/{APP}/files /data/local/tmp").split() == [
        f"/data/data/{APP}/files:",
        "/data/local/tmp:",
    ]


def test_ctrl_c_stops_the_runner_and_cleans_the_phone(farm: Farm, bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = bundles["hypernet-fp32"]
    given = ["--device", f"adb:{NEW.serial}", "--bundle", str(bundle), *stand_in(tmp_path, "sleep 987")]
    running = subprocess.Popen([sys.executable, "-m", "benchmarks.device", *given], stdout=subprocess.PIPE, text=True)
    _until(lambda: "sleep 987" in farm.commands(NEW))
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the plan was interrupted" in said
    assert farm.shell(NEW, "ls -A /data/local/tmp") == ""
    assert "sleep 987" not in farm.commands(NEW)


def test_a_phone_that_is_unplugged_half_way(
    farm: Farm, bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first record and all of the other's are kept. Last: it takes the phone away."""
    bundle, file = bundles["hypernet-fp32"], tmp_path / "records.json"
    mark = "/data/local/tmp/ran"
    script = (
        f'if [ "$(getprop ro.product.model)" = "{OLD.model}" ] && ! mkdir {mark}; then sleep 987; fi\n'
        + written_record(bundle)
    )
    copy = tmp_path / "again"
    copy.symlink_to(bundle)
    pull = threading.Thread(target=_pull_when_it_sleeps, args=(farm,))
    pull.start()
    given = [*BOTH, "--bundle", str(bundle), "--bundle", str(copy), *stand_in(tmp_path, script), "--out", str(file)]
    assert command.main(given) == 1
    pull.join()
    assert [record["device"]["model"] for record in read_records(file)] == [NEW.model, NEW.model, OLD.model]
    said = capsys.readouterr().out
    assert f"failed adb:{OLD.serial}, hypernet of {copy}: " in said
    assert f"failed adb:{OLD.serial}, cleaning up: " in said


def _pull_when_it_sleeps(farm: Farm) -> None:
    try:
        _until(lambda: "sleep 987" in farm.commands(OLD))
    finally:  # else the run would wait for its own limit
        farm.phones[OLD].stop()


def _until(condition: Any) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.3)
