"""What every process that trains sets up: numbers that fp32 holds in microcode alone count as zero."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorarar.errors import InputError
from lorarar.training.dataset_loras import JobSettings, start_worker
from lorarar.training.launch import BaseLoading, check_device, command_process, process_state, with_fastest_precision
from lorarar.training.settings import LoraSettings
from miniature.build import build
from miniature.stages import BuildPlan

DENORMAL = 1e-39  # fp32's smallest normal number is 1.2e-38

STARTS: dict[str, Callable[[Path], object]] = {
    "a command": lambda _: command_process(),
    "a process for some LoRAs": lambda _: start_worker(
        BaseLoading("miniature", False, None, "float32", "cpu"),
        JobSettings(LoraSettings(), "fp32"),
        torch.get_num_threads(),
        None,
    ),
    "the miniature's build": lambda folder: build(BuildPlan(folder / "work", folder / "out"), []),
}


def left_over(count: int) -> int:
    """How many of `count` denormals a product by one leaves."""
    return int((torch.full((count,), DENORMAL) * 1).count_nonzero())


@pytest.mark.parametrize("start", STARTS)
def test_whatever_trains_flushes_denormals(start: str, tmp_path: Path) -> None:
    def before_and_after() -> tuple[int, int]:
        before = left_over(8)
        STARTS[start](tmp_path)
        return before, left_over(8)

    # The setting is a thread's own, so a thread for it leaves the other tests as they are.
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(before_and_after).result() == (8, 0)


def test_a_library_call_leaves_the_callers_arithmetic_as_it_is() -> None:
    def left() -> int:
        process_state()
        return left_over(8)

    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(left).result() == 8


def test_all_threads_of_a_command_flush_denormals() -> None:
    code = (
        "from lorarar.training.launch import command_process\n"
        "command_process()\n"
        "import torch\n"
        f"print(torch.get_num_threads(), int((torch.full((1 << 22,), {DENORMAL}) * 1).count_nonzero()))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["2", "0"]


@pytest.mark.parametrize(
    ("device", "emulated", "native", "chosen"),
    [
        ("cuda", True, True, "bf16"),
        ("cuda", True, False, "no"),
        ("cpu", True, True, "no"),
    ],
)
def test_bf16_is_chosen_where_a_gpu_computes_in_it(
    device: str, emulated: bool, native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch emulates it on GPUs before Ampere, which is slower than fp32."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: emulated if including_emulation else native
    )
    process = SimpleNamespace(device=torch.device(device))
    assert with_fastest_precision(LoraSettings(), process).mixed_precision == chosen


def test_a_single_gpu_of_several_is_chosen_by_the_environment() -> None:
    with pytest.raises(
        InputError, match=r"`device` is 'cuda:1'; give cuda, and choose the GPU by CUDA_VISIBLE_DEVICES"
    ):
        check_device("cuda:1")
