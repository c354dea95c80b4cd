"""Bound a run's time and memory on a phone from below, by operations, bytes and data sheets. Nothing is run for it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.record import APPLE, NOT_COMPARED, RUNTIMES, bundle_head, check_record, runs
from lorarar.errors import InputError
from lorarar.files import read_json
from lorarar.toolchains import named_if_missing
from runtime_py.bundle import Bundle
from runtime_py.component import Component
from runtime_py.mil import Program

ABI = {"android": "arm64-v8a", "ios": "arm64"}
_ONNX_PRODUCTS = ("MatMul", "MatMulInteger", "MatMulNBits", "DynamicQuantizeMatMul", "Gemm", "Conv", "ConvInteger")
NOTE = "never run: a lower bound that leaves out activations, norms, caches, heat and every overhead"


class ComponentWork(NamedTuple):
    """What one run on inputs of the golden inputs' sizes takes."""

    operations: int  # two for each multiply-add; norms, activations and copies are not counted
    read_bytes: int  # the artifact and the inputs, each read once; activations are not counted


_HIDDEN = {
    "executorch": "an ExecuTorch program keeps its operations in a form of XNNPACK's own",
    "qnn": "a QNN context is machine code",
    "coreai": "a Core AI program is for its maker's compiler, and its operations are not counted",
}
Sizes = Mapping[str, Sequence[int]]


def count_work(bundle: Bundle, name: str) -> ComponentWork:
    """Count the work of a component. Raises InputError for an artifact whose operations can't be seen."""
    component, target = bundle.component(name), bundle.manifest["target"]
    if any(np.issubdtype(np.dtype(spec.dtype), np.integer) for spec in component.inputs):
        raise InputError(f"{component.path}: of a text encoder's table of words it is not counted which rows are read")
    given = {spec.name: tuple(component.golden_inputs[spec.name]["shape"]) for spec in component.inputs}
    if target == "onnx":
        multiply_adds = _onnx_multiply_adds(component, given)
    elif target == "coreml":
        multiply_adds = Program.open(component.path).multiply_adds()
    else:
        raise InputError(
            f"{component.path}: {_HIDDEN[target]}; estimate with the onnx or coreml bundle of the same base"
        )
    inputs = sum(math.prod(given[spec.name]) * np.dtype(spec.dtype).itemsize for spec in component.inputs)
    return ComponentWork(2 * multiply_adds, int(component.entry["bytes"]) + inputs)


def _onnx_multiply_adds(component: Component, given: Sizes) -> int:
    """Count by the sizes that the exporter left in the graph; a rank left open is that of the golden inputs."""
    with named_if_missing(("onnx",), "onnx"):
        import onnx

    path = component.onnx_model
    damaged = InputError(f"{path}: it is damaged, or no ONNX model; export the bundle again")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # protobuf's own, a package that onnx brings
        raise damaged from None
    try:
        shapes = _stored_shapes(graph, given)
        return sum(
            math.prod(shapes[node.output[0]]) * _depth(node, shapes)
            for node in graph.node
            if node.op_type in _ONNX_PRODUCTS
        )
    except KeyError as missing:
        raise InputError(f"{path}: the size of {missing.args[0]} is not stored; export the bundle again") from None
    except IndexError:
        raise damaged from None


def _stored_shapes(graph: Any, given: Sizes) -> dict[str, Sequence[int]]:
    """Return the shapes that a graph states; the one size that has a name is the rank of a stack."""
    named: dict[str, int] = {}
    for value in graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, given.get(value.name, ()), strict=False):
            if dim.dim_param:
                named[dim.dim_param] = size
    shapes: dict[str, Sequence[int]] = {value.name: list(value.dims) for value in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [
            dim.dim_value if dim.HasField("dim_value") else named.get(dim.dim_param, 0)
            for dim in value.type.tensor_type.shape.dim
        ]
        if all(sizes):
            shapes[value.name] = sizes
    return shapes


def _depth(node: Any, shapes: Sizes) -> int:
    """Return the multiply-adds that one number of a node's output takes."""
    if node.op_type.startswith("Conv"):
        return math.prod(shapes[node.input[1]][1:])
    transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)  # of a Gemm
    return shapes[node.input[0]][0 if transposed else -1]


