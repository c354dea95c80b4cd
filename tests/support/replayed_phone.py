"""A phone that isn't there: adb's answers, replayed from texts in the formats that real devices write."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from devices.replay import Replay
from records import RECORD

from benchmarks.devices.adb_link import Adb
from benchmarks.processes import ProgramOutput as Answer
from runtime_py.bundle import Bundle

OUTPUT = Path(__file__).parent / "devices" / "output"
SERIAL = "3A021JEHN02756"
Rule = Answer | Callable[[str], Answer]


def output(name: str) -> str:
    return (OUTPUT / f"{name}.txt").read_text(encoding="utf-8")


def facts_text(properties: str = "getprop_14") -> str:
    """What FACTS_SCRIPT prints."""
    return (
        f"@props\n{output(properties)}@cpuinfo\n{output('cpuinfo_arm64')}"
        "@memory\nMemTotal:        7741392 kB\nMemFree:          812345 kB\n@present\n0-8\n"
    )


def conditions_text(thermal: str | None = None, load: str = "1.80", wakefulness: str = "Awake") -> str:
    """What CONDITIONS_SCRIPT prints."""
    return (
        f"@thermal\n{thermal or output('thermalservice_14')}@battery\n{output('battery_10')}"
        "@zones\n45100 cpu-1-0-usr\n38 gpuss-0\n-273000 broken\n"
        f"@mhz\n300000\n2850000\n@load\n{load} 1.20 0.90 2/4321 9876\n"
        f"@power\n  mWakefulness={wakefulness}\n"
    )


def hot_text(celsius: float, status: int = 0) -> str:
    """A phone whose big core is that warm."""
    text = output("thermalservice_14").replace("mValue=41.5", f"mValue={celsius}")
    return conditions_text(text.replace("Thermal Status: 0", f"Thermal Status: {status}"))


def small_bundle(folder: Path) -> Bundle:
    """Just enough of a bundle for a device that only copies it."""
    folder.mkdir()
    files = {"hypernet.onnx": b"a hypernetwork", "hypernet.golden.safetensors": b"golden values"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    entry = {
        "file": "hypernet.onnx",
        "sha256": hashlib.sha256(files["hypernet.onnx"]).hexdigest(),
        "inputs": [],
        "outputs": [],
        "tolerance": {"psnr_db": 100.0, "max_error": 1e-5},
        "golden": {"file": "hypernet.golden.safetensors", "inputs": {}},
    }
    manifest = {"base": "miniature", "target": "onnx", "components": {"hypernet": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle(folder, manifest)


def record_of(bundle: Bundle, /, **changes: Any) -> dict[str, Any]:
    """What the runner writes for that bundle."""
    record = copy.deepcopy(RECORD) | {"runner": "native"}
    manifest = (bundle.path / "manifest.json").read_bytes()
    record["bundle"]["manifest_sha256"] = hashlib.sha256(manifest).hexdigest()
    record["artifact"]["sha256"] = bundle.manifest["components"]["hypernet"]["sha256"]
    return record | changes


class ReplayedPhone(Replay[Answer], Adb):
    """Answers as a phone would that measures well; a rule given first, by a pattern of the command, goes before."""

    def __init__(self, bundle: Bundle, rules: dict[str, Rule] | None = None) -> None:
        well: dict[str, Rule] = {
            "^devices": Answer(0, f"List of devices attached\n{SERIAL}\tdevice product:shiba\n\n"),
            "^push": Answer(0, "1 file pushed\n"),
            "getprop": Answer(0, facts_text()),
            "thermalservice": Answer(0, conditions_text()),
            "cpuinfo_max_freq": Answer(0, "".join(f"{core} {1_700_000 + core // 4 * 700_000}\n" for core in range(9))),
            "sha256sum": Answer(1, ""),
            "^df": Answer(0, output("df_10")),
            "meminfo": Answer(0, output("meminfo_14")),
            "lorarar-runner /": Answer(0, json.dumps(record_of(bundle)), "hypernet: measuring\n"),
            "": Answer(0, ""),
        }
        super().__init__(well)
        self.change(rules or {})

    def run(self, args: Sequence[str], timeout_s: float, stop: threading.Event | None = None) -> Answer:
        assert timeout_s > 0 and (stop is not None or "push" not in args), "what takes long can be stopped"
        return self.answer(" ".join(args).removeprefix(f"-s {SERIAL} ").removeprefix("shell ").strip())
