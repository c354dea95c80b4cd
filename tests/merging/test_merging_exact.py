"""The exact methods against their dense formulas in float64, and LoRA.rar against the graph that phones run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import dense_coefficients, dense_sum, largest

from lorarar.errors import InputError
from lorarar.hypernet.columns import layout_columns
from lorarar.hypernet.graph import CoefficientGraph
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import PAPER_LEARNED, UNET, Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging import METHODS, RULES, MergeOptions, merge_loras, predict_with
from lorarar.merging.exact import row_space
from lorarar.stack import fold, stack

TOLERANCE = 1e-5  # of the largest value, as in the tolerance table
WIDTHS = (12, 20)
LINEARS = [
    ("a.attn1.to_q", 12, 12),
    ("a.attn1.to_k", 12, 12),
    ("a.attn2.to_k", 32, 12),
    ("a.attn1.to_out.0", 12, 12),
    ("b.attn1.to_q", 20, 20),
    ("b.attn1.to_v", 20, 20),
]
OTHERS = [("a.ff.net.0.proj", 12, 48), ("a.proj_in", 12, 12)]
LAYOUT = Layout.from_linears("tiny", LINEARS)
CONV = UNET + "down_blocks.0.resnets.0.conv1"
HYPERNET = Hypernetwork.untrained(HypernetConfig(widths=WIDTHS, hidden=16))
WIDE = copy.deepcopy(HYPERNET).double()
LEARNED = MergeOptions(predict=predict_with(HYPERNET))


def layer(rng: np.random.Generator, inp: int, out: int, rank: int, scale: float = 1.0) -> LoraLayer:
    down, up = rng.standard_normal((rank, inp)), rng.standard_normal((out, rank)) * scale
    return LoraLayer(down.astype(np.float32), up.astype(np.float32))


def lora(seed: int, ranks: Callable[[np.random.Generator], int] | int = 4, scale: float = 1.0) -> LoRA:
    """A LoRA with every attention linear of the tiny base, feed-forward layers and a convolution."""
    rng = np.random.default_rng(seed)
    rank = ranks if callable(ranks) else lambda _: ranks
    layers = {UNET + name: layer(rng, inp, out, rank(rng), scale) for name, inp, out in LINEARS + OTHERS}
    r = rank(rng)
    down = rng.standard_normal((r, 6, 3, 3)).astype(np.float32)
    layers[CONV] = LoraLayer(down, rng.standard_normal((10, r, 1, 1)).astype(np.float32))
    return LoRA(layers, source=f"lora-{seed}")


# What to build, rather than the LoRA itself: the type checker draws random numbers, which a strategy must not.
Spec = tuple[int, int | str, float, str]
ADVERSARIAL = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 4, 128, "mixed"]),
    st.sampled_from([1e-8, 1.0, 1e4]),
    st.sampled_from(["none", "zero up", "zero down", "repeated rows", "tiny rows"]),
)


def adversarial(spec: Spec) -> LoRA:
    """A LoRA of rank 1 to 128, mixed or not, with zeros, repeated rows or rows of very different sizes."""
    seed, ranks, scale, damage = spec
    made = lora(seed, ranks if isinstance(ranks, int) else lambda rng: int(rng.integers(1, 40)), scale)
    for item in made.layers.values():
        if damage == "zero up":
            item.up[:] = 0
        elif damage == "zero down":
            item.down[:] = 0
        elif damage == "repeated rows":
            item.down[:] = item.down[:1]
        elif damage == "tiny rows":
            item.down[::2] *= np.float32(1e-8)
    return made


def dense(item: LoraLayer) -> np.ndarray:
    """ΔW as a matrix in float64, by einsum rather than by the code under test."""
    up, down = item.up.astype(np.float64), item.down.astype(np.float64)
    return np.einsum("or,ri->oi", up.reshape(len(up), -1), down.reshape(len(down), -1))


def assert_close(
    have: np.ndarray, want: np.ndarray, tolerance: float = TOLERANCE, terms: np.ndarray | None = None
) -> None:
    """`terms` are the magnitudes that `want` was summed from, where they may cancel."""
    peak = largest(want, np.abs(want) if terms is None else terms)
    assert float(np.abs(have - want).max()) <= tolerance * peak, (np.abs(have - want).max(), peak)


@settings(max_examples=40)
@given(ADVERSARIAL, ADVERSARIAL, st.sampled_from([(1.0, 1.0), (0.7, 1.3), (0.0, -1.0)]))
def test_learned_is_equation_2(content_spec: Spec, style_spec: Spec, scales: tuple[float, float]) -> None:
    content, style = adversarial(content_spec), adversarial(style_spec)
    options = MergeOptions(*scales, predict=LEARNED.predict)
    merged = merge_loras(content, style, LAYOUT, "learned", options)
    assert merged.truncation is None and merged.coefficients is not None
    for name, item in merged.lora.layers.items():
        pair = [dense(content.layers[name]), dense(style.layers[name])]
        if name.endswith((".to_q", ".to_out.0")):
            predicted, terms = dense_coefficients(WIDE, *pair)
            by_role = np.array(scales)[:, None]
            assert_close(merged.coefficients[name], predicted * by_role, terms=terms * abs(by_role))
        else:
            predicted = terms = np.full((2, 1), 0.5)
            assert name not in merged.coefficients
        want = dense_sum(pair, predicted, terms, scales)
        assert np.abs(dense(item) - want.delta).max() <= TOLERANCE * want.largest
        assert item.rank == content.layers[name].rank + style.layers[name].rank


def test_learned_equals_the_graph_of_the_phones() -> None:
    content, style = lora(1, lambda rng: int(rng.integers(1, 9))), lora(2, 5)
    for rule, columns in product(RULES, ((), layout_columns(LAYOUT, PAPER_LEARNED))):
        config = HypernetConfig(WIDTHS, 16, rule, positions=tuple(name for name, _ in columns), columns=columns)
        hypernet = Hypernetwork.untrained(config)
        for values in (hypernet.positions, *hypernet.columns.parameters()) if columns else ():
            torch.nn.init.normal_(values, generator=torch.Generator().manual_seed(2))
        options = MergeOptions(0.8, 1.1, rule=rule, predict=predict_with(hypernet))
        merged, stacked = merge_loras(content, style, LAYOUT, "learned", options), stack([content, style], LAYOUT)
        inputs = {name: torch.from_numpy(array) for name, array in stacked.inputs.items()}
        with torch.no_grad():
            found = {name: tensor.numpy() for name, tensor in CoefficientGraph(hypernet, LAYOUT)(**inputs).items()}
        ruled = {
            group.coefficients: np.full((len(group.modules), 2, group.in_features), RULES[rule], np.float32)
            for group in LAYOUT.groups
        }
        applied = {name: values * np.float32([[0.8], [1.1]]) for name, values in (ruled | found).items()}
        for name, item in fold(stacked.adapter, stacked.roles, applied, LAYOUT).layers.items():
            np.testing.assert_allclose(merged.lora.layers[name].delta(), item.delta(), rtol=0, atol=1e-5)
        assert merged.coefficients is not None
        for group in LAYOUT.part("qo"):
            have = np.stack([merged.coefficients[UNET + module] for module in group.modules])
            np.testing.assert_allclose(have, applied[group.coefficients], rtol=1e-6, atol=1e-6)


def test_many_layers_come_through_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    content, style = lora(1), lora(2)
    whole = merge_loras(content, style, LAYOUT, "learned", LEARNED)
    monkeypatch.setattr("lorarar.merging.exact._LAYERS_AT_ONCE", 1)
    single = merge_loras(content, style, LAYOUT, "learned", LEARNED)
    for name, item in whole.lora.layers.items():
        np.testing.assert_allclose(item.delta(), single.lora.layers[name].delta(), rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(ADVERSARIAL, ADVERSARIAL)
def test_dense_factored_and_prepared_coefficients_agree(content_spec: Spec, style_spec: Spec) -> None:
    content, style = adversarial(content_spec), adversarial(style_spec)
    name = UNET + "b.attn1.to_q"
    first, second = content.layers[name], style.layers[name]
    factors = [torch.from_numpy(array)[None] for array in (first.down, first.up, second.down, second.up)]
    want, terms = dense_coefficients(WIDE, dense(first), dense(second))
    with torch.no_grad():
        factored = HYPERNET(*factors)[0].numpy()
        prepared = HYPERNET.combine(HYPERNET.prepare(*factors[:2], "content"), HYPERNET.prepare(*factors[2:], "style"))[
            0
        ].numpy()
    assert_close(factored, want, terms=terms)
    assert_close(prepared, want, terms=terms)


def test_gradients_of_the_factored_form_are_those_of_the_dense_form() -> None:
    hypernet = Hypernetwork.untrained(HypernetConfig(WIDTHS, 16)).double()
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 20), (2, 20, 3), (2, 5, 20), (2, 20, 5))
    found = []
    factors = [rng.standard_normal(shape) for shape in shapes]
    weights = torch.from_numpy(rng.standard_normal((2, 2, 20)))
    for form in ("factored", "dense"):
        leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in factors]
        down_c, up_c, down_s, up_s = leaves
        out = hypernet(*leaves) if form == "factored" else hypernet.dense(up_c @ down_c, up_s @ down_s)
        used = [parameter for name, parameter in hypernet.named_parameters() if not name.startswith("inputs.12.")]
        found.append(torch.autograd.grad((out * weights).sum(), [*leaves, *used]))
    for factored, dense_form in zip(*found, strict=True):
        torch.testing.assert_close(factored, dense_form, rtol=1e-10, atol=1e-10)


@settings(max_examples=40)
@given(ADVERSARIAL, ADVERSARIAL, st.sampled_from([0.0, 0.5, 3.0]))
def test_np_lora_is_its_dense_formula(content_spec: Spec, style_spec: Spec, mu: float) -> None:
    content, style = adversarial(content_spec), adversarial(style_spec)
    merged = merge_loras(content, style, LAYOUT, "np-lora", MergeOptions(mu=mu, content_scale=0.5, style_scale=2.0))
    for name, item in merged.lora.layers.items():
        delta_c, delta_s = dense(content.layers[name]), dense(style.layers[name])
        down = style.layers[name].down.reshape(style.layers[name].rank, -1).astype(np.float64)
        down = down if delta_s.any() else 0 * down  # a style that does nothing pushes nothing away
        lengths = np.linalg.norm(down, axis=1, keepdims=True)
        unit = np.divide(down, lengths, out=np.zeros_like(down), where=lengths > 0)
        projector = np.linalg.pinv(unit, rcond=1e-5) @ unit  # the orthogonal projector onto the row space
        want = 2 * delta_s + 0.5 * delta_c @ (np.eye(len(projector)) - mu / (1 + mu) * projector)
        peak = max(np.abs(want).max(), np.abs(delta_c).max())
        assert np.abs(dense(item) - want).max() <= TOLERANCE * peak
        assert item.rank == content.layers[name].rank + style.layers[name].rank


def test_np_lora_keeps_what_the_style_does_not_touch() -> None:
    content, style = lora(1, 2), lora(2, 2)
    name = UNET + "a.attn1.to_q"
    style.layers[name].down[:] = 0
    style.layers[name].down[0, :3] = (1, 2, 3)
    style.layers[name].down[1, :3] = (2, 4, 6)  # the same direction again
    content.layers[name].down[:, :3] = 0  # the content acts elsewhere
    merged = merge_loras(content, style, LAYOUT, "np-lora").lora.layers[name]
    assert_close(dense(merged), dense(content.layers[name]) + dense(style.layers[name]), 1e-6)


@pytest.mark.parametrize(
    ("rows", "rank"),
    [
        ([[0.0, 0, 0]], 0),
        ([[1, 0, 0], [0, 0, 0]], 1),
        ([[1, 2, 3], [2, 4, 6], [0.1, 0.2, 0.3]], 1),
        ([[1, 0, 0], [0, 1e-20, 0]], 2),
        ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], 2),
    ],
)
def test_row_space_counts_directions_not_rows(rows: list[list[float]], rank: int) -> None:
    basis = row_space(np.array(rows, np.float32))
    assert basis.shape == (3, rank)
    np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-12)
    given_rows = np.array(rows, np.float32).astype(np.float64)
    np.testing.assert_allclose(given_rows @ basis @ basis.T, given_rows, atol=1e-6 * np.abs(given_rows).max())


@pytest.mark.parametrize(("rule", "weight"), [("average", 0.5), ("sum", 1.0)])
def test_direct_is_the_average_or_the_sum(rule: str, weight: float) -> None:
    content, style = lora(1, 3), lora(2, 7)
    merged = merge_loras(content, style, LAYOUT, "direct", MergeOptions(rule=rule, content_scale=2.0))
    for name, item in merged.lora.layers.items():
        want = weight * (2 * dense(content.layers[name]) + dense(style.layers[name]))
        assert_close(dense(item), want, 1e-6)
    assert set(merged.kinds.values()) == {"method"}


@pytest.mark.parametrize("method", METHODS)
def test_layers_of_one_lora_are_carried_exactly(method: str) -> None:
    content, style = lora(1), lora(2)
    only_c, only_s = UNET + "a.attn1.to_q", CONV
    del style.layers[only_c], content.layers[only_s]  # type: ignore[attr-defined]
    options = MergeOptions(style_scale=0.5, rank_out=3, predict=LEARNED.predict, coefficients={}, grams={})
    merged = merge_loras(content, style, LAYOUT, method, options)
    assert merged.kinds[only_c] == "content only" and merged.kinds[only_s] == "style only"
    np.testing.assert_array_equal(merged.lora.layers[only_c].delta(), content.layers[only_c].delta())
    np.testing.assert_allclose(merged.lora.layers[only_s].delta(), style.layers[only_s].delta() / 2, rtol=1e-6)
    assert merged.lora.layers[only_s].rank == 4
    assert list(merged.lora.layers) == [*content.layers, only_s]


@pytest.mark.parametrize("rank", [1, 5, 8, 99])
def test_rank_out_gives_the_best_layers_of_that_rank_and_their_error(rank: int) -> None:
    content, style = lora(1, 4), lora(2, 4)
    full = merge_loras(content, style, LAYOUT, "direct")
    merged = merge_loras(content, style, LAYOUT, "direct", MergeOptions(rank_out=rank))
    if rank >= 8:
        assert merged.truncation is None
        return
    squares = {}
    for name, item in merged.lora.layers.items():
        want = dense(full.lora.layers[name])
        sizes = np.linalg.svd(want, compute_uv=False)
        best = float((sizes[rank:] ** 2).sum())
        squares[name] = (float(((want - dense(item)) ** 2).sum()), float((want**2).sum()))
        assert item.rank == rank and item.down.ndim == full.lora.layers[name].down.ndim
        assert squares[name][0] == pytest.approx(best, rel=1e-5)
    assert merged.truncation is not None
    errors, norms = zip(*squares.values(), strict=True)
    assert merged.truncation.overall == pytest.approx((sum(errors) / sum(norms)) ** 0.5, rel=1e-5)
    worst = max(squares, key=lambda name: squares[name][0] / squares[name][1])
    assert merged.truncation.worst_layer == worst
    assert merged.lora.metadata["lorarar_truncation_error"] == f"{merged.truncation.overall:.6g}"


def test_the_merged_file_says_how_it_was_made() -> None:
    content, style = lora(1), LoRA(lora(2).layers, source="some/folder/paint.safetensors")
    metadata = merge_loras(
        content, style, LAYOUT, "dare", MergeOptions(density=0.25, seed=7, style_scale=0.5)
    ).lora.metadata
    assert metadata["lorarar_method"] == "dare"
    assert metadata["lorarar_density"] == "0.25" and metadata["lorarar_seed"] == "7"
    assert metadata["lorarar_style_scale"] == "0.5" and metadata["lorarar_content_scale"] == "1.0"
    assert metadata["lorarar_style"] == "paint.safetensors" and metadata["lorarar_base"] == "tiny"
    assert "lorarar_mu" not in metadata and "lorarar_predict" not in metadata


def test_progress_is_told_layer_by_layer() -> None:
    seen: list[tuple[int, int]] = []
    merge_loras(lora(1), lora(2), LAYOUT, "learned", LEARNED, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]


def test_a_lora_of_a_larger_base_is_merged_with_a_warning() -> None:
    content, style = lora(1), lora(2)
    extra = UNET + "mid_block.attn1.to_q"
    for one in (content, style):
        one.layers[extra] = layer(np.random.default_rng(3), 12, 12, 2)  # type: ignore[index]
    merged = merge_loras(content, style, LAYOUT, "learned", LEARNED)
    assert merged.kinds[extra] == "rule"
    assert len(merged.warnings) == 2
    assert merged.warnings[0].startswith("lora-1: 1 of its 7 attention layers are not in tiny")
    assert merge_loras(lora(1), lora(2), LAYOUT, "direct").warnings == ()


def _other_shape(one: LoRA, name: str) -> LoRA:
    return LoRA({**one.layers, name: layer(np.random.default_rng(9), 16, 16, 2)}, source=one.source)


@pytest.mark.parametrize(
    ("content", "style", "method", "options", "says"),
    [
        (lora(1), lora(2), "zipper", {}, "`method` is 'zipper'; valid are learned, direct"),
        (lora(1), lora(2), "learned", {}, "needs a hypernetwork: give `predict`"),
        (lora(1), LoRA({}, source="empty"), "direct", {}, "empty: it has no layers"),
        (
            _other_shape(lora(1), UNET + "a.attn1.to_q"),
            lora(2),
            "direct",
            {},
            "unet.a.attn1.to_q has shape (16, 16), tiny has (12, 12)",
        ),
        (
            lora(1),
            _other_shape(lora(2), UNET + "a.ff.net.0.proj"),
            "ties",
            {},
            "lora-1 and lora-2 disagree on unet.a.ff.net.0.proj: (48, 12) against (16, 16)",
        ),
        (lora(1), lora(2), "direct", {"content_scale": 3e38}, "too large for float32; use smaller strengths"),
        (lora(1), lora(2), "dare", {"style_scale": 1e38}, "too large for float32; use smaller strengths"),
        (lora(1), lora(2), "direct", {"style_scale": 3e38}, "too large for float32; use smaller strengths"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    content: LoRA, style: LoRA, method: str, options: dict[str, float], says: str
) -> None:
    with pytest.raises(InputError) as error:
        merge_loras(content, style, LAYOUT, method, MergeOptions(**options))  # type: ignore[arg-type]
    assert says in str(error.value)


def test_a_width_the_hypernetwork_lacks_is_refused() -> None:
    options = MergeOptions(predict=predict_with(Hypernetwork.untrained(HypernetConfig((12,), 4))))
    with pytest.raises(InputError, match="no input layer for width 20, only for 12"):
        merge_loras(lora(1), lora(2), LAYOUT, "learned", options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "mean"}, "`rule` is 'mean'; valid are average, sum"),
        ({"density": 0.0}, "`density` is 0.0"),
        ({"density": 1.5}, "`density` is 1.5"),
        ({"density": float("nan")}, "`density` is nan"),
        ({"mu": -1.0}, "`mu` is -1.0"),
        ({"mu": float("inf")}, "`mu` is inf"),
        ({"seed": -1}, "`seed` is -1"),
        ({"rank_out": 0}, "`rank_out` is 0"),
        ({"style_scale": 1e39}, "`style_scale` is 1e+39"),
        ({"content_scale": float("nan")}, "`content_scale` is nan"),
        ({"style_scale": float("inf")}, "`style_scale` is inf"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float | str], says: str) -> None:
    with pytest.raises(InputError) as error:
        MergeOptions(**options)  # type: ignore[arg-type]
    assert says in str(error.value)


@settings(max_examples=40)
@given(ADVERSARIAL, ADVERSARIAL, st.sampled_from(["average", "sum"]))
def test_norm_balance_is_the_direct_merge_of_loras_of_one_norm(content_spec: Spec, style_spec: Spec, rule: str) -> None:
    content, style = adversarial(content_spec), adversarial(style_spec)
    options = MergeOptions(rule=rule, content_scale=0.5, style_scale=2.0)
    merged = merge_loras(content, style, LAYOUT, "norm-balance", options).lora
    norms = [
        np.sqrt(sum(float(np.square(dense(each.layers[name])).sum()) for name in merged.layers))
        for each in (content, style)
    ]
    gamma = np.sqrt(norms[1] / norms[0]) if all(norms) else 1.0
    share = {"average": 0.5, "sum": 1.0}[rule]
    for name, item in merged.layers.items():
        delta_c, delta_s = gamma * dense(content.layers[name]), dense(style.layers[name]) / gamma
        peak = max(np.abs(delta_c).max(), np.abs(delta_s).max())
        assert np.abs(dense(item) - share * (0.5 * delta_c + 2 * delta_s)).max() <= TOLERANCE * peak
