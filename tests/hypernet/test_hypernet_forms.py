"""Every form of the hypernetwork, a few layers at once, and its graph on a stack, against the dense one in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorarar.errors import InputError
from lorarar.hypernet import network as hypernet_module
from lorarar.hypernet.graph import FORMS, CoefficientGraph
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import ROLES, Group, Layout

COUNT, INP, WIDTH = 7, 12, 8
MODULES = tuple(f"b.{number}.{end}" for number in range(4) for end in ("to_q", "to_out.0"))[:COUNT]
LAYOUT = Layout("tiny", (Group("qo", INP, WIDTH, MODULES), Group("kv", 6, WIDTH, ("a.to_k", "a.to_v"))))


def factors(content_rank: int, style_rank: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [
        (COUNT, content_rank, INP),
        (COUNT, WIDTH, content_rank),
        (COUNT, style_rank, INP),
        (COUNT, WIDTH, style_rank),
    ]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.fixture(params=["the paper's", "with positions", "with columns"])
def hypernet(request: pytest.FixtureRequest) -> Hypernetwork:
    positions = MODULES[::-1] if request.param == "with positions" else ()
    columns = tuple((name, INP) for name in sorted(MODULES)) if request.param == "with columns" else ()
    config = HypernetConfig(widths=(WIDTH,), hidden=16, positions=positions, columns=columns)
    made = Hypernetwork.untrained(config).double()
    own = [made.positions] if positions else [*made.columns.parameters()]
    for values in own:
        torch.nn.init.normal_(values, generator=torch.Generator().manual_seed(2))
    return made


def test_columns_own_coefficients_are_added() -> None:
    columns = (("b.1.to_q", INP), ("b.0.to_q", INP))
    plain = Hypernetwork.untrained(HypernetConfig((WIDTH,), 16)).double()
    own = Hypernetwork.untrained(HypernetConfig((WIDTH,), 16, columns=columns)).double()
    values = torch.randn(2, 2, INP, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    own.load_state_dict(plain.state_dict() | {f"columns.values.{INP}": values})
    content, style = (torch.randn(2, WIDTH, INP, dtype=torch.float64) for _ in range(2))
    added = own.dense(content, style, ("b.0.to_q", "b.1.to_q")) - plain.dense(content, style)
    torch.testing.assert_close(added, values.flip(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("named", [(), ("b.9.to_q",)])
def test_a_layer_without_columns_is_refused(named: tuple[str, ...]) -> None:
    network = Hypernetwork.untrained(HypernetConfig((WIDTH,), 16, columns=(("b.0.to_q", INP), ("b.9.to_q", INP + 1))))
    tensors = [tensor[:1].float() for tensor in factors(1, 1)]
    assert network(*tensors, ("b.0.to_q",)).shape == (1, 2, INP)
    with pytest.raises(InputError, match="knows the columns of 2 layers"):
        network(*tensors, named)


@pytest.mark.parametrize("ranks", [(1, 1), (3, 5), (4, 1)])
@pytest.mark.parametrize("floats_at_once", [1, 3 * 16 * INP, 1 << 20])
def test_the_factored_form_is_the_dense_one(
    hypernet: Hypernetwork, monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, int], floats_at_once: int
) -> None:
    monkeypatch.setattr(hypernet_module, "_HIDDEN_FLOATS_AT_ONCE", floats_at_once)
    c_down, c_up, s_down, s_up = tensors = factors(*ranks)
    dense = hypernet.dense(c_up @ c_down, s_up @ s_down, MODULES)
    torch.testing.assert_close(hypernet(*tensors, MODULES), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("floats_at_once", [1, 2 * 16 * INP, 1 << 20])
def test_prepared_is_the_dense_one(
    hypernet: Hypernetwork, monkeypatch: pytest.MonkeyPatch, floats_at_once: int
) -> None:
    monkeypatch.setattr(hypernet_module, "_HIDDEN_FLOATS_AT_ONCE", floats_at_once)
    c_down, c_up, s_down, s_up = factors(3, 5)
    content, style = hypernet.prepare(c_down, c_up, "content", MODULES), hypernet.prepare(s_down, s_up, "style")
    kept = content.clone()
    dense = hypernet.dense(c_up @ c_down, s_up @ s_down, MODULES)
    torch.testing.assert_close(hypernet.combine(content, style, MODULES), dense, rtol=1e-12, atol=1e-12)
    # A prepared LoRA serves many pairs: combining must not write into it.
    assert torch.equal(content, kept)


@pytest.mark.parametrize("form", ["factored", "prepared"])
def test_gradients_are_those_of_the_dense_form(hypernet: Hypernetwork, form: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in factors(3, 5)]
    c_down, c_up, s_down, s_up = tensors
    wanted = [*tensors, *hypernet.parameters()]
    expected = torch.autograd.grad(hypernet.dense(c_up @ c_down, s_up @ s_down, MODULES).square().sum(), wanted)
    if form == "prepared":
        found = hypernet.combine(
            hypernet.prepare(c_down, c_up, "content", MODULES), hypernet.prepare(s_down, s_up, "style"), MODULES
        )
    else:
        found = hypernet(*tensors, MODULES)
    for have, want in zip(torch.autograd.grad(found.square().sum(), wanted), expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


def stacked(order: list[int], loras: int = 2) -> tuple[dict[str, Tensor], Tensor]:
    """A stack of a LoRA of rank 3 and one of rank 5, with a row of padding, its rows in `order`; the dense result."""
    c_down, c_up, s_down, s_up = factors(3, 5)
    down = torch.cat([c_down, s_down, torch.zeros(COUNT, 1, INP, dtype=torch.float64)], dim=1)
    up = torch.cat([c_up, s_up, torch.zeros(COUNT, WIDTH, 1, dtype=torch.float64)], dim=2)
    roles = torch.zeros(9, loras, dtype=torch.float64)
    roles[:3, 0] = roles[3:8, 1] = 1
    group = LAYOUT.groups[0]
    tensors = {group.down: down[:, order], group.up: up[:, :, order], ROLES: roles[order]}
    return tensors, torch.stack([c_up @ c_down, s_up @ s_down])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [list(range(9)), list(range(9))[::-1], [5, 0, 8, 6, 1, 3, 2, 7, 4]])
def test_the_graph_is_the_dense_form_in_any_order_of_rows(hypernet: Hypernetwork, form: str, order: list[int]) -> None:
    tensors, (content, style) = stacked(order)
    (found,) = CoefficientGraph(hypernet, LAYOUT, form=form)(**tensors).values()
    torch.testing.assert_close(found, hypernet.dense(content, style, MODULES), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_swapped_roles_swap_the_two_loras(hypernet: Hypernetwork, form: str) -> None:
    tensors, (content, style) = stacked(list(range(9)))
    tensors[ROLES] = tensors[ROLES].flip(1)
    (found,) = CoefficientGraph(hypernet, LAYOUT, form=form)(**tensors).values()
    torch.testing.assert_close(found, hypernet.dense(style, content, MODULES), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_third_lora_gets_one_and_changes_nothing(hypernet: Hypernetwork, form: str) -> None:
    tensors, (content, style) = stacked(list(range(9)), loras=3)
    group = LAYOUT.groups[0]
    # The row that padded becomes the third LoRA's.
    tensors[group.down][:, 8], tensors[group.up][:, :, 8], tensors[ROLES][8, 2] = 3.0, -2.0, 1.0
    (found,) = CoefficientGraph(hypernet, LAYOUT, 3, form)(**tensors).values()
    torch.testing.assert_close(found[:, :2], hypernet.dense(content, style, MODULES), rtol=1e-12, atol=1e-12)
    assert found.shape == (COUNT, 3, INP) and bool((found[:, 2] == 1).all())


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("rule", ["average", "sum"])
def test_kinds_that_were_not_learned_get_the_rule(rule: str, placed: bool) -> None:
    names = [module for group in LAYOUT.groups for module in group.modules if module.endswith(("to_q", "to_v"))]
    columns = tuple((name, 12 if name in MODULES else 6) for name in names)
    config = HypernetConfig((WIDTH,), 16, rule, ("q", "v"), tuple(names) if placed else (), columns if placed else ())
    network = Hypernetwork.untrained(config).double()
    if placed:
        for values in (network.positions, *network.columns.parameters()):
            torch.nn.init.normal_(values, generator=torch.Generator().manual_seed(2))
    graph = CoefficientGraph(network, LAYOUT).double()
    assert [group.name for group in graph.groups] == ["qo_12x8", "kv_6x8"]
    tensors, (content, style) = stacked(list(range(9)))
    keys = LAYOUT.groups[1]
    tensors |= {keys.down: torch.ones(2, 9, 6).double(), keys.up: torch.ones(2, WIDTH, 9).double()}
    found = graph(**tensors)
    value = {"average": 0.5, "sum": 1.0}[rule]
    for row, module in enumerate(MODULES):
        wanted = torch.full((2, INP), value).double()
        if module.endswith("to_q"):
            (wanted,) = network.dense(content[row : row + 1], style[row : row + 1], [module])
        torch.testing.assert_close(found[LAYOUT.groups[0].coefficients][row], wanted, rtol=1e-12, atol=1e-12)
    assert bool((found[keys.coefficients][0] == value).all())  # to_k
    assert not bool((found[keys.coefficients][1] == value).any())  # to_v


def test_positions_tell_equal_layers_apart() -> None:
    """Four layers with the same factors: the paper's network gives them the same coefficients, positions others."""
    names = MODULES[:4]
    tensors = [tensor[:1].expand(4, -1, -1) for tensor in factors(2, 3)]
    for positions in ((), names):
        network = Hypernetwork.untrained(HypernetConfig((WIDTH,), 16, positions=positions)).double()
        if positions:
            torch.nn.init.normal_(network.positions, generator=torch.Generator().manual_seed(2))
        found = network(*tensors, names)
        assert bool((found[1:] == found[:1]).all()) == (positions == ())
        swapped = network(*tensors, names[::-1])
        torch.testing.assert_close(swapped, found.flip(0), rtol=1e-12, atol=1e-12)


def test_a_layer_without_a_place_is_refused() -> None:
    network = Hypernetwork.untrained(HypernetConfig((WIDTH,), 16, positions=MODULES[:-1])).double()
    with pytest.raises(InputError, match=rf"knows 6 layers by their places, and not {MODULES[-1]}; give one"):
        network(*factors(1, 1), MODULES)
    with pytest.raises(InputError, match="and not those without a name"):
        network(*factors(1, 1))
    with pytest.raises(InputError, match="knows 6 layers"):
        CoefficientGraph(network, LAYOUT)


def test_an_unknown_form_is_refused(hypernet: Hypernetwork) -> None:
    with pytest.raises(InputError, match="`form` is 'odd'"):
        CoefficientGraph(hypernet, LAYOUT, form="odd")
