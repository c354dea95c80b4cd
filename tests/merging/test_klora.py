"""K-LoRA against the inequality written out, and its weights on a real module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lorarar.errors import InputError
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging.klora import KLoRA, top_sum


def lora(seed: int, scales: dict[str, float], rank: int = 2) -> LoRA:
    rng = np.random.default_rng(seed)
    return LoRA(
        {
            f"unet.{name}": LoraLayer(
                rng.standard_normal((rank, 6)).astype(np.float32),
                (scale * rng.standard_normal((4, rank))).astype(np.float32),
            )
            for name, scale in scales.items()
        },
        source=f"lora {seed}",
    )


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)


def test_top_sum_by_sorting() -> None:
    delta = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    expected = sum(sorted(np.abs(delta).ravel().tolist(), reverse=True)[:6])
    assert top_sum(delta, 6) == pytest.approx(expected)
    assert top_sum(delta, 1000) == pytest.approx(np.abs(delta).sum())


def test_selection_by_hand() -> None:
    content, style = lora(1, {"a": 1.0, "b": 0.6, "c": 3.0}), lora(2, {"a": 1.0, "b": 1.0, "c": 1.0}, rank=3)
    plan = KLoRA.plan(content, style)
    deltas = {
        name: (np.abs(content.layers[name].delta()).ravel(), np.abs(style.layers[name].delta()).ravel())
        for name in content.layers
    }
    gamma = np.mean([c.sum() / s.sum() for c, s in deltas.values()])
    seen = set()
    for name, (c, s) in deltas.items():
        for step in range(20):
            content_sum, style_sum = np.sort(c)[-6:].sum(), np.sort(s)[-6:].sum()  # K = 2·3
            expected = content_sum / gamma > style_sum * (1.5 * step / 20 + 0.5)
            assert plan.picks_content(name, step, 20) == expected
            seen.add((name, bool(expected)))
    assert len(seen) > 3  # some layer switches


def test_the_released_code_counts_calls_and_begins_anew() -> None:
    names = "abcde"
    content = lora(1, dict.fromkeys(names, 1.0) | {"c": 30.0, "e": 3.0})
    style = lora(2, dict.fromkeys(names, 1.0), rank=3)
    plan = KLoRA.plan(content, style, released=True)
    sums = {name: (np.abs(content.layers[name].delta()), np.abs(style.layers[name].delta())) for name in content.layers}
    strengths = {name: c.sum() / s.sum() for name, (c, s) in sums.items()}
    assert strengths["unet.c"] > 3 * np.mean(list(strengths.values())), "the one that is left out"
    gamma = np.mean([strength for name, strength in strengths.items() if name != "unet.c"])
    for name, (c, s) in sums.items():
        tops = [np.sort(each.ravel())[-6:].sum() for each in (c, s)]
        assert plan.ratios[name] == pytest.approx(tops[0] / (gamma * tops[1])), name
    steps, calls, picked = 10, 0, []
    for step in range(steps):
        for name, (c, s) in sums.items():
            calls += 1
            tops = [np.sort(each.ravel())[-6:].sum() for each in (c, s)]
            scale = (1.5 * (calls % (steps * 5)) / (steps * 5) + 1.5 * 0.85) % 1.5
            assert plan.picks_content(name, step, steps) == (tops[0] / gamma / (tops[1] * scale) > 1), (name, step)
            picked.append(plan.picks_content(name, step, steps))
    ordinary = KLoRA.plan(content, style)
    others = [ordinary.picks_content(name, step, steps) for step in range(steps) for name in sums]
    assert np.mean(np.array(picked) != others) > 0.1 and 0 < np.mean(picked) < 1


def test_the_stronger_lora_is_not_favoured() -> None:
    content, style = lora(1, {"a": 1.0, "b": 2.0}), lora(2, {"a": 2.0, "b": 1.0})
    louder = LoRA({name: LoraLayer(layer.down, 50 * layer.up) for name, layer in content.layers.items()})
    assert KLoRA.plan(louder, style).ratios == pytest.approx(KLoRA.plan(content, style).ratios)


def test_a_layer_goes_from_content_to_style_once() -> None:
    plan = KLoRA.plan(lora(1, {"a": 1.0, "b": 1.0}), lora(2, {"a": 1.0, "b": 1.0}))
    for name in plan.ratios:
        picks = [plan.picks_content(name, step, 50) for step in range(50)]
        assert picks == sorted(picks, reverse=True)


def test_weights_at_each_step_and_afterwards() -> None:
    content, style = lora(1, {"a": 1.0, "b": 1.0}), lora(2, {"a": 1.0, "c": 1.0})
    plan = KLoRA(content, style, {"unet.a": 1.0})  # 1 > 1.5·t/4 + 0.5 for t = 0 and 1 only
    unet = Unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with plan.applied(unet) as to_step:
        for step in (0, 1, 2, 3, 0):
            to_step(step, 4)
            chosen = content if step < 2 else style
            for name, delta in (
                ("a", chosen.layers["unet.a"].delta()),
                ("b", content.layers["unet.b"].delta()),
                ("c", style.layers["unet.c"].delta()),
            ):
                got = getattr(unet, name).weight.detach().numpy() - before[f"{name}.weight"].numpy()
                np.testing.assert_allclose(got, delta, atol=1e-6)
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_weights_come_back_after_an_error() -> None:
    plan, unet = KLoRA.plan(lora(1, {"a": 1.0}), lora(2, {"a": 1.0})), Unet()
    before = unet.a.weight.detach().clone()
    with pytest.raises(RuntimeError, match="stop"), plan.applied(unet) as to_step:
        to_step(0, 4)
        assert not torch.equal(unet.a.weight, before)
        raise RuntimeError("stop")
    assert torch.equal(unet.a.weight, before)


@pytest.mark.parametrize(("content_scale", "style_scale", "picks"), [(1.0, 0.0, True), (0.0, 1.0, False)])
def test_an_empty_layer_never_wins(content_scale: float, style_scale: float, picks: bool) -> None:
    plan = KLoRA.plan(lora(1, {"a": content_scale}), lora(2, {"a": style_scale}))
    assert plan.picks_content("unet.a", 0, 10) is picks


def test_errors() -> None:
    with pytest.raises(InputError, match="lora 1 and lora 2 have no layer in common"):
        KLoRA.plan(lora(1, {"a": 1.0}), lora(2, {"b": 1.0}))
    plan = KLoRA.plan(lora(1, {"a": 1.0, "z": 1.0}), lora(2, {"a": 1.0}))
    says = r"1 of its 2 layers are no layers of this UNet \(unet\.z\)"
    with pytest.raises(InputError, match=says), plan.applied(Unet()):
        pass
