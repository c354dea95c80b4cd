"""Eq. 3 and its gradient, in factored form, against dense matrices put into copies of the UNet, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import CAPTIONS, tiny_sizes
from tiny_world import random_lora
from torch import Tensor
from torch.func import functional_call

from lorarar.base.components import Condition
from lorarar.base.names import unet_layout
from lorarar.base.untrained import build_tokenizer, new_pipeline
from lorarar.errors import InputError
from lorarar.hypernet.columns import Columns, layout_columns
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig, Hypernetwork
from lorarar.layout import KINDS, UNET, Layout, kind_of
from lorarar.lora import LoRA
from lorarar.merging.types import RULES
from lorarar.training.bank import (
    LoraBank,
    constant_coefficients,
    merged_factors,
    predict_coefficients,
)
from lorarar.training.hyper_settings import DISTANCES, REGULARISERS, LossSettings
from lorarar.training.joint import JointBatch
from lorarar.training.loss import PairBatch, distances, merging_loss, orthogonality

ALL_SETS = list(chain.from_iterable(combinations(KINDS, size) for size in range(1, 5)))


@pytest.fixture(scope="module")
def unet() -> Any:
    return new_pipeline(tiny_sizes(), build_tokenizer(CAPTIONS), 0).unet.requires_grad_(False).eval().double()


@pytest.fixture(scope="module")
def layout(unet: Any) -> Layout:
    return unet_layout(unet, "tiny")


def hypernet(
    learned: tuple[str, ...] = ("q", "out"),
    rule: str = "average",
    positions: tuple[str, ...] = (),
    columns: Columns = (),
) -> Hypernetwork:
    """With weights large enough that the coefficients differ between columns, and between layers with positions."""
    made = Hypernetwork.untrained(HypernetConfig((32, 48), 8, rule, learned, positions, columns), 3).double()
    torch.nn.init.normal_(made.output.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    for values in ([made.positions] if positions else []) + [*made.columns.parameters()]:
        torch.nn.init.normal_(values, std=0.3, generator=torch.Generator().manual_seed(1))
    return made


def make_batch(pairs: int, seed: int = 0) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows = 2 * pairs
    condition = Condition(normal(rows, 77, 80), normal(rows, 48), torch.full((rows, 6), 32.0, dtype=torch.float64))
    return PairBatch(normal(rows, 4, 8, 8), torch.randint(1000, (rows,), generator=generator), condition)


def dense(lora: LoRA, module: str) -> Tensor:
    layer = lora.layers[UNET + module]
    return torch.from_numpy(layer.up).double() @ torch.from_numpy(layer.down).double()


def run_dense(unet: Any, batch: PairBatch, row: int, deltas: dict[str, Tensor]) -> Tensor:
    """One row through the UNet with W + ΔW in place of W."""
    weights = {f"{module}.weight": unet.get_submodule(module).weight + delta for module, delta in deltas.items()}
    condition = batch.condition.take(torch.tensor([row]))
    added = {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
    args = (batch.latents[row : row + 1], batch.timesteps[row : row + 1], condition.embeds)
    return functional_call(unet, weights, args, {"added_cond_kwargs": added}).sample


def dense_coefficients(predictor: Hypernetwork, module: str, content: Tensor, style: Tensor) -> Tensor:
    """(m_c, m_s) by the paper's dense form: each column of [ΔW_c; ΔW_s] is one input."""
    if kind_of(module) in predictor.config.learned:
        return predictor.dense(content[None], style[None], [module])[0]
    return torch.full((2, content.shape[1]), RULES[predictor.config.kv_rule], dtype=torch.float64)


