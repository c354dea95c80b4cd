"""Make the LoRAs of a timed merge, count its operations and bytes, and hold its times against goals and the paper."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

from benchmarks.timing import FLOAT_BYTES, Machine, Samples, case_times
from lorarar.layout import Layout
from lorarar.lora import LoRA
from lorarar.synthetic import synthetic_lora

STRENGTH = 1e-3  # of random LoRAs: about a tenth of a weight, as after some training; strong ones end in NaN

PAPER_FOOTPRINT = {
    "ziplora_s": 158.0,
    "learned_s": 0.037,
    "ziplora_parameters": 1.5e6,
    "learned_parameters": 0.49e6,
    "device": "NVIDIA RTX 4090",
}
"""Table 2 of the paper, for SDXL."""


def random_loras(layout: Layout, rank: int) -> tuple[LoRA, LoRA]:
    """Make a content and a style LoRA of random numbers, for merges and optimisations that are only timed."""
    return synthetic_lora(layout, rank, 0, STRENGTH), synthetic_lora(layout, rank, 1, STRENGTH)


class MergeWork(NamedTuple):
    """What merging one pair of LoRAs of equal rank takes: operations (a multiply-add is two) and bytes."""

    dense: int
    factored: int
    prepared: int
    prepared_bytes: int  # read by the prepared form: two hidden pre-activations a layer

    @classmethod
    def of(cls, layout: Layout, rank: int, hidden: int) -> MergeWork:
        """Count them for a layout, a rank, and a hypernetwork of so many hidden units."""
        dense = factored = prepared = read = 0
        for group in layout.part("qo"):
            count, inp, out = len(group.modules), group.in_features, group.out_features
            last = 2 * hidden * 2 * inp
            # The dense form starts from factors too: ΔW of both, then [W_c, W_s]·[ΔW_c; ΔW_s].
            dense += count * (2 * 2 * out * rank * inp + 2 * hidden * 2 * out * inp + last)
            factored += count * (2 * 2 * hidden * rank * (out + inp) + last)
            prepared += count * (hidden * inp + last)
            read += count * 2 * hidden * inp * FLOAT_BYTES
        return cls(dense, factored, prepared, read)


def goal(what: str, value: float, limit: float, at_least: bool, unit: str = "×") -> dict[str, Any]:
    """Return a goal of the project as a document holds it, and whether this run's value meets it."""
    passed = value >= limit if at_least else value <= limit
    return {"what": what, "value": value, "limit": limit, "at_least": at_least, "unit": unit, "passed": passed}


def goals(
    base: str, samples: Mapping[str, Samples], work: MergeWork, machine: Machine, written: int
) -> list[dict[str, Any]]:
    """Hold the cases that were run against the project's goals, by medians; `written` are the bytes of a merge."""
    time = {name: case.median for name, case in samples.items()}
    found = [
        goal("factored against dense", time["dense"] / time["factored"], 15.0, at_least=True),
        goal("factored, share of sgemm", work.factored / time["factored"] / machine.sgemm * 100, 50.0, True, "%"),
        goal("prepared against factored", time["factored"] / time["prepared"], 5.0, at_least=True),
        goal("prepared, share of memory read", _bandwidth(samples, work, machine) * 100, 60.0, True, "%"),
        goal("written by a merge", written / 1e6, 12.0, at_least=False, unit=" MB"),
    ]
    if base.startswith("koala"):
        found.append(goal("new strength", time["new strength"] * 1e3, 2.0, at_least=False, unit=" ms"))
    if base == "sdxl":
        found.append(goal("prepared", time["prepared"] * 1e3, 37.0, at_least=False, unit=" ms"))
    for name, limit in (("onnx", 1.2), ("executorch", 1.5)):
        if name in time:
            found.append(goal(f"{name} against PyTorch", time[name] / time["factored"], limit, at_least=False))
    return found


def _bandwidth(samples: Mapping[str, Samples], work: MergeWork, machine: Machine) -> float:
    """Return the prepared form's share of the read bandwidth, which bounds it."""
    return work.prepared_bytes / samples["prepared"].median / machine.read_bandwidth


def footprint(samples: Mapping[str, Samples], ziplora: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    """Return the paper's Table 2 for one pair: seconds for the coefficients alone, and numbers of parameters.

    `parameters` is the hypernetwork's number, `ziplora` what `measure_steps` measured.
    """
    optimisation = ziplora["steps"] * median(ziplora["step_seconds"])
    learned = samples["factored"].median
    return {
        "ziplora_s": optimisation,
        "learned_s": learned,
        "times_faster": optimisation / learned,
        "ziplora_parameters": ziplora["parameters"],
        "learned_parameters": parameters,
        "steps": ziplora["steps"],
        "measured_steps": len(ziplora["step_seconds"]),
        **{key: ziplora[key] for key in ("step_seconds", "latent_side", "gradient_checkpointing", "peak_bytes")},
        "paper": PAPER_FOOTPRINT,
    }


def case_record(name: str, samples: Samples, work: MergeWork, machine: Machine) -> dict[str, object]:
    """Return one case as JSON; only the forms of the coefficients have a count of operations."""
    record: dict[str, object] = case_times(name, samples)
    operations = {"dense": work.dense, "factored": work.factored, "prepared": work.prepared}.get(name)
    if operations is not None:
        rate = operations / samples.median
        record |= {"operations": operations, "gflops": rate / 1e9, "share_of_sgemm": rate / machine.sgemm}
    if name == "prepared":
        record["share_of_bandwidth"] = _bandwidth({name: samples}, work, machine)
    return record
