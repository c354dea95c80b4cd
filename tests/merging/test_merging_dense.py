"""DARE and TIES on ΔW against a plain restatement and cases made by hand, and the error of cutting to a rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging import MergeOptions, merge_loras
from lorarar.merging.dense import drop_and_rescale, matrix, merge_dense, trim
from lorarar.merging.truncate import cut

LINEARS = [("a.to_q", 24, 20), ("a.to_k", 40, 20), ("b.to_out.0", 24, 24)]
LAYOUT = Layout.from_linears("tiny", LINEARS)
FULL = 24  # a rank at which nothing is cut


def lora(seed: int, rank: int) -> LoRA:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    layers = {f"unet.{name}": LoraLayer(normal(rank, inp), normal(out, rank)) for name, inp, out in LINEARS}
    layers["unet.conv"] = LoraLayer(normal(rank, 4, 3, 3), normal(10, rank, 1, 1))
    return LoRA(layers, source=f"lora-{seed}")


CONTENT, STYLE = lora(1, 3), lora(2, 4)


def restated_trim(delta: np.ndarray, density: float) -> np.ndarray:
    keep = max(1, round(density * delta.size))
    smallest = sorted((abs(value) for value in delta.ravel()), reverse=True)[keep - 1]
    return np.array([[value if abs(value) >= smallest else 0.0 for value in row] for row in delta.tolist()])


def restated_vote(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    merged = np.zeros(content.shape)
    for place in np.ndindex(*content.shape):
        values = [content[place], style[place]]
        sign = np.sign(sum(values))
        agreeing = [value for value in values if np.sign(value) == sign != 0]
        merged[place] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_what_its_paper_says(density: float) -> None:
    options = MergeOptions(density=density, content_scale=0.5, style_scale=2.0, rank_out=FULL)
    merged = merge_loras(CONTENT, STYLE, LAYOUT, "ties", options)
    for name, item in merged.lora.layers.items():
        content = restated_trim(0.5 * matrix(CONTENT.layers[name]).astype(np.float64), density)
        style = restated_trim(2 * matrix(STYLE.layers[name]).astype(np.float64), density)
        np.testing.assert_allclose(matrix(item), restated_vote(content, style), atol=2e-5)
        assert item.down.ndim == CONTENT.layers[name].down.ndim


def test_ties_by_hand() -> None:
    content = np.array([[4, -1], [2, 3]], np.float32)
    style = np.array([[-2, 5], [1, 3.5]], np.float32)
    # Half of the entries: content keeps 4 and 3, style keeps 5 and 3.5.
    np.testing.assert_array_equal(merge_dense(content, style, trim, True, 0.5), [[4, 5], [0, 3.25]])
    # All of them: 4 − 2 > 0 elects 4; −1 + 5 > 0 elects 5; 2 and 1 agree.
    np.testing.assert_array_equal(merge_dense(content, style, trim, True, 1.0), [[4, 5], [1.5, 3.25]])


def test_ties_elects_nothing_where_the_loras_cancel() -> None:
    content = np.array([[1, 0]], np.float32)
    np.testing.assert_array_equal(merge_dense(content, -content, trim, True, 1.0), [[0, 0]])


def test_trim_keeps_ties_and_zeros() -> None:
    np.testing.assert_array_equal(trim(np.array([[1, -1, 0.5, 1]], np.float32), 0.5, ""), [[1, -1, 0, 1]])
    np.testing.assert_array_equal(trim(np.zeros((2, 2), np.float32), 0.5, ""), np.zeros((2, 2)))
    np.testing.assert_array_equal(trim(np.array([[3, 2]], np.float32), 0.01, ""), [[3, 0]])


@pytest.mark.parametrize("density", [0.25, 0.5])
def test_dare_keeps_the_density_share_and_the_expectation(density: float) -> None:
    delta = np.full((400, 500), 2, np.float32)
    thinned = drop_and_rescale(delta, density, "0/layer/content")
    assert set(np.unique(thinned)) == {0, np.float32(2 / density)}
    deviation = (density * (1 - density) / delta.size) ** 0.5
    assert abs((thinned > 0).mean() - density) < 4 * deviation


def test_dare_is_the_average_in_expectation() -> None:
    rng = np.random.default_rng(0)
    content, style = rng.standard_normal((2, 6, 8)).astype(np.float32)
    draws = [merge_dense(content, style, drop_and_rescale, False, 0.5, f"{seed}/x") for seed in range(4000)]
    # One draw's standard deviation is at most ½·√(ΔW_c² + ΔW_s²) at density ½.
    deviation = np.sqrt(content**2 + style**2) / 2 / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - (content + style) / 2) < 5 * deviation).all()


def test_dare_ties_is_dropping_then_the_vote() -> None:
    merged = merge_loras(CONTENT, STYLE, LAYOUT, "dare-ties", MergeOptions(seed=3, rank_out=FULL))
    for name, item in merged.lora.layers.items():
        content = drop_and_rescale(matrix(CONTENT.layers[name]), 0.5, f"3/{name}/content")
        style = drop_and_rescale(matrix(STYLE.layers[name]), 0.5, f"3/{name}/style")
        np.testing.assert_allclose(matrix(item), restated_vote(content, style), atol=2e-5)


def test_density_1_is_the_average_exactly() -> None:
    direct = merge_loras(CONTENT, STYLE, LAYOUT, "direct")
    dare = merge_loras(CONTENT, STYLE, LAYOUT, "dare", MergeOptions(density=1.0))
    assert dare.truncation is not None and dare.truncation.overall < 1e-6
    for name, item in dare.lora.layers.items():
        assert item.rank == 7
        np.testing.assert_allclose(matrix(item), matrix(direct.lora.layers[name]), atol=1e-5)


@pytest.mark.parametrize("method", ["dare", "dare-ties"])
def test_masks_depend_on_seed_role_and_name_only(method: str) -> None:
    torch.set_num_threads(2)
    first = merge_loras(CONTENT, STYLE, LAYOUT, method, MergeOptions(seed=5))
    backwards = [LoRA(dict(reversed(one.layers.items()))) for one in (CONTENT, STYLE)]
    torch.set_num_threads(1)
    again = merge_loras(backwards[0], backwards[1], LAYOUT, method, MergeOptions(seed=5))
    other = merge_loras(CONTENT, STYLE, LAYOUT, method, MergeOptions(seed=6))
    for name, item in first.lora.layers.items():
        np.testing.assert_allclose(matrix(item), matrix(again.lora.layers[name]), atol=1e-5)
        assert np.abs(matrix(item) - matrix(other.lora.layers[name])).max() > 0.1
    delta = np.ones((50, 50), np.float32)
    masks = [drop_and_rescale(delta, 0.5, stream) for stream in ("5/a/content", "5/a/style", "5/b/content")]
    assert all((one != two).mean() > 0.4 for one, two in zip(masks, masks[1:] + masks[:1], strict=True))


@pytest.mark.parametrize("method", ["dare", "ties", "dare-ties"])
def test_the_error_told_is_the_error_measured(method: str) -> None:
    whole = merge_loras(CONTENT, STYLE, LAYOUT, method, MergeOptions(rank_out=FULL)).lora.layers
    merged = merge_loras(CONTENT, STYLE, LAYOUT, method)
    squares = {}
    for name, item in merged.lora.layers.items():
        want = matrix(whole[name]).astype(np.float64)
        squares[name] = (((want - matrix(item)) ** 2).sum(), (want**2).sum())
        assert item.rank == 7
    errors, norms = zip(*squares.values(), strict=True)
    told = merged.truncation
    assert told is not None and told.layers == 4
    assert told.overall == pytest.approx((sum(errors) / sum(norms)) ** 0.5, rel=1e-4)
    ratios = {name: (error / norm) ** 0.5 for name, (error, norm) in squares.items()}
    assert told.worst_layer == max(ratios, key=lambda name: ratios[name])
    assert told.worst == pytest.approx(max(ratios.values()), rel=1e-4)


def test_cutting_is_near_the_optimum_and_measures_itself() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 260))
    delta = (signal * (rng.random((200, 260)) < 0.5)).astype(np.float32)
    before = torch.get_rng_state()
    item, told = cut(delta, 16, (200, 260))
    assert torch.equal(torch.get_rng_state(), before)
    sizes = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    optimum = float(np.sqrt((sizes[16:] ** 2).sum() / (sizes**2).sum()))
    assert item.rank == 16 and item.up.flags.c_contiguous and item.down.flags.c_contiguous
    assert optimum <= told.relative <= 1.005 * optimum
    measured = np.linalg.norm(delta - item.up.astype(np.float64) @ item.down) / np.linalg.norm(delta)
    assert told.relative == pytest.approx(float(measured), rel=1e-6)


def test_cutting_a_matrix_of_lower_rank_loses_nothing_even_with_a_wide_spectrum() -> None:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, 8)))[0] for size in (150, 120))
    delta = ((left * np.logspace(0, -5, 8)) @ right.T).astype(np.float32)
    item, told = cut(delta, 16, (150, 120))
    assert told.relative < 1e-6
    assert np.isfinite(item.up).all() and np.isfinite(item.down).all()


def test_cutting_zero_gives_zero() -> None:
    item, told = cut(np.zeros((60, 50), np.float32), 4, (60, 50))
    assert told.relative == 0 and not item.delta().any()


@pytest.mark.parametrize("peak", [1e-30, 1e15, 1e38])
def test_cutting_takes_numbers_of_any_size(peak: float) -> None:
    matrix = np.random.default_rng(5).uniform(-1, 1, (60, 50)).astype(np.float32)
    item, told = cut(matrix * np.float32(peak), 4, (60, 50))
    want, same = cut(matrix, 4, (60, 50))
    assert told.relative == pytest.approx(same.relative, rel=1e-4)
    np.testing.assert_allclose(item.delta() / np.float32(peak), want.delta(), atol=1e-4)


@pytest.mark.parametrize("method", ["ties", "dare-ties", "knots-ties"])
@pytest.mark.parametrize("scale", [1e36, 3e37, 1e38])
def test_values_near_the_top_of_float32_merge_or_are_refused(method: str, scale: float) -> None:
    options = MergeOptions(content_scale=scale, style_scale=scale)
    try:
        merged = merge_loras(CONTENT, STYLE, LAYOUT, method, options).lora
    except InputError as error:
        assert "too large for float32" in str(error)
    else:
        assert all(np.isfinite(layer.delta()).all() for layer in merged.layers.values())


@pytest.mark.parametrize("method", ["direct", "dare", "ties", "knots-ties", "np-lora", "norm-balance"])
def test_a_lora_made_of_nan_or_of_rank_0_is_refused(method: str) -> None:
    name, good = next(iter(CONTENT.layers.items()))
    for made, says in (
        (LoraLayer(good.down * np.float32(np.nan), good.up), "NaN"),
        (LoraLayer(good.down[:0], good.up[:, :0]), "rank 0"),
    ):
        with pytest.raises(InputError, match=says):
            merge_loras(LoRA({**CONTENT.layers, name: made}), STYLE, LAYOUT, method)


def test_an_error_in_a_layer_leaves_the_threads_as_they_were() -> None:
    torch.set_num_threads(threads := 2)
    with pytest.raises(Exception, match="too large for float32"):
        merge_loras(CONTENT, STYLE, LAYOUT, "ties", MergeOptions(content_scale=1e38))
    assert torch.get_num_threads() == threads
