"""Compressed weights of runtime_py.mil against coremltools' own dense values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_builder import ct, mb, save, spread, types

from runtime_py.mil import Program
from runtime_py.mil.values import DTYPES, TensorType, unpack, unpack_bits

# k-means of coremltools' palettizer asks scikit-learn for threads in a way that newer versions deprecate.
pytestmark = [pytest.mark.filterwarnings("ignore:.*:FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]

linear_quantize = ct.optimize.coreml.linear_quantize_weights
palettize = ct.optimize.coreml.palettize_weights
prune = ct.optimize.coreml.prune_weights


def config(kind: str, **options: Any) -> Any:
    made = getattr(ct.optimize.coreml, f"Op{kind}Config")(weight_threshold=0, **options)
    return ct.optimize.coreml.OptimizationConfig(global_config=made)


def quantized(dtype: str, **options: Any) -> Callable[[Any], Any]:
    return lambda model: linear_quantize(model, config("LinearQuantizer", dtype=dtype, **options))


def palettized(nbits: int, **options: Any) -> Callable[[Any], Any]:
    return lambda model: palettize(model, config("Palettizer", nbits=nbits, mode="kmeans", **options))


def pruned(model: Any) -> Any:
    return prune(model, config("MagnitudePruner", target_sparsity=0.6))


def then(*steps: Callable[..., Any]) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        model = steps[0](model)
        return steps[1](model)

    return compress


def jointly_palettized(model: Any) -> Any:
    return palettize(model, config("Palettizer", nbits=4, mode="kmeans"), joint_compression=True)


def jointly_quantized(model: Any) -> Any:
    return linear_quantize(model, config("LinearQuantizer", dtype="int8"), joint_compression=True)


# How coremltools compresses → its oldest system, and the operation that the package must then hold.
RECIPES: dict[str, tuple[int, Callable[[Any], Any], str]] = {
    "int8 per channel": (16, quantized("int8", mode="linear_symmetric"), "constexpr_affine_dequantize"),
    "uint8 with zero point": (16, quantized("uint8", mode="linear"), "constexpr_affine_dequantize"),
    "int8, iOS 18": (18, quantized("int8"), "constexpr_blockwise_shift_scale"),
    "int4 blocks": (18, quantized("int4", granularity="per_block", block_size=16), "constexpr_blockwise_shift_scale"),
    "uint4 blocks, zero point": (
        18,
        quantized("uint4", mode="linear", granularity="per_block", block_size=8),
        "constexpr_blockwise_shift_scale",
    ),
    "6-bit table": (16, palettized(6), "constexpr_lut_to_dense"),
    "4-bit table": (16, palettized(4), "constexpr_lut_to_dense"),
    "1-bit table": (16, palettized(1), "constexpr_lut_to_dense"),
    "6-bit table, iOS 18": (18, palettized(6), "constexpr_lut_to_dense"),
    "4-bit grouped tables": (
        18,
        palettized(4, granularity="per_grouped_channel", group_size=8),
        "constexpr_lut_to_dense",
    ),
    "3-bit table": (18, palettized(3), "constexpr_lut_to_dense"),
    "4-bit table, channel scale": (18, palettized(4, enable_per_channel_scale=True), "constexpr_blockwise_shift_scale"),
    "2-bit vectors": (18, palettized(2, cluster_dim=2), "constexpr_lut_to_dense"),
    "sparse": (16, pruned, "constexpr_sparse_to_dense"),
    "sparse, iOS 18": (18, pruned, "constexpr_sparse_to_dense"),
    "sparse 4-bit table": (18, then(pruned, jointly_palettized), "constexpr_lut_to_sparse"),
    "sparse int8": (18, then(pruned, jointly_quantized), "constexpr_sparse_blockwise_shift_scale"),
}


def weights(path: Path) -> dict[str, np.ndarray]:
    """The dense weights by coremltools itself, of a package without compression."""
    found = ct.optimize.coreml.get_weights_metadata(load(path), weight_threshold=0)
    return {name: entry.val for name, entry in found.items() if entry.val.ndim > 1}


def load(path: Path) -> Any:
    return ct.models.MLModel(str(path), skip_model_load=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_compressed_weights_equal_those_of_coremltools(recipe: str, tmp_path: Path) -> None:
    ios, compress, op = RECIPES[recipe]
    weight = spread(24, 32, seed=1).astype(np.float16)
    rows = {"x": np.eye(32, dtype=np.float16)}
    plain = save(tmp_path / "p.mlpackage", lambda x: mb.linear(x=x, weight=weight), rows, ios, half=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = compress(load(plain))
        small.save(str(tmp_path / "small.mlpackage"))
        ct.optimize.coreml.decompress_weights(small).save(str(tmp_path / "dense.mlpackage"))
    program = Program.open(tmp_path / "small.mlpackage")
    assert op in program.op_counts()
    (dense,) = weights(tmp_path / "dense.mlpackage").values()
    for mode in ("fp16", "fp32"):
        # Each row of the identity picks one column of the weight, exactly.
        (made,) = program.run(rows, mode=mode).values()
        np.testing.assert_array_equal(made.T, dense)


def _dense(tmp_path: Path, build: Callable[[], Any], ios: int) -> np.ndarray:
    """What the evaluator makes of a constant expression."""
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x: build(), {"x": np.zeros(1, np.float32)}, ios))
    (made,) = program.run({"x": np.zeros(1, np.float32)}, mode="fp32").values()
    return made


def _materialized(build: Callable[[], Any], ios: int) -> np.ndarray:
    """What coremltools makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = {16: ct.target.iOS16, 18: ct.target.iOS18}[ios]
        holder = {}

        @mb.program(input_specs=[mb.TensorSpec(shape=(1,))], opset_version=target)
        def program(x: Any) -> Any:
            holder["var"] = build()
            return mb.identity(x=x)

    return np.asarray(holder["var"].op.materialized_val_inference())


