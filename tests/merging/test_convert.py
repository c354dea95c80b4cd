"""Plain LoRAs of files that are none: LyCORIS's LoHa, LoKr, DoRA and differences, and what is lost or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import lorarar as lr
from lorarar.base.names import CONFIGS, MINIATURE
from lorarar.base.weights import base_weights
from lorarar.commands.convert import main, parser
from lorarar.commands.merge import main as merge
from lorarar.convert import convert
from lorarar.errors import InputError
from lorarar.lora import LoraLayer

OUT, INP = 12, 8
MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FULL, FLAT = f"unet.{MODULE}", f"lora_unet_{MODULE.replace('.', '_')}"
ENDS = ("lora_down.weight", "lora_up.weight")
DRAW = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape).astype(np.float32)


def loha(name: str = FLAT) -> dict[str, np.ndarray]:
    ends = {"a": (OUT, 2), "b": (2, INP)}
    return {f"{name}.hada_w{number}_{end}": drawn(*shape) for number in (1, 2) for end, shape in ends.items()}


def lokr(name: str = FLAT) -> dict[str, np.ndarray]:
    return {f"{name}.lokr_w1": drawn(4, 4), f"{name}.lokr_w2_a": drawn(3, 2), f"{name}.lokr_w2_b": drawn(2, 2)}


def plain(name: str = FLAT) -> dict[str, np.ndarray]:
    return {f"{name}.lora_down.weight": drawn(2, INP), f"{name}.lora_up.weight": drawn(OUT, 2)}


def dense(tensors: Mapping[str, np.ndarray], name: str = FLAT) -> np.ndarray:
    """ΔW of one of the above without alpha, in float64."""
    part = {key.removeprefix(f"{name}."): value.astype(np.float64) for key, value in tensors.items()}
    if "hada_w1_a" in part:
        return (part["hada_w1_a"] @ part["hada_w1_b"]) * (part["hada_w2_a"] @ part["hada_w2_b"])
    if "lokr_w1" in part:
        return np.kron(part["lokr_w1"], part["lokr_w2_a"] @ part["lokr_w2_b"])
    return part["lora_up.weight"] @ part["lora_down.weight"]


def added(lora: lr.LoRA, name: str) -> np.ndarray:
    return lora.layers[name].delta()


def test_dora_needs_its_base() -> None:
    named = plain() | {f"{FLAT}.dora_scale": np.ones((OUT, 1), np.float32)}
    with pytest.raises(InputError, match="is a DoRA, whose ΔW depends on the base's weights; give the base"):
        convert(named, 64)
    with pytest.raises(InputError, match=r"has shape \(12, 8\), its base \(8, 12\)"):
        convert(named, 64, lambda _: drawn(INP, OUT))


@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
@pytest.mark.parametrize("by", ["outputs", "inputs"])
@pytest.mark.parametrize("make", [loha, lokr, plain])
def test_a_dora_of_any_kind_with_its_alpha(
    make: Callable[[], dict[str, np.ndarray]], by: str, alpha: float | None
) -> None:
    """LyCORIS's own, beside a plain layer with an alpha, against the definition in float64."""
    named, weight = make(), drawn(OUT, INP)
    size = (OUT, 1) if by == "outputs" else (1, INP)
    magnitude = np.abs(drawn(*size)) + 0.5
    key = FLAT.replace("to_q", "to_k")
    beside = plain(key) | {f"{key}.alpha": np.float32(4)}
    told = {} if alpha is None else {f"{FLAT}.alpha": np.float32(alpha)}
    named_dora = named | told | {f"{FLAT}.dora_scale": magnitude}
    whole = weight + dense(named) * (1 if alpha is None else alpha / 2)
    norm = np.linalg.norm(whole, axis=1 if by == "outputs" else 0, keepdims=True)
    assert norm.shape == size
    for tensors in (named_dora, named_dora | beside):
        lora = convert(tensors, 64, lambda _: weight)
        np.testing.assert_allclose(added(lora, FULL), whole / norm * magnitude - weight, atol=1e-4)
        assert len(lora.warnings) == 1
    np.testing.assert_allclose(added(lora, FULL.replace("to_q", "to_k")), 2 * dense(beside, key), atol=1e-4)


def test_lycoris_scales_no_lokr_of_two_whole_factors() -> None:
    named = {f"{FLAT}.lokr_w1": drawn(4, 4), f"{FLAT}.lokr_w2": drawn(3, 2), f"{FLAT}.alpha": np.float32(5)}
    want = np.kron(named[f"{FLAT}.lokr_w1"], named[f"{FLAT}.lokr_w2"])
    np.testing.assert_allclose(added(convert(named, 64), FULL), want, atol=1e-4)