def dense_loss(
    unet: Any, layout: Layout, predictor: Hypernetwork, pairs: list[tuple[LoRA, LoRA]], settings: LossSettings
) -> Tensor:
    """Eq. 3 written out for each pair, on dense ΔW; the mean over the pairs."""
    batch, totals = make_batch(len(pairs)), []
    for number, (content, style) in enumerate(pairs):
        deltas = [{module: dense(lora, module) for module in layout.modules} for lora in (content, style)]
        merged, products, cosines, sums = {}, [], [], []
        for module in layout.modules:
            m_c, m_s = dense_coefficients(predictor, module, deltas[0][module], deltas[1][module])
            merged[module] = deltas[0][module] * m_c + deltas[1][module] * m_s
            if kind_of(module) in predictor.config.learned:
                products.append((m_c @ m_s / len(m_c)).abs())
                sums.append((m_c @ m_s).abs())
                cosines.append((m_c @ m_s / (m_c.norm() * m_s.norm())).abs())
        terms = []
        for role in (0, 1):
            row = 2 * number + role
            with torch.no_grad():
                goal, base = run_dense(unet, batch, row, deltas[role]), run_dense(unet, batch, row, {})
            terms.append(dense_distance(run_dense(unet, batch, row, merged), goal, base, settings.distance))
        term = {
            "dot": sum(products) / len(products),
            "dot-sum": sum(sums),
            "cosine": sum(cosines),
            "none": torch.zeros(()),
        }[settings.regulariser]
        totals.append(terms[0] + terms[1] + settings.weight * term)
    return sum(totals) / len(totals)


def dense_distance(have: Tensor, goal: Tensor, base: Tensor, kind: str) -> Tensor:
    """`change` by another formula: the mean square, with the wanted change's length in the place of the made one's."""
    if kind == "mse":
        return (have - goal).square().mean()
    if kind == "l2":
        return (have - goal).square().sum().sqrt()
    made, wanted = (have - base).flatten(), (goal - base).flatten()
    lengths = made.square().sum().sqrt(), wanted.square().sum().sqrt()
    return (
        (made / lengths[0] - wanted / lengths[1]).square().sum() * lengths[1] ** 2 + (lengths[0] - lengths[1]) ** 2
    ) / len(made)


def factored_loss(
    unet: Any, layout: Layout, predictor: Any, pairs: list[tuple[LoRA, LoRA]], settings: LossSettings
) -> Tensor:
    """The loss as it is trained; its gradients are in the predictor afterwards."""
    rank = max(lora.max_rank for pair in pairs for lora in pair)
    packs = [
        LoraBank.of([pair[role] for pair in pairs], layout, rank, torch.float64).take(range(len(pairs)), "cpu")
        for role in (0, 1)
    ]
    coefficients = predict_coefficients(predictor, layout, *packs)
    args = (unet, make_batch(len(pairs)), layout, (packs[0], packs[1]), coefficients, settings)
    with merging_loss(*args) as loss:
        loss.total.backward()
    together = loss.content + loss.style + settings.weight * loss.orthogonality
    torch.testing.assert_close(together, loss.total.detach())
    return loss.total.detach()


def assert_same_loss_and_gradient(
    unet: Any, layout: Layout, made: Hypernetwork, pairs: list[tuple[LoRA, LoRA]], settings: LossSettings
) -> None:
    reference = copy.deepcopy(made)
    want = dense_loss(unet, layout, reference, pairs, settings)
    want.backward()
    have = factored_loss(unet, layout, made, pairs, settings)
    torch.testing.assert_close(have, want.detach(), rtol=1e-8, atol=0)
    for (name, value), other in zip(made.named_parameters(), reference.parameters(), strict=True):
        assert value.grad is not None and other.grad is not None and other.grad.abs().max() > 0, name
        # Of the largest entry: what cancels to near nothing can't be told to 1e-8 of itself.
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-8, atol=1e-8 * float(other.grad.abs().max()))


@settings(max_examples=6)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from(list(DISTANCES)),
    st.sampled_from(list(REGULARISERS)),
    st.integers(0, 2**16),
)
def test_loss_and_gradient_are_those_of_dense_matrices(
    unet: Any, layout: Layout, ranks: tuple[int, int], distance: str, regulariser: str, seed: int
) -> None:
    loras = [random_lora(layout, (rank,), seed + role, 0.3, 0.3) for role, rank in enumerate(ranks)]
    options = LossSettings(distance, regulariser, 0.3)
    assert_same_loss_and_gradient(unet, layout, hypernet(), [(loras[0], loras[1])], options)