def packed(values: np.ndarray, name: str) -> np.ndarray:
    return values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


DIRECT: dict[str, tuple[int, Callable[[], Any]]] = {
    "affine, axis 1": (
        16,
        lambda: mb.constexpr_affine_dequantize(
            quantized_data=np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 4),
            zero_point=np.array([1, -2, 3], np.int8),
            scale=np.array([0.1, 0.7, 0.3], np.float32),
            axis=1,
        ),
    ),
    "affine, scalar": (
        16,
        lambda: mb.constexpr_affine_dequantize(
            quantized_data=np.arange(24, dtype=np.uint8).reshape(2, 12),
            zero_point=np.uint8(7),
            scale=np.float32(0.3),
            axis=0,
        ),
    ),
    "blocks on two axes": (
        18,
        lambda: mb.constexpr_blockwise_shift_scale(
            data=np.arange(-12, 12, dtype=np.int8).reshape(4, 6),
            scale=np.arange(1, 5, dtype=np.float32).reshape(2, 2) / 7,
            offset=np.array([[1, -2], [3, 4]], np.int8),
        ),
    ),
    "blocks, float offset": (
        18,
        lambda: mb.constexpr_blockwise_shift_scale(
            data=np.arange(8, dtype=np.uint8).reshape(2, 4),
            scale=np.array([[0.3, 0.5]], np.float32),
            offset=np.array([[0.25, 1.5]], np.float32),
        ),
    ),
    "tables on two axes": (
        18,
        lambda: mb.constexpr_lut_to_dense(
            indices=packed(np.random.default_rng(1).integers(0, 4, (4, 6)), "uint2"),
            lut=spread(2, 3, 4, 1, seed=2),
        ),
    ),
    "vectors on axis 0": (
        18,
        lambda: mb.constexpr_lut_to_dense(
            indices=packed(np.random.default_rng(1).integers(0, 8, (4, 6)), "uint3"),
            lut=spread(2, 1, 8, 3, seed=2),
            vector_axis=0,
        ),
    ),
    "vectors on the last axis": (
        18,
        lambda: mb.constexpr_lut_to_dense(
            indices=packed(np.random.default_rng(1).integers(0, 64, (4, 6)), "uint6"),
            lut=spread(1, 2, 64, 2, seed=2),
            vector_axis=-1,
        ),
    ),
    "cast": (
        16,
        lambda: mb.constexpr_cast(source_val=spread(3, 4).astype(np.float16), output_dtype="fp32"),
    ),
    "cast, iOS 18": (
        18,
        lambda: mb.constexpr_cast(source_val=spread(3, 4).astype(np.float16), output_dtype="fp32"),
    ),
}


@pytest.mark.parametrize("case", DIRECT)
def test_constant_expressions_equal_coremltools(case: str, tmp_path: Path) -> None:
    ios, build = DIRECT[case]
    want = _materialized(build, ios)
    made = _dense(tmp_path, build, ios)
    np.testing.assert_allclose(made, want, rtol=2e-7)
    assert made.shape == want.shape


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 21, (1 << 20) + 5])
def test_packed_integers(bits: int, count: int) -> None:
    """Against Python's own integers: the stored bytes are one long number, lowest bits first."""
    raw = np.random.default_rng(bits).integers(0, 256, (count * bits + 7) // 8, np.uint8)
    made = unpack_bits(raw, bits, count)
    number = int.from_bytes(raw[-40:].tobytes(), "little")
    assert made.shape == (count,)
    first_bit = max(len(raw) - 40, 0) * 8
    for index in range(-(-first_bit // bits), count):
        assert made[index] == (number >> (index * bits - first_bit)) & ((1 << bits) - 1)


def test_signed_four_bits() -> None:
    kind = TensorType(DTYPES[25], (16,))
    raw = np.array([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE], np.uint8)
    assert unpack(raw, kind).tolist() == [*range(8), *range(-8, 0)]
