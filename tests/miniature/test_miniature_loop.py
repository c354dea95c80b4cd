"""The loop that the miniature's trainings share: resuming, the moving average, the rate, the precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorarar.errors import InputError
from miniature.loop import Average, Loop, Schedule, fast_products, seeded


class _Quadratic:
    """A loop's loss that depends on the step's own random numbers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(3, 2)

    def __call__(self, step: int) -> torch.Tensor:
        return self.module(torch.randn(4, 3, generator=seeded(7, step))).square().mean()


def _run(state: Path, steps: int, stop_after: int | None = None) -> tuple[list[float], torch.Tensor]:
    problem = _Quadratic()
    loop = Loop([problem.module], Schedule(steps, 0.05, warmup=3), state, "test", {"seed": 7})

    def loss_of(step: int) -> torch.Tensor:
        if step == stop_after:
            raise KeyboardInterrupt
        return problem(step)

    return loop.run(loss_of), problem.module.weight.detach().clone()


def test_a_stopped_loop_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _run(tmp_path / "whole", 20)
    monkeypatch.setattr("miniature.loop.SAVE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "stopped", 20, stop_after=11)
    resumed = _run(tmp_path / "stopped", 20)
    assert resumed[0] == whole[0] and torch.equal(resumed[1], whole[1])
    assert whole[0][-1] < whole[0][0]


def test_three_steps_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's steps at the schedule's rates on clipped gradients, and the average of the weights after each."""
    monkeypatch.setattr("miniature.loop.LARGEST_GRADIENT", 0.01)
    found = _run(tmp_path / "state", 3)[1]
    problem, schedule = _Quadratic(), Schedule(3, 0.05, warmup=3)
    parameters = list(problem.module.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)
    average = problem.module.weight.detach().clone()
    for step, (rate, keep) in enumerate(((0.05 / 3, 1 / 10), (0.1 / 3, 2 / 11), (0.05, 3 / 12))):
        assert schedule.at(step) == pytest.approx(rate)
        optimizer.param_groups[0]["lr"] = rate
        problem(step).backward()
        length = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()
        assert length > 0.01
        for parameter in parameters:
            parameter.grad *= 0.01 / length
        optimizer.step()
        optimizer.zero_grad()
        average = keep * average + (1 - keep) * problem.module.weight.detach()
    torch.testing.assert_close(found, average, rtol=1e-4, atol=1e-6)


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    _run(tmp_path / "state", 3)
    loop = Loop([_Quadratic().module], Schedule(3, 0.05), tmp_path / "state", "test", {"seed": 8})
    with pytest.raises(InputError, match="of a run with other settings; remove it"):
        loop.run(_Quadratic())


@pytest.mark.parametrize("kept", [0, 100], ids=["empty", "cut"])
def test_a_damaged_state_is_named(kept: int, tmp_path: Path) -> None:
    """As a power cut leaves it: it is renamed into place before the disk has all of it."""
    state = tmp_path / "state"
    _run(state, 3)
    state.write_bytes(state.read_bytes()[:kept])
    with pytest.raises(InputError, match="state is damaged; remove it, and this training starts again"):
        _run(state, 3)


def test_a_loss_that_is_not_finite_ends_the_loop(tmp_path: Path) -> None:
    problem = _Quadratic()
    loop = Loop([problem.module], Schedule(3, 0.05), tmp_path / "state", "test", {})
    with pytest.raises(InputError, match="the loss is nan at step 0; lower the learning rate"):
        loop.run(lambda step: problem(step) * float("nan"))


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"architecture": "arm64", "bf16": True}, torch.bfloat16),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"architecture": "unknown"}, torch.float32),
    ],
)
def test_networks_multiply_in_bf16_where_the_cpu_does(
    capabilities: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with fast_products():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, rate=1.0, warmup=10)
    assert schedule.at(0) == pytest.approx(0.1) and schedule.at(9) == schedule.at(10) == 1.0
    assert schedule.at(55) == pytest.approx(0.01 + 0.99 / 2)
    assert schedule.at(100) == pytest.approx(0.01)


def test_the_average_follows_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = Average([module], decay=0.9)
    nn.init.constant_(module.weight, 3.0)
    average.update(10_000)
    average.store()
    assert module.weight.item() == pytest.approx(0.9 * 1.0 + 0.1 * 3.0)