def test_several_pairs_in_one_pass_are_the_mean_of_each(unet: Any, layout: Layout) -> None:
    """Three pairs with mixed ranks, and with every kind of layer learned."""
    loras = [random_lora(layout, (1, 4, 2), seed, 0.3, 0.3) for seed in range(4)]
    pairs = [(loras[0], loras[1]), (loras[2], loras[1]), (loras[2], loras[3])]
    for learned in (("q", "out"), ("q", "k", "v", "out")):
        assert_same_loss_and_gradient(unet, layout, hypernet(learned, "sum"), pairs, LossSettings(weight=0.1))


def test_a_layer_s_position_is_a_bias_of_its_own(unet: Any, layout: Layout) -> None:
    """Several pairs at once, and a network whose positions stand in another order than the layout's."""
    positions = tuple(sorted(module for module in layout.modules if kind_of(module) in ("q", "out")))
    loras = [random_lora(layout, (1, 4, 2), seed, 0.3, 0.3) for seed in range(3)]
    pairs = [(loras[0], loras[1]), (loras[2], loras[1])]
    assert_same_loss_and_gradient(unet, layout, hypernet(positions=positions), pairs, LossSettings(weight=0.1))
    plain, known = (
        factored_loss(unet, layout, hypernet(positions=given), pairs, LossSettings()) for given in ((), positions)
    )
    assert abs(float(plain - known)) > 1e-4 * float(plain)


def test_columns_have_coefficients_of_their_own(unet: Any, layout: Layout) -> None:
    """Several pairs at once, beside a network and, as an ablation, beside one constant a kind."""
    columns = layout_columns(layout, ("q", "out"))
    loras = [random_lora(layout, (1, 4, 2), seed, 0.3, 0.3) for seed in range(3)]
    pairs = [(loras[0], loras[1]), (loras[2], loras[1])]
    assert_same_loss_and_gradient(unet, layout, hypernet(columns=columns), pairs, LossSettings(weight=0.1))
    constant = ConstantCoefficients(ConstantConfig("average", ("q", "out"), columns)).double()
    network = hypernet(columns=columns)
    torch.nn.init.zeros_(network.output.weight)
    constant.columns.load_state_dict(network.columns.state_dict())
    have, want = (factored_loss(unet, layout, one, pairs, LossSettings()) for one in (constant, network))
    torch.testing.assert_close(have, want, rtol=1e-12, atol=0)


def test_gradient_checkpointing_changes_no_gradient(unet: Any, layout: Layout) -> None:
    pairs = [(random_lora(layout, (2,), 1, 0.3, 0.3), random_lora(layout, (3,), 2, 0.3, 0.3))]
    one, two = hypernet(), hypernet()
    want = factored_loss(unet, layout, one, pairs, LossSettings())
    unet.enable_gradient_checkpointing()
    try:
        have = factored_loss(unet, layout, two, pairs, LossSettings())
    finally:
        unet.disable_gradient_checkpointing()
    torch.testing.assert_close(have, want)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("learned", ALL_SETS, ids=",".join)
def test_every_row_of_table_a3_has_its_coefficients(learned: tuple[str, ...], layout: Layout) -> None:
    """Learned kinds by the dense form, the others by the rule, in their layers' order."""
    content, style = random_lora(layout, (2, 3), 1, 0.3, 0.3), random_lora(layout, (4,), 2, 0.3, 0.3)
    predictor = hypernet(learned)
    packs = [LoraBank.of([lora], layout, 4, torch.float64).take([0], "cpu") for lora in (content, style)]
    found = predict_coefficients(predictor, layout, *packs)
    factors = merged_factors(layout, *packs, found)
    for module in layout.modules:
        deltas = dense(content, module), dense(style, module)
        m_c, m_s = dense_coefficients(predictor, module, *deltas)
        merged = factors[UNET + module].up[0] @ factors[UNET + module].down[0]
        torch.testing.assert_close(merged, deltas[0] * m_c + deltas[1] * m_s, rtol=0, atol=1e-12)
    count = sum(kind_of(module) in learned for module in layout.modules)
    assert sum(pairs.shape[1] for pairs in found.learned) == count > 0