def phones() -> list[Mapping[str, Any]]:
    """Return the phones whose data sheets are in phones.json."""
    path = Path(__file__).with_name("phones.json")
    return read_json(path, what="data sheets", mend="install the toolkit again")["phones"]


def find_phone(name: str) -> Mapping[str, Any]:
    """Return the phone of that name. Raises InputError with the names that are known."""
    for phone in phones():
        if phone["name"].casefold() == name.casefold():
            return phone
    raise InputError(f"unknown phone {name!r}; known are {', '.join(phone['name'] for phone in phones())}")


def peak_operations(phone: Mapping[str, Any], precision: str) -> float:
    """Return the operations a second that the phone's unit can't exceed.

    Weights of few bits are multiplied as fp16 at best.
    """
    if phone["unit"] == "npu":
        return float(phone["tops"]) * 1e12
    lanes = 4 if precision == "fp32" else 8  # numbers in a 128-bit vector
    return sum(2e9 * core["count"] * core["ghz"] * core["pipes"] * lanes for core in phone["cores"])


def bound(work: ComponentWork, operations_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    """Return the least seconds that the work takes, and what sets them."""
    compute, memory = work.operations / operations_per_s, work.read_bytes / bytes_per_s
    return (compute, "compute") if compute >= memory else (memory, "memory bandwidth")


def estimate(bundle: Bundle, component: str, phone: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of kind `estimated`. Raises InputError where the phone can't have the bundle's target."""
    target, precision = bundle.manifest["target"], bundle.manifest["precision"]
    if (RUNTIMES[target].only_on == APPLE) != (phone["os"] == "ios"):
        wanted = "coreml" if phone["os"] == "ios" else "onnx"
        raise InputError(f"{phone['name']}: estimates for {phone['os']} need a bundle whose target is {wanted}")
    work = count_work(bundle, component)
    seconds, limit = bound(work, peak_operations(phone, precision), phone["memory_gb_per_s"] * 1e9)
    unknown: dict[str, Any] = {"thermal_status": None, "temperatures_c": {}, "battery_percent": None, "charging": None}
    unknown |= {"cpu_mhz": [], "load": None}
    record = {
        **bundle_head(bundle, component, time.gmtime()),
        "kind": "estimated",
        "runner": "estimate",
        "device": _device(phone),
        "runtime": RUNTIMES[target].record("not run", None) | {"backend": "not run", "compute_unit": phone["unit"]},
        "load": {"cold_s": None, "warm_s": None},
        "runs": runs(None, 0, ()),
        "memory": {"peak_bytes": None, "measure": None},
        "conditions": {"before": unknown, "after": unknown, "cooldown_s": None},
        "parity": dict(NOT_COMPARED),
        "estimate": {
            "latency_s": seconds,
            "memory_bytes": work.read_bytes,
            "operations": work.operations,
            "read_bytes": work.read_bytes,
            "limit": limit,
            "sources": list(phone["sources"].values()),
        },
        "paper": None,
        "notes": [NOTE],
    }
    return check_record(record, "the estimate")


def _device(phone: Mapping[str, Any]) -> dict[str, Any]:
    cores = phone.get("cores", ())
    return {
        "model": phone["name"],
        "manufacturer": None,
        "soc": phone["soc"],
        "os": phone["os"],
        "os_version": None,
        "os_build": None,
        "abi": ABI[phone["os"]],
        "cpu": ", ".join(f"{core['count']}× {core['name']}" for core in cores) or None,
        "cores": sum(core["count"] for core in cores) or 1,
        "ram_bytes": int(phone["ram_gb"] * 1e9),
    }


class EstimatedPhone:
    """A phone of the table, which gives a bound where other devices give a measurement."""

    def __init__(self, phone: Mapping[str, Any]) -> None:
        self.phone = phone
        self.name = f"estimate:{phone['name']}"

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        """Return a record of kind `estimated`. Raises DeviceFailed where the phone can't have the bundle's target."""
        watch.say(f"{component}: counting")
        try:
            return estimate(bundle, component, self.phone)
        except InputError as error:
            raise DeviceFailed(str(error)) from None

    def close(self) -> None:
        """Do nothing: nothing was put anywhere."""
