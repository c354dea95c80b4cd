"""Every form of the hypernetwork, and a few layers at once, against the dense one, with gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorarar.hypernet import network as hypernet_module
from lorarar.hypernet.graph import Merger
from lorarar.hypernet.network import FORMS, HypernetConfig, Hypernetwork
from lorarar.layout import Group, Layout, input_shapes

COUNT, INP, WIDTH = 7, 12, 8


def factors(content_rank: int, style_rank: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [
        (COUNT, content_rank, INP),
        (COUNT, WIDTH, content_rank),
        (COUNT, style_rank, INP),
        (COUNT, WIDTH, style_rank),
    ]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.fixture
def hypernet() -> Hypernetwork:
    return Hypernetwork.untrained(HypernetConfig(widths=(WIDTH,), hidden=16)).double()


@pytest.mark.parametrize("ranks", [(1, 1), (3, 5), (4, 1)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_once", [None, 1, 3, 7, 100])
def test_every_form_is_the_dense_one(
    hypernet: Hypernetwork, ranks: tuple[int, int], form: str, at_once: int | None
) -> None:
    c_down, c_up, s_down, s_up = tensors = factors(*ranks)
    dense = hypernet.dense(c_up @ c_down, s_up @ s_down)
    torch.testing.assert_close(hypernet(*tensors, at_once, form), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("floats_at_once", [1, 2 * 16 * INP, 1 << 20])
def test_prepared_is_the_dense_one(
    hypernet: Hypernetwork, monkeypatch: pytest.MonkeyPatch, floats_at_once: int
) -> None:
    monkeypatch.setattr(hypernet_module, "_HIDDEN_FLOATS_AT_ONCE", floats_at_once)
    c_down, c_up, s_down, s_up = factors(3, 5)
    content, style = hypernet.prepare(c_down, c_up, "content"), hypernet.prepare(s_down, s_up, "style")
    kept = content.clone()
    dense = hypernet.dense(c_up @ c_down, s_up @ s_down)
    torch.testing.assert_close(hypernet.combine(content, style), dense, rtol=1e-12, atol=1e-12)
    # A prepared LoRA serves many pairs: combining must not write into it.
    assert torch.equal(content, kept)


@pytest.mark.parametrize("form", [*FORMS, "prepared"])
def test_gradients_are_those_of_the_dense_form(hypernet: Hypernetwork, form: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in factors(3, 5)]
    c_down, c_up, s_down, s_up = tensors
    wanted = [*tensors, *hypernet.parameters()]
    expected = torch.autograd.grad(hypernet.dense(c_up @ c_down, s_up @ s_down).square().sum(), wanted)
    if form == "prepared":
        found = hypernet.combine(hypernet.prepare(c_down, c_up, "content"), hypernet.prepare(s_down, s_up, "style"))
    else:
        found = hypernet(*tensors, 3, form)
    for have, want in zip(torch.autograd.grad(found.square().sum(), wanted), expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


def test_merger_without_gradients_equals_the_one_with() -> None:
    layout = Layout("tiny", (Group("qo", 8, 8, ("a.to_q", "b.to_q")), Group("kv", 6, 8, ("a.to_k",))))
    generator = torch.Generator().manual_seed(2)
    counts = {"qo_8x8": (2, 8, 8), "kv_6x8": (1, 6, 8)}
    tensors = {}
    for name in list(input_shapes(layout))[:-2]:
        role, rest = name.split("_", 1)
        group, _, end = rest.rpartition("_")
        count, inp, out = counts[group]
        rank = 3 if role == "content" else 2
        shape = (count, rank, inp) if end == "down" else (count, out, rank)
        tensors[name] = torch.randn(shape, generator=generator)
    tensors |= {"content_scale": torch.tensor([1.5]), "style_scale": torch.tensor([0.25])}
    merger = Merger(Hypernetwork.untrained(HypernetConfig(widths=(8,), hidden=16)), layout)
    differentiable = merger(**tensors)
    with torch.no_grad():
        plain = merger(**tensors)
    assert differentiable["adapter_qo_8x8_down"].requires_grad and not plain["adapter_qo_8x8_down"].requires_grad
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, differentiable[name].detach())