def test_constants_are_one_pair_a_kind(unet: Any, layout: Layout) -> None:
    constant = ConstantCoefficients(ConstantConfig("sum", ("q", "v"))).double()
    with torch.no_grad():
        constant.pairs["q"].copy_(torch.tensor([0.9, 0.2]))
        constant.pairs["v"].copy_(torch.tensor([0.3, 0.6]))
    pairs = [(random_lora(layout, (2,), 1, 0.3, 0.3), random_lora(layout, (2,), 2, 0.3, 0.3))]
    packs = [LoraBank.of([lora], layout, 2, torch.float64).take([0], "cpu") for lora in pairs[0]]
    applied = predict_coefficients(constant, layout, *packs).applied
    want = {"q": [0.9, 0.2], "k": [1.0, 1.0], "v": [0.3, 0.6], "out": [1.0, 1.0]}
    for group in layout.groups:
        for row, module in enumerate(group.modules):
            have = applied[group.name].expand(-1, -1, -1, group.in_features)[0, row]
            torch.testing.assert_close(have, torch.tensor(want[str(kind_of(module))]).double()[:, None].expand_as(have))
    factored_loss(unet, layout, constant, pairs, LossSettings())
    assert all(pair.grad is not None and pair.grad.abs().min() > 0 for pair in constant.pairs.values())


def test_merging_a_lora_with_nothing_costs_nothing(unet: Any, layout: Layout) -> None:
    """With coefficients 1 and a style of zeros the merge is the content LoRA: only the style's term is left."""
    content, style = random_lora(layout, (2,), 1, 0.3, 0.3), random_lora(layout, (2,), 2, 0.0)
    packs = [LoraBank.of([lora], layout, 2, torch.float64).take([0], "cpu") for lora in (content, style)]
    ones = constant_coefficients(layout, 1.0, torch.zeros((), dtype=torch.float64))
    with merging_loss(unet, make_batch(1), layout, (packs[0], packs[1]), ones, LossSettings()) as loss:
        assert float(loss.content) < 1e-20 and float(loss.style) > 1e-4


def test_distances_and_terms_by_hand() -> None:
    have, want = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [1.0, 3.0]])
    shape = (2, 1, 1, 2)
    assert distances(have.view(shape), want.view(shape), "mse").tolist() == [12.5, 2.0]
    assert distances(have.view(shape), want.view(shape), "l2").tolist() == [5.0, 2.0]
    base = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).view(shape)
    # Changes (3, 0) for (0, 4), at right angles: 1 + 2·16; (0, 1) for (0, 3): 4. Both over two entries.
    assert distances(have.view(shape), want.view(shape), "change", base).tolist() == pytest.approx([16.5, 2.0])
    layers = torch.tensor([[[[1.0, 2.0], [3.0, -1.0]], [[1.0, 0.0], [-1.0, 5.0]]]])  # products 1 and -1
    assert float(orthogonality([layers], "dot")) == pytest.approx((0.5 + 0.5) / 2)
    assert float(orthogonality([layers, layers], "dot-sum")) == pytest.approx(4.0)
    cosines = 1 / (5**0.5 * 10**0.5) + 1 / 26**0.5
    assert float(orthogonality([layers], "cosine")) == pytest.approx(cosines)
    assert orthogonality([layers], "none") is None and orthogonality([], "dot") is None


def damaged(layout: Layout) -> Iterator[tuple[LoRA, str]]:
    lora = random_lora(layout, (2,), 1)
    name, layer = next(iter(lora.layers.items()))
    yield (
        LoRA({k: v for k, v in lora.layers.items() if k != name}, source="thin"),
        "thin: 1 of the 72 attention linears",
    )
    yield (
        LoRA({**lora.layers, "text_encoder.x": layer}, source="wide"),
        "can't take (1 layers of text encoders",
    )
    yield random_lora(layout, (9,), 1), "(rank 9) need 9 ranks, but there is room for 4"


def test_loras_of_other_layers_are_refused(layout: Layout) -> None:
    for lora, says in damaged(layout):
        with pytest.raises(InputError) as error:
            LoraBank.of([lora], layout, 4)
        assert says in str(error.value)


