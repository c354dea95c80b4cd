"""A pytest plugin: coremltools' own tests with our evaluator in the place of Core ML, and a note of each outcome."""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_suite.stand_in import SYSTEM, ModelProxy, happened

OLD_FORMAT = "neuralnetwork"  # a backend's name in a test's: programs alone are evaluated
PASSING = re.compile(r" at 0x[0-9a-f]+| id='\d+'|tensor\(")
"""An object's address or a random tensor in a test's name: it is another one in every worker, and no fixed sample."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="file that gets a JSON line for every test")
    parser.addoption("--per-function", type=int, default=0, help="cases kept of every test function; 0 keeps all")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and config.getoption("--outcomes") is not None:
        config.pluginmanager.register(Outcomes(config.getoption("--outcomes")))
    replace_core_ml()


def replace_core_ml() -> None:
    """Let coremltools believe that it runs on a Mac whose Core ML is our evaluator."""
    import coremltools._deps

    coremltools._deps._IS_MACOS = True  # before test modules copy it
    import coremltools.converters.mil.frontend.torch.ops
    from coremltools.models import utils

    known = {utils._is_macos: lambda: True, utils._macos_version: lambda: SYSTEM}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "coremltools":
            for attribute, value in list(vars(module).items()):
                if callable(value) and getattr(value, "__hash__", None) and value in known:
                    setattr(module, attribute, known[value])
            if "_MLModelProxy" in vars(module):
                module._MLModelProxy = ModelProxy  # type: ignore[attr-defined]
            if "_IS_MACOS" in vars(module):
                module._IS_MACOS = True  # type: ignore[attr-defined]
    _mend_casts(coremltools.converters.mil.frontend.torch.ops)


def _mend_casts(ops: Any) -> None:
    """Do what coremltools 9.1 does (#2632): numpy 2.4 makes no number of an array of one element any more."""
    cast = ops._cast

    def mended(context: Any, node: Any, dtype: Any, dtype_name: str) -> Any:
        class Number:
            def __new__(cls, value: Any) -> Any:
                return dtype(np.asarray(value).item() if np.size(value) == 1 else value)

        return cast(context, node, Number, dtype_name)

    ops._cast = mended


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a fixed sample: of every test function, the cases whose names have the smallest checksums."""
    most = config.getoption("--per-function")
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        case = item.nodeid.partition("[")[2]
        if OLD_FORMAT not in case and not PASSING.search(case):
            groups[item.nodeid.partition("[")[0]].append(item)
    chosen: set[str] = set()
    for group in groups.values():
        ordered = sorted(group, key=lambda item: zlib.crc32(item.nodeid.encode()))
        chosen |= {item.nodeid for item in (ordered[:most] if most else ordered)}
    path = config.getoption("--outcomes")
    if path is not None:  # a run that was stopped goes on
        chosen -= {json.loads(line).get("test") for line in path.read_text(encoding="utf-8").splitlines()}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = [item for item in items if item.nodeid in chosen]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    happened.clear()
    np.random.seed(zlib.crc32(item.nodeid.encode()))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when != "teardown" and (report.when == "call" or report.outcome != "passed"):
        report.user_properties.append(("happened", list(happened)))
    return report


class Outcomes:
    """Writes a JSON line for every test; with several workers, in the process that gathers their reports."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seen = dict(report.user_properties)
        if "happened" not in seen:
            return
        lines = str(report.longrepr).strip().splitlines() if report.longrepr else [""]
        row = {
            "test": report.nodeid,
            "outcome": "xfailed" if hasattr(report, "wasxfail") else report.outcome,
            "happened": seen["happened"],
            "said": next((line for line in lines if line.startswith("E ")), lines[-1])[:400],
            "seconds": round(report.duration, 3),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