@pytest.mark.parametrize("inputs", [INP, OUT])
def test_dora_by_inputs_as_lycoris_has_it(inputs: int) -> None:
    """dora_scale of shape (1, in): each column of W + ΔW gets its length, also where W is square."""
    draw = np.random.default_rng(3)
    shapes = (OUT, inputs), (OUT, 2), (2, inputs)
    weight, up, down = (draw.standard_normal(shape).astype(np.float32) for shape in shapes)
    scale = draw.uniform(0.5, 2, (1, inputs)).astype(np.float32)
    named = {f"{FULL}.lora_up.weight": up, f"{FULL}.lora_down.weight": down, f"{FULL}.dora_scale": scale}
    flat = "lora_unet_" + MODULE.replace(".", "_")
    named = {name.replace(FULL, flat): value for name, value in named.items()}
    lora = convert(named, 64, lambda _: weight)
    have = weight + added(lora, FULL)
    np.testing.assert_allclose(np.linalg.norm(have, axis=0), scale[0], rtol=1e-4)
    whole = weight + up @ down
    np.testing.assert_allclose(have / np.linalg.norm(have, axis=0), whole / np.linalg.norm(whole, axis=0), atol=1e-5)


def test_differences_of_biases_are_told_also_beside_plain_layers_alone() -> None:
    lora = convert(plain() | {f"{FULL}.diff_b": np.ones(OUT, np.float32)}, 64)
    assert any("no differences of biases; 1 are left out" in text for text in lora.warnings)


def test_a_difference_is_cut_to_the_nearest_of_the_rank_and_the_loss_is_told() -> None:
    draw = np.random.default_rng(4)
    delta = draw.standard_normal((OUT, INP)).astype(np.float32)
    named = {f"{FULL}.diff": delta, f"{FULL}.diff_b": np.ones(OUT, np.float32)}
    lora = convert(named, 2)
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    lost = np.sqrt((values[2:] ** 2).sum() / (values**2).sum())
    assert lora.layers[FULL].rank == 2
    assert np.linalg.norm(added(lora, FULL) - delta) / np.linalg.norm(delta) == pytest.approx(lost, rel=1e-4)
    assert f"ΔW changed by {lost:.1%}" in lora.warnings[-1]
    assert any("no differences of biases; 1 are left out" in text for text in lora.warnings)


def test_plain_layers_stay_as_they_are_or_are_cut() -> None:
    draw = np.random.default_rng(5)
    small, large = (
        (draw.standard_normal((OUT, rank)).astype(np.float32), draw.standard_normal((rank, INP)).astype(np.float32))
        for rank in (2, 7)
    )
    key = FULL.replace("to_q", "to_k")
    named = {f"{FULL}.lora_B.weight": small[0], f"{FULL}.lora_A.weight": small[1]}
    named |= {f"{key}.lora_B.weight": large[0], f"{key}.lora_A.weight": large[1]}
    other = {f"{FULL.replace('to_q', 'to_v')}.diff": draw.standard_normal((OUT, INP)).astype(np.float32)}
    for tensors in (named, named | other):
        lora = convert(tensors, 4)
        np.testing.assert_array_equal(lora.layers[FULL].down, small[1])
        assert lora.layers[key].rank == 4 and lora.layers[FULL].rank == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{FULL}.hada_w1_a": np.ones((4, 2)), f"{FULL}.hada_w1_b": np.ones((2, 4))}, "has no hada_w2_a"),
        ({f"{FULL}.lokr_w1_a": np.ones((4, 2)), f"{FULL}.lokr_w2": np.ones((2, 4))}, "has no lokr_w1_b"),
        (
            {
                f"{FULL}.hada_w{n}_{end}": np.ones(shape)
                for n in (1, 2)
                for end, shape in (("a", (4, 2)), ("b", (3, 4)))
            },
            "do not fit together",
        ),
        ({f"{FULL}.dora_scale": np.ones((4, 1))}, "DoRA and no factors"),
        ({f"{FULL}.diff": np.full((4, 4), np.nan)}, "holds NaN"),
        ({f"{FULL}.diff": np.ones(4)}, r"a ΔW of shape \(4,\)"),
        ({"unet.other.to_q.diff": np.ones((4, 4))}, "is of no module of SDXL that is known"),
        ({f"{FULL}.oft_blocks": np.ones((4, 4))}, "OFT layer"),
        (loha() | {f"{FLAT}.hada_w1_c": np.ones((4, 4))}, "hada_w1_c' is no part of a LoHa layer"),
        ({}, "no LoRA keys"),
    ],
)
def test_what_can_not_be_converted_is_told(tensors: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert({name: value.astype(np.float32) for name, value in tensors.items()}, 4)


K = FLAT.replace("to_q", "to_k")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (loha() | plain(), "two updates"),
        (loha() | {f"{FLAT}.diff": drawn(OUT, INP)}, "two updates"),
        (lokr() | {f"{FULL}.diff": drawn(OUT, INP)}, "two updates"),
        (loha() | lokr(), "two updates"),
        (loha() | {f"{FULL}.lora_A.weight": drawn(2, INP), f"{FULL}.lora_B.weight": drawn(OUT, 2)}, "two updates"),
        (lokr() | {f"{FLAT}.lokr_w2": drawn(3, 2)}, "two updates"),
        (plain() | {f"{FLAT}.dora_scale": drawn(OUT, 1), f"{FLAT}.lora_magnitude_vector": drawn(OUT)}, "two updates"),
        (loha() | loha(FULL), "named in two ways"),
        ({f"{FLAT}.diff": drawn(OUT, INP), f"{FULL}.diff": drawn(OUT, INP)}, "named in two ways"),
        (loha() | {f"{FLAT}.alpha": np.float32(1), f"{FULL}.alpha": np.float32(2)}, "named in two ways"),
    ],
)
def test_a_second_update_of_a_module_is_not_dropped(tensors: dict[str, np.ndarray], message: str) -> None:
    for given in (tensors, dict(reversed(tensors.items()))):
        with pytest.raises(InputError, match=message):
            convert(given, 4, lambda _: drawn(OUT, INP))


