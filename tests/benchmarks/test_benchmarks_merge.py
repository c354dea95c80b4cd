"""The merge benchmark: operation counts, interleaving, goals, and the command on a base of toy size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shared_bundles import require_target
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import merge as command
from benchmarks import merge_times, timing
from benchmarks.command import say_if_busy
from benchmarks.merge_times import (
    _artifact_case,
    measure_steps,
    pytorch_cases,
    random_base,
    session_cases,
    written_bytes,
)
from benchmarks.merge_work import MergeWork, case_record, footprint, goal, goals
from benchmarks.timing import STEADY, Machine, Samples, interleave
from lorarar.base.names import load_layout
from lorarar.commands.export import main as export
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import open_predictor
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import Group, Layout
from lorarar.stack import stack
from lorarar.synthetic import synthetic_lora
from runtime_py.blend import Blender

LAYOUT = Layout(
    "tiny",
    (
        Group("qo", 8, 8, ("a.to_q", "b.to_q", "c.to_q")),
        Group("qo", 6, 8, ("d.to_q",)),
        Group("kv", 12, 8, ("a.to_k", "a.to_v")),
    ),
)
RANK, HIDDEN = 4, 16
TINY_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": None,
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 12,
}
TINY_ATTENTIONS = 3  # transformers: one down, two up


def toy_base(folder: Path) -> Path:
    (folder / "toy" / "unet").mkdir(parents=True)
    (folder / "toy" / "unet" / "config.json").write_text(json.dumps(TINY_UNET))
    return folder / "toy"


def test_ranks_are_a_list() -> None:
    assert command.parse_ranks("16") == [16] and command.parse_ranks("16,64,128") == [16, 64, 128]


def test_work_by_hand() -> None:
    work = MergeWork.of(LAYOUT, RANK, HIDDEN)
    assert work.factored == 3 * (2 * 2 * 16 * 4 * (8 + 8) + 2 * 16 * 2 * 8) + (2 * 2 * 16 * 4 * 14 + 2 * 16 * 2 * 6)
    assert work.dense == 3 * (2 * 2 * 8 * 4 * 8 + 2 * 16 * 16 * 8 + 512) + (2 * 2 * 8 * 4 * 6 + 2 * 16 * 16 * 6 + 384)
    assert work.prepared == 3 * (16 * 8 + 512) + (16 * 6 + 384)
    assert work.prepared_bytes == 2 * 4 * 16 * (3 * 8 + 6)


def inputs() -> dict[str, torch.Tensor]:
    pair = [synthetic_lora(LAYOUT, RANK, seed) for seed in (0, 1)]
    return {name: torch.from_numpy(value) for name, value in stack(pair, LAYOUT).inputs.items()}


def test_work_is_what_pytorch_counts() -> None:
    """The dense form's. PyTorch's counter does not see `baddbmm_`, which the factored one uses; by hand above."""
    hypernet = Hypernetwork.untrained(HypernetConfig(widths=(8,), hidden=HIDDEN))
    dense = pytorch_cases(hypernet, LAYOUT, inputs())["dense"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        dense()
    assert counter.get_total_flops() == MergeWork.of(LAYOUT, RANK, HIDDEN).dense


def test_cases_compute_the_same() -> None:
    hypernet = Hypernetwork.untrained(HypernetConfig(widths=(8,), hidden=HIDDEN))
    with torch.no_grad():
        cases = pytorch_cases(hypernet, LAYOUT, inputs())
        found = {name: cases[name]() for name in ("dense", "factored", "prepared")}
        found["graph"] = list(cases["graph"]().values())
    for name, tensors in found.items():
        for have, want in zip(tensors, found["dense"], strict=True):
            torch.testing.assert_close(have, want, msg=name)


def test_a_new_strength_writes_all_coefficients_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    blenders: list[Blender] = []

    def noted(*given: Any) -> Blender:
        blenders.append(Blender(*given))
        return blenders[-1]

    monkeypatch.setattr(merge_times, "Blender", noted)
    cases = session_cases(LAYOUT, [synthetic_lora(LAYOUT, RANK, seed) for seed in (0, 1)])
    assert set(cases) == {"stack two LoRAs", "new strength"}
    (blender,) = blenders
    for turn in range(8):  # the style's strength is another each time, from 0 to 6/7 and again
        cases["new strength"]()
        for name, unit in blender.unit.items():
            want = unit * np.float32([[1.0], [turn % 7 / 7]])
            np.testing.assert_allclose(blender.values[name], want, rtol=1e-6, err_msg=name)
    assert sum(values.nbytes for values in blender.values.values()) == written_bytes(LAYOUT)
    assert written_bytes(LAYOUT) == 4 * 2 * (3 * 8 + 6 + 2 * 12)


@pytest.mark.parametrize("target", ["onnx", pytest.param("executorch", marks=[pytest.mark.full])])
def test_a_timed_artifact_computes_what_the_timed_graph_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    require_target(target)
    # A process of its own would import the toolchains a second time.
    monkeypatch.setattr(merge_times, "run_module", lambda module, *given: export([module.rpartition(".")[2], *given]))
    base = toy_base(tmp_path)
    layout = load_layout(str(base))
    given = {
        name: torch.from_numpy(value)
        for name, value in stack([synthetic_lora(layout, RANK, seed) for seed in (0, 1)], layout).inputs.items()
    }
    hypernet = open_predictor(str(base), layout, untrained=True).predictor
    case = _artifact_case(target, str(base), RANK, tmp_path, given, 1)
    with torch.no_grad():
        want = pytorch_cases(hypernet, layout, given)["graph"]()
    have = case()
    found = have if target == "onnx" else dict(zip(want, have, strict=True))
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5, err_msg=name)


def test_interleave_takes_turns_and_leaves_out_the_first() -> None:
    now, order = [0.0], []
    costs = {"slow": [100.0, 3.0, 5.0, 4.0], "fast": [50.0, 1.0, 1.0, 7.0]}

    def case(name: str) -> None:
        order.append(name)
        now[0] += costs[name].pop(0)

    samples = interleave({name: lambda name=name: case(name) for name in costs}, 3, clock=lambda: now[0])
    assert order == ["slow", "fast"] * 4
    assert samples["slow"].seconds == (3, 5, 4) and samples["slow"].median == 4
    assert samples["fast"].seconds == (1, 1, 7) and samples["fast"].best == 1


def test_interleave_frees_a_result_before_the_next_run() -> None:
    alive = []

    class Result:
        def __init__(self) -> None:
            assert not alive, "the outputs of the last run still live"
            alive.append(self.__hash__())

        def __del__(self) -> None:
            alive.clear()

    interleave({"a": Result, "b": Result}, 2)


def samples(**medians: float) -> dict[str, Samples]:
    return {name: Samples((value,)) for name, value in medians.items()}


def test_goals_are_the_ratios() -> None:
    work, machine = (
        MergeWork(dense=0, factored=100, prepared=10, prepared_bytes=40),
        Machine(sgemm=200.0, read_bandwidth=400.0),
    )
    times = samples(dense=16.0, factored=1.0, prepared=0.25, onnx=1.1, executorch=2.0)
    times["new strength"] = Samples((0.001,))
    found = {goal["what"]: goal for goal in goals("koala-700m", times, work, machine, 24_000_000)}
    assert [goal["value"] for goal in found.values()] == [16, 50, 4, 40, 24, 1, 1.1, 2]
    assert [goal["passed"] for goal in found.values()] == [True, True, False, False, False, True, True, False]
    assert "prepared" not in found
    sdxl = {
        goal["what"]: goal for goal in goals("sdxl", samples(dense=1.0, factored=1.0, prepared=0.036), work, machine, 1)
    }
    assert sdxl["prepared"]["value"] == pytest.approx(36) and sdxl["prepared"]["passed"]
    assert not any("onnx" in what or "executorch" in what for what in sdxl)
    assert not goal("x", 37.1, 37.0, at_least=False)["passed"]


def test_the_machines_rates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of n × n has n³ multiplications and as many additions; a number that is read has four bytes."""
    took = {"512": 2.0, "1024": 4.0, "read": 0.5}
    monkeypatch.setattr(timing, "interleave", lambda cases, rounds: {name: Samples((took[name],)) for name in cases})
    monkeypatch.setattr(timing, "_SIZES", (512, 1024))
    monkeypatch.setattr(timing, "_BANDWIDTH_FLOATS", 1000)
    machine = timing.measure_machine()
    assert machine.sgemm == 2 * 1024**3 / 4.0 and machine.read_bandwidth == 4 * 1000 / 0.5
    kept = machine.record(Samples((2 * timing.SGEMM_SIZE**3 / machine.sgemm / 0.5,)))["steadiness"]
    assert kept == pytest.approx(0.5)