def joint_batch(pairs: int, kind: str, seed: int = 7) -> JointBatch:
    """Joint rows of random numbers; every second pair has no image."""
    rows, apart, spare = make_batch(pairs, seed), make_batch(pairs, seed + 1), make_batch(pairs, seed + 2)
    first = torch.arange(pairs)
    told = (rows.latents[:pairs], rows.timesteps[:pairs], rows.condition.take(first))
    if kind == "images":
        return JointBatch(*told, spare.latents[:pairs], torch.tensor([1.0, 0.0] * pairs).double()[:pairs])
    return JointBatch(*told, apart=apart.condition, plain=spare.condition.take(first))


def dense_joint(
    unet: Any,
    layout: Layout,
    predictor: Hypernetwork,
    pairs: list[tuple[LoRA, LoRA]],
    joint: JointBatch,
    strength: float,
    guidance: float,
) -> Tensor:
    """The joint term written out for each pair, on dense ΔW, with diffusers' guidance."""
    rows = PairBatch(joint.latents, joint.timesteps, joint.condition)
    zeros = {name: torch.zeros_like(getattr(joint.condition, name)) for name in ("embeds", "pooled")}
    empty = replace(rows, condition=replace(joint.condition, **zeros))

    def guide(prompted: Tensor, delta: dict[str, Tensor]) -> Tensor:
        silent = run_dense(unet, empty, number, delta)
        return (silent + guidance * (prompted - silent)) / guidance

    terms = []
    for number, both in enumerate(pairs):
        deltas = [{module: dense(lora, module) for module in layout.modules} for lora in both]
        merged = {}
        for module in layout.modules:
            m_c, m_s = dense_coefficients(predictor, module, deltas[0][module], deltas[1][module])
            merged[module] = deltas[0][module] * m_c + deltas[1][module] * m_s
        with torch.no_grad():
            if joint.goal is not None:
                goal = joint.goal[number : number + 1]
            else:
                assert joint.apart is not None and joint.plain is not None
                alone = [
                    run_dense(unet, replace(rows, condition=told), number, delta)
                    for told, delta in (
                        (joint.apart.take(torch.arange(0, 2 * len(pairs), 2)), deltas[0]),
                        (joint.apart.take(torch.arange(1, 2 * len(pairs), 2)), deltas[1]),
                        (joint.plain, {}),
                    )
                ]
                goal = alone[0] + strength * (alone[1] - alone[2])
            goal = guide(goal, {})
        known = 1.0 if joint.known is None else float(joint.known[number])
        terms.append(known * (guide(run_dense(unet, rows, number, merged), merged) - goal).square().mean())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["composed", "images"])
def test_the_joint_term_is_that_of_dense_matrices(kind: str, guidance: float, unet: Any, layout: Layout) -> None:
    loras = [random_lora(layout, (rank,), rank, 0.3, 0.3) for rank in (1, 3, 2)]
    pairs, joint = [(loras[0], loras[1]), (loras[2], loras[1])], joint_batch(2, kind)
    settings = LossSettings(weight=0.1, joint=kind, joint_weight=0.7, joint_style=1.6, joint_guidance=guidance)
    made, reference = hypernet(), hypernet()
    packs = [
        LoraBank.of([pair[role] for pair in pairs], layout, 3, torch.float64).take(range(2), "cpu") for role in (0, 1)
    ]
    coefficients = predict_coefficients(made, layout, *packs)
    batch = replace(make_batch(2), joint=joint)
    with merging_loss(unet, batch, layout, (packs[0], packs[1]), coefficients, settings) as loss:
        loss.total.backward()
    of_joint = dense_joint(unet, layout, reference, pairs, joint, 1.6, guidance)
    want = dense_loss(unet, layout, reference, pairs, settings) + 0.7 * of_joint
    want.backward()
    torch.testing.assert_close(loss.joint, of_joint.detach(), rtol=1e-8, atol=0)
    torch.testing.assert_close(loss.total.detach(), want.detach(), rtol=1e-8, atol=0)
    for value, other in zip(made.parameters(), reference.parameters(), strict=True):
        assert value.grad is not None and other.grad is not None
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-8, atol=1e-8 * float(other.grad.abs().max()))
