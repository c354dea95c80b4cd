"""The miniature's own trainings on a GPU: `make test-gpu`, skipped where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_miniature_build import TO_PIPELINE, small_plan

from miniature.build import build
from miniature.judge_network import Widths
from miniature.judge_training import JudgePlan, train_judge
from miniature.loop import Schedule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here"),
]


def test_a_build_up_to_its_pipeline_has_the_losses_of_one_on_the_cpu(tmp_path: Path) -> None:
    """The same draws, in bf16 on the GPU."""
    losses = {}
    for device in ("cuda", "cpu"):
        plan = replace(small_plan(tmp_path / device), device=device, batch=8)
        build(plan, TO_PIPELINE)
        losses[device] = [
            value
            for name in ("autoencoder", "base", "longer-1", "longer-2")
            for value in json.loads((plan.work / name / "losses.json").read_text())
        ]
    assert len(losses["cuda"]) == 8
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0.05)


def test_a_judge(tmp_path: Path) -> None:
    small = Widths(4, (4, 8, 8), (1, 1, 1))
    plan = JudgePlan(160, Schedule(steps=3, rate=1e-3, warmup=1), trials=40, subject=small, style=small)
    (tmp_path / "work").mkdir()
    judge = train_judge(0, tmp_path / "work", plan, device="cuda")
    assert next(judge.network.parameters()).device.type == "cpu"
    assert all(bool(torch.isfinite(weight).all()) for weight in judge.network.parameters())