def test_a_busy_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    say_if_busy(STEADY)
    assert capsys.readouterr().out == ""
    say_if_busy(STEADY - 0.01)
    assert "the machine was busy" in capsys.readouterr().out


def test_the_papers_second_table_by_hand() -> None:
    zipped = {"step_seconds": [1.0, 5.0, 2.0], "steps": 100, "parameters": 600}
    zipped |= {"latent_side": 8, "gradient_checkpointing": False, "peak_bytes": 7}
    found = footprint(samples(factored=0.05, prepared=0.01), zipped, parameters=200)
    assert (found["ziplora_s"], found["learned_s"], found["times_faster"]) == (200, 0.05, 4000)
    assert (found["ziplora_parameters"], found["learned_parameters"], found["measured_steps"]) == (600, 200, 3)
    assert found["paper"]["ziplora_s"] / found["paper"]["learned_s"] == pytest.approx(4270, abs=1)


def test_record_of_a_case() -> None:
    work, machine = (
        MergeWork(dense=0, factored=100, prepared=10, prepared_bytes=40),
        Machine(sgemm=200.0, read_bandwidth=400.0),
    )
    factored = case_record("factored", Samples((1.0, 2.0, 5.0)), work, machine)
    assert (factored["median_s"], factored["best_s"], factored["share_of_sgemm"]) == (2.0, 1.0, 0.25)
    assert case_record("prepared", Samples((0.2,)), work, machine)["share_of_bandwidth"] == pytest.approx(0.5)
    assert "gflops" not in case_record("onnx", Samples((1.0,)), work, machine)