@pytest.mark.parametrize("make", [loha, lokr])
def test_a_stray_tensor_is_left_out_and_named(make: Callable[[], dict[str, np.ndarray]]) -> None:
    named = make()
    lora = convert(named | {"emb_params": drawn(2, 2), f"{K}.alpha": np.float32(3)}, 64)
    np.testing.assert_allclose(added(lora, FULL), dense(named), atol=1e-4)
    assert any("2 of its tensors belong to no layer" in text and "emb_params" in text for text in lora.warnings)


@pytest.mark.parametrize("name", ["other.to_q.lora_down.weight", "unet.other.to_q.lora_A.weight"])
def test_a_factor_of_another_model_is_no_stray_tensor(name: str) -> None:
    with pytest.raises(InputError, match="belongs to no known dialect"):
        convert(loha() | {name: drawn(2, 2)}, 64)


def test_a_missing_alpha_beside_a_stray_tensor_is_a_damaged_name() -> None:
    """As for plain layers: the layer would have another scale."""
    named = loha() | {f"{FLAT}.alpha": np.float32(1)} | loha(K) | {f"{K}.alpga": np.float32(1)}
    with pytest.raises(InputError, match="a name is damaged"):
        convert(named, 64)


def test_a_merge_converts_first(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A PEFT folder of a DoRA for the tiny base, whose weights are opened for it, merged with itself."""
    weight = base_weights(str(tiny_pipeline))
    module = lr.load_layout(str(tiny_pipeline)).modules[0]
    base = weight(f"unet.{module}")
    assert base is not None
    (outs, ins), key = base.shape, f"base_model.model.{module}"
    down, up, magnitude = drawn(2, ins), drawn(outs, 2), np.abs(drawn(outs)) + 1
    tensors = {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector": magnitude}
    peft = tmp_path / "peft"
    peft.mkdir()
    save_file({f"{key}.{part}": value for part, value in tensors.items()}, peft / "adapter_model.safetensors")
    (peft / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6, "use_dora": True}))
    out = tmp_path / "out" / "merged.safetensors"
    given = [str(peft), str(peft), "--base", str(tiny_pipeline), "--method", "direct", "--convert", "64"]
    assert merge([*given, "-o", str(out)]) == 0
    whole = base + 3 * up @ down
    want = whole / np.linalg.norm(whole, axis=1, keepdims=True) * magnitude[:, None] - base
    np.testing.assert_allclose(lr.read_lora(out).layers[f"unet.{module}"].delta(), want, atol=1e-4)


def test_merge_names_its_own_option_for_the_rank(tmp_path: Path) -> None:
    given = [str(tmp_path), str(tmp_path), "--method", "direct", "--convert", "0"]
    with pytest.raises(InputError, match="--convert is 0; give a whole number of 1 or more"):
        merge([*given, "-o", str(tmp_path.with_suffix(".safetensors"))])


@pytest.mark.parametrize(
    ("given", "says"),
    [(["--method", "direct", "--base", "typo"], "unknown base 'typo'"), (["--base", "sdxl"], "give --hypernet")],
)
def test_what_a_merge_needs_is_looked_at_before_anything_is_converted(
    given: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"no LoRA")
    both = [str(tmp_path / "damaged.safetensors")] * 2
    with pytest.raises(InputError, match=says):
        merge([*both, *given, "--convert", "4", "-o", str(tmp_path / "out.safetensors")])


@pytest.mark.parametrize("method", ["ssr", "ssr-text"])
def test_a_method_that_runs_the_base_is_asked_for_no_layout_before(method: str, tmp_path: Path) -> None:
    """A hub id has none by its name; so the next thing that is wrong is told."""
    (tmp_path / "damaged.safetensors").write_bytes(b"no LoRA")
    given = [str(tmp_path / "damaged.safetensors")] * 2 + ["--method", method, "--base", "owner/name"]
    prompts = ["--content-prompt", "a sks dog", "--style-prompt", "a dog in ink style"]
    with pytest.raises(InputError, match=r"damaged\.safetensors"):
        merge([*given, *prompts, "--convert", "4", "-o", str(tmp_path / "out.safetensors")])


def test_of_layers_that_lose_alike_the_first_is_named() -> None:
    names = [f"lora_unet_up_blocks_1_attentions_{index}_proj_in" for index in range(3)]
    names += [f"lora_unet_down_blocks_{block}_attentions_{index}_proj_in" for block in (1, 2) for index in range(2)]
    layer = list(plain().values())
    alike = {f"{name}.{end}": layer[end == "lora_up.weight"] for name in names for end in ENDS}
    (told,) = convert(alike | {f"{FLAT}.diff": np.ones((OUT, INP), np.float32)}, 1).warnings
    assert "8 layers were made plain or cut, to rank 1 at most" in told
    assert told.endswith("(unet.up_blocks.1.attentions.0.proj_in)")


def test_the_help_offers_no_base_without_weights() -> None:
    words = set(parser().format_help().replace(",", " ").split())
    assert MINIATURE in words and not words & set(CONFIGS)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = loha()
    source, out = tmp_path / "loha.safetensors", tmp_path / "plain.safetensors"
    save_file(tensors, source)
    with pytest.raises(InputError, match=r"LoHa layer.*lorarar convert"):
        lr.read_lora(source)
    assert main([str(source), "--rank", "4", "--dialect", "kohya", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "1 layers, rank 4" in said.out and "warning: " in said.err and "made plain" in said.err
    np.testing.assert_allclose(lr.read_lora(out).layers[FULL].delta(), dense(tensors), atol=1e-4)
    with pytest.raises(InputError, match="--rank is 0"):
        main([str(source), "--rank", "0", "-o", str(out)])
    for base in ([], ["--base", str(out)]):
        with pytest.raises(InputError, match="would overwrite the input"):
            main([str(source), "--rank", "4", *base, "-o", str(out if base else source)])


def test_a_dora_without_its_base_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorarar.convert.cut", None)
    other = FLAT.replace("to_q", "to_k")
    named = loha(other) | plain() | {f"{FLAT}.dora_scale": np.ones((OUT, 1), np.float32)}

    def missing(_: str) -> None:
        raise InputError("no such base")

    for weights, message in ((None, "to_q is a DoRA"), (lambda _: None, "to_q is a DoRA"), (missing, "no such base")):
        with pytest.raises(InputError, match=message):
            convert(named, 4, weights)


def test_a_base_that_nothing_asks_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorarar.convert.cut", None)  # which comes too late
    source, out = tmp_path / "loha.safetensors", tmp_path / "plain.safetensors"
    save_file(loha(), source)
    with pytest.raises(InputError, match=r"--base is for DoRA, and .* has none"):
        main([str(source), "--rank", "4", "--base", "nobody/nowhere", "-o", str(out)])
    assert not out.exists()


def test_a_base_without_weights_leads_to_one_that_has_them() -> None:
    """`merge --convert` takes names of bases too, and neither hub ids nor random weights."""
    with pytest.raises(InputError, match=r"those of sdxl are not part .* lorarar convert LORA .* --base FOLDER"):
        base_weights("sdxl")("unet.conv_in")


def test_layers_that_some_programs_leave_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ff = "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
    source = tmp_path / "ff.safetensors"
    lr.LoRA({ff: LoraLayer(np.ones((2, 8), np.float32), np.ones((8, 2), np.float32))}).save(source)
    for dialect, told in (("peft", True), ("kohya", False)):
        out = tmp_path / f"{dialect}.safetensors"
        assert main([str(source), "--rank", "4", "--dialect", dialect, "-o", str(out)]) == 0
        assert ("beyond the attention" in " ".join(capsys.readouterr().err.split())) is told