def test_command_on_a_toy_base(tmp_path: Path) -> None:
    base, out = toy_base(tmp_path), tmp_path / "merge.json"
    arguments = ["--base", str(base), "--rank", "2", "--target", "none", "--runs", "2", "--out", str(out)]
    arguments += ["--ziplora-steps", "1", "--threads", "1"]
    # A process of its own, whose last line nothing else may follow.
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.merge", *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout.splitlines()[-1])
    assert json.loads(out.read_text()) == document
    assert (document["benchmark"], document["base"], document["rounds"]) == ("merge", "toy", 2)
    assert [result["rank"] for result in document["results"]] == [2]
    names = ["dense", "factored", "prepared", "graph", "stack two LoRAs", "new strength", "sgemm"]
    for result in document["results"]:
        assert [case["name"] for case in result["cases"]] == names
        assert all(len(case["seconds"]) == 2 and case["best_s"] > 0 for case in result["cases"])
        assert result["files"]["bytes"] > 0 and result["files"]["ratio"] > 0
        assert result["machine"]["sgemm_gflops"] > 1 and len(result["goals"]) == 5
        assert result["written_bytes"] > 0
        # A pair of coefficients for each of the layers' inputs: attention 1 has 16, attention 2's k and v have 12.
        layers = TINY_ATTENTIONS * 2 * (4 * 16 + 2 * 16 + 2 * 12)
        assert result["footprint"]["ziplora_parameters"] == layers
        assert len(result["footprint"]["step_seconds"]) == 1 and result["footprint"]["times_faster"] > 1
    assert "of sgemm" in run.stdout and "factored against dense" in run.stdout
    assert "of ZipLoRA's 100 steps 1 were measured" in run.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *((["--rank", text], "--rank .* is not a list of ranks") for text in ("", "a", "0", "16,,64", "-1", "513")),
        (["--target", "onnx,tflite"], "--target is 'tflite'; valid are onnx, executorch"),
        (["--target", "coreml"], "--target is 'coreml'"),
        (["--base", "nowhere"], "nowhere"),
        (["--runs", "0"], "--runs is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--ziplora-steps", "-1"], "--ziplora-steps is -1"),
        (["--out", "."], "this is a folder"),
    ],
)
def test_bad_input_is_told(given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command.main(given)


def test_the_base_of_ziploras_steps_is_what_an_optimisation_runs_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(TINY_UNET | {"sample_size": 8}))
    found = measure_steps(str(tmp_path), rank=2, steps=2, threads=1)
    assert len(found["step_seconds"]) == 2 and found["latent_side"] == 8
    assert {item.name for item in fields(random_base(str(tmp_path)))} == {"unet", "noise", "latent_side"}
