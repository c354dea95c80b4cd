"""Reading: the golden files of every dialect, alpha's edge cases, PEFT's configuration, and refusals by name."""

import json
import os
from pathlib import Path

import make_golden_lora as golden
import numpy as np
import pytest
from safetensors.numpy import load_file

from lorarar.errors import InputError
from lorarar.lora import DIALECTS, read_lora
from lorarar.lora.dialects import parse_key

INDEX = json.loads((golden.FOLDER / "index.json").read_text())["files"]
TO_Q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
ONES = np.ones((2, 3))
CHANGED_BASES = ("olora", "corda", "loftq", "lora_ga")


def write(path: Path, tensors: golden.Tensors, metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(golden.safetensors(tensors, metadata))
    return path


def kohya(alpha: np.ndarray | None = None, rank: int = 2) -> golden.Tensors:
    tensors: golden.Tensors = {
        f"{FLAT}.lora_down.weight": ("F32", np.ones((rank, 3))),
        f"{FLAT}.lora_up.weight": ("F32", np.ones((3, rank))),
    }
    return tensors if alpha is None else tensors | {f"{FLAT}.alpha": ("F32", alpha)}


def peft(name: str = TO_Q, rank: int = 2) -> golden.Tensors:
    return {
        f"{name}.lora_A.weight": ("F32", np.ones((rank, 3))),
        f"{name}.lora_B.weight": ("F32", np.ones((3, rank))),
    }


def refused(path: Path, *words: str) -> str:
    """The one sentence that reading `path` gives; it holds every one of `words`."""
    with pytest.raises(InputError) as info:
        read_lora(path)
    sentence = str(info.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence, sentence
    return sentence


# --- golden files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEX)
def test_every_dialect_means_its_golden_update(name: str) -> None:
    lora, entry = read_lora(golden.FOLDER / name), INDEX[name]
    expected = load_file(golden.FOLDER / entry["expected"])
    assert lora.dialect == entry["dialect"]
    assert set(lora.layers) == set(expected)
    assert len(lora.layers) == entry["layers"]
    for module, delta in expected.items():
        layer = lora.layers[module]
        assert layer.down.dtype == layer.up.dtype == np.float32
        np.testing.assert_allclose(layer.delta(), delta, rtol=1e-6, atol=1e-7)


def test_the_generator_makes_the_golden_files(tmp_path: Path) -> None:
    golden.build(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(golden.FOLDER): path.read_bytes() for path in golden.FOLDER.rglob("*") if path.is_file()}
    assert made == kept


def test_the_table_of_dialects_reads_its_own_examples() -> None:
    assert {entry["dialect"] for entry in INDEX.values()} | {"kohya-text"} == {dialect.name for dialect in DIALECTS}
    for dialect in DIALECTS:
        key = parse_key(dialect.example, "")
        assert key is not None
        assert key.dialect == dialect.name


def test_what_was_read_is_the_readers_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kohya())
    lora = read_lora(str(path))
    # Not of numpy's class of mapped files, which makes every operation slower.
    assert {type(array) for layer in lora.layers.values() for array in (layer.down, layer.up)} == {np.ndarray}
    lora.layers[TO_Q].down[:] = 5  # writable, and no view of the file
    path.write_bytes(b"overwritten")
    assert float(lora.layers[TO_Q].down.sum()) == 30
    assert lora.source == str(path)


def test_an_unaligned_header_reads_alike(tmp_path: Path) -> None:
    for name in ("kohya-sgm", "kohya-diffusers", "peft-f64"):
        data = (golden.FOLDER / f"{name}.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + length].rstrip() + b" "
        header += b"" if len(header) % 2 else b" "
        path = tmp_path / "odd.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
        assert_same(path, golden.FOLDER / f"{name}.safetensors")


def assert_same(path: Path, other: Path) -> None:
    left, right = read_lora(path), read_lora(other)
    assert set(left.layers) == set(right.layers)
    for module, layer in left.layers.items():
        np.testing.assert_array_equal(layer.down, right.layers[module].down)
        np.testing.assert_array_equal(layer.up, right.layers[module].up)


# --- alpha ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0, 64.0, -1.0])
def test_alpha_is_folded_into_up(tmp_path: Path, shape: tuple[int, ...], alpha: float) -> None:
    layer = read_lora(write(tmp_path / "a.safetensors", kohya(np.full(shape, alpha)))).layers[TO_Q]
    np.testing.assert_array_equal(layer.up, np.full((3, 2), alpha / 2, np.float32))
    np.testing.assert_array_equal(layer.down, np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (np.array(np.nan), ("alpha", "NaN")),
        (np.array(np.inf), ("alpha", "infinity")),
        (np.ones(2), ("alpha", "one number")),
        (np.ones(0), ("alpha", "one number")),
        (np.array(3e38), ()),
    ],
)
def test_bad_alphas_are_refused(tmp_path: Path, alpha: np.ndarray, words: tuple[str, ...]) -> None:
    tensors = kohya(alpha)
    tensors[f"{FLAT}.lora_up.weight"] = ("F32", np.full((3, 2), 100.0))
    refused(write(tmp_path / "a.safetensors", tensors), *words)


@pytest.mark.parametrize("end", [".alpha", ".lora.alpha"])
def test_alpha_counts_in_the_dotted_dialects(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "a.safetensors", peft() | {TO_Q + end: ("F32", np.array(8.0))})
    np.testing.assert_array_equal(read_lora(path).layers[TO_Q].up, np.full((3, 2), 4, np.float32))


def test_an_alpha_tensor_wins_over_the_metadata(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})}
    path = write(tmp_path / "a.safetensors", peft(), metadata)
    assert read_lora(path).layers[TO_Q].up[0, 0] == 3
    path = write(tmp_path / "b.safetensors", peft() | {f"{TO_Q}.alpha": ("F32", np.array(8.0))}, metadata)
    assert read_lora(path).layers[TO_Q].up[0, 0] == 4
    # diffusers does not combine kohya's names with this metadata either.
    path = write(tmp_path / "c.safetensors", kohya(), metadata)
    assert read_lora(path).layers[TO_Q].up[0, 0] == 1


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("text_encoder.encoder.layers.0.mlp.fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
        ("text_encoder_2.text_projection", "text_encoder_2.text_projection"),
        # as told to, before PEFT's own keys
        (
            "text_encoder.base_model.model.text_model.encoder.layers.0.mlp.fc1",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        ),
        ("down_blocks.1.attentions.0.proj_in", "unet.down_blocks.1.attentions.0.proj_in"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out", None),
        ("unet.unet.conv_in", "unet.conv_in"),
    ],
)
def test_spellings_of_one_module(tmp_path: Path, written: str, meant: str | None) -> None:
    meant = meant or f"{written}.0"
    assert set(read_lora(write(tmp_path / "a.safetensors", peft(written))).layers) == {meant}


def test_peft_names_with_the_adapters_name(tmp_path: Path) -> None:
    tensors = {key.replace(".weight", ".default.weight"): value for key, value in peft().items()}
    assert set(read_lora(write(tmp_path / "a.safetensors", tensors)).layers) == {TO_Q}


def test_two_dialects_may_share_a_file_but_not_a_layer(tmp_path: Path) -> None:
    other = {key.replace("to_q", "to_v"): value for key, value in peft().items()}
    lora = read_lora(write(tmp_path / "a.safetensors", kohya() | other))
    assert lora.dialect == "peft + kohya-sgm"
    refused(write(tmp_path / "b.safetensors", kohya() | peft()), "two ways", TO_Q)
    half = {f"{FLAT}.lora_down.weight": ("F32", ONES), f"{TO_Q}.lora_B.weight": ("F32", ONES.T)}
    refused(write(tmp_path / "c.safetensors", half), "two dialects", "peft", "kohya-sgm")


# --- PEFT folders -----------------------------------------------------------------------------------------------


def folder(path: Path, config: object, tensors: golden.Tensors | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    write(path / "adapter_model.safetensors", tensors or peft("base_model.model." + TO_Q.removeprefix("unet.")))
    return path


TEXT = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("model", "component"), [("CLIPTextModel", "text_encoder"), ("CLIPTextModelWithProjection", "text_encoder_2")]
)
def test_a_text_encoders_folder_says_which(tmp_path: Path, model: str, component: str) -> None:
    config = {"r": 2, "lora_alpha": 2, "auto_mapping": {"base_model_class": model}}
    of_an_editor = "\ufeff" + json.dumps(config)  # some begin a file with a byte order mark
    assert read_lora(folder(tmp_path / "c", of_an_editor, peft(TEXT))).layers.keys() == {
        f"{component}.{TEXT.removeprefix('base_model.model.')}"
    }
    lora = read_lora(folder(tmp_path / "a", config, peft(TEXT)))
    assert set(lora.layers) == {f"{component}.{TEXT.removeprefix('base_model.model.')}"}
    refused(folder(tmp_path / "b", {"r": 2}, peft(TEXT)), "text_encoder_2", TEXT)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 2, "use_dora": True}, ("DoRA", "use_dora=False")),
        ({"r": 2, "kasa_config": {"beta": 1}}, ("KaSA",)),
        ({"r": 2, "alora_invocation_tokens": [1, 2]}, ("aLoRA",)),
        ({"r": 2, "use_bdlora": True}, ("BD-LoRA",)),
        ({"r": 2, "peft_type": "LOHA"}, ("LOHA", "adapter_config.json")),
        ({"r": 4}, ("rank 4", "rank 2")),
        ({"r": 0}, ("whole number",)),
        ({"r": "two"}, ("r is",)),
        ({"r": True}, ("r is",)),
        ({"r": 2, "lora_alpha": None}, ("lora_alpha",)),
        ('{"r": 2, "lora_alpha": NaN}', ("JSON",)),
        ({"r": 2, "lora_alpha": 1e300}, ("lora_alpha",)),
        ({"r": 2, "rank_pattern": [1]}, ("rank_pattern",)),
        ({"r": 2, "alpha_pattern": {"(": 1}}, ("alpha_pattern", "pattern")),
        ({"r": 2, "alpha_pattern": {"(a+)+": 1}}, ("pattern", "complex")),
        ({"r": 2, "alpha_pattern": {".*.*.*x": 1}}, ("pattern", "complex")),
        *(({"r": 2, "init_lora_weights": way}, ("changed base",)) for way in ("pissa_niter_4", *CHANGED_BASES)),
        ("[1]", ("JSON object",)),
        ("[" * 100_000, ("nested",)),
        ("{", ("JSON",)),
    ],
)
def test_bad_configurations_are_refused(tmp_path: Path, config: object, words: tuple[str, ...]) -> None:
    refused(folder(tmp_path / "peft", config), *words)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "adapter_config.json", ".safetensors file")
    path = folder(tmp_path / "peft", {"r": 2, "lora_alpha": 2})
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    refused(path, "pickle", "safetensors")
    (path / "adapter_model.bin").unlink()
    refused(path, "no such file")


# --- refusals by name -------------------------------------------------------------------------------------------

FOREIGN = {
    "hada_w1_a": "LoHa", "hada_t1": "LoHa", "lokr_w1": "LoKr", "lokr_w2_b": "LoKr", "dora_scale": "DoRA",
    "oft_blocks": "OFT", "oft_diag": "OFT", "boft_R": "BOFT", "lora_mid.weight": "Tucker", "a1.weight": "GLoRA",
    "b2.weight": "GLoRA", "on_input": "(IA)³", "lora_up.bias": "biases", "diff": "difference", "diff_b": "difference",
    "w_norm": "norm", "lora_magnitude_vector": "DoRA", "lora_magnitude_vector.weight": "DoRA", "lora_diag": "KaSA",
}  # fmt: skip


@pytest.mark.parametrize("end", FOREIGN)
def test_foreign_formats_are_refused_by_name(tmp_path: Path, end: str) -> None:
    alone = {f"{FLAT}.{end}": ("F32", ONES)}
    for tensors in (alone, kohya() | alone):
        refused(write(tmp_path / "a.safetensors", tensors), FOREIGN[end], end, "a.safetensors")


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_input_blocks_4_1_transformer_blocks_7_attn1_to_q.lora_down.weight",  # SDXL's block 4 has two
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight",  # Stable Diffusion 1.5's
        "lora_te3_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "transformer.single_blocks.0.attn.to_q.lora_A.weight",
        "unet.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoder.down_blocks.0.lora_A.weight",
        "unet.conv_in\n.lora_A.weight",
        "unet.conv_in.lora_A.weight\n",
        "unet.conv_in.lora_A.mine.weight",
    ],
)
def test_unknown_keys_are_named_with_the_dialects(tmp_path: Path, key: str) -> None:
    alone = {key: ("F32", ONES)}
    refused(write(tmp_path / "a.safetensors", alone), "no LoRA keys", "kohya-sgm", "peft")
    refused(write(tmp_path / "b.safetensors", kohya() | alone), key.replace("\n", "?"), "no known dialect", "kohya-sgm")


@pytest.mark.parametrize("key", ["something.else", ""])
def test_a_key_that_is_no_factors_is_no_lora_and_no_harm_to_one(tmp_path: Path, key: str) -> None:
    alone = {key: ("F32", ONES)}
    refused(write(tmp_path / "a.safetensors", alone), "no LoRA keys", "kohya-sgm", "peft")
    read = read_lora(write(tmp_path / "b.safetensors", kohya() | alone))
    assert len(read.layers) == 1 and f"('{key}')" in read.warnings[0]


def test_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": ("F16", ONES)}
    refused(write(tmp_path / "sdxl.safetensors", tensors), "no LoRA keys", "full checkpoint", "input_blocks.0.0")
    refused(write(tmp_path / "none.safetensors", {}), "no LoRA keys")


def layer(down: tuple[int, ...], up: tuple[int, ...]) -> golden.Tensors:
    return {f"{FLAT}.lora_down.weight": ("F32", np.ones(down)), f"{FLAT}.lora_up.weight": ("F32", np.ones(up))}


@pytest.mark.parametrize(
    ("down", "up", "words"),
    [
        ((2, 3), (4, 5), ("ranks 2 and 5",)),
        ((5, 2), (2, 3), ("swapped",)),
        ((2, 3, 3, 3), (4, 2, 3, 3), ("1×1",)),
        ((2, 3), (3, 2, 1, 1), ("dimensions",)),
        ((2, 3, 3), (3, 2, 1), ("dimensions",)),
        ((6,), (6,), ("dimensions",)),
        ((), (), ("dimensions",)),
        ((0, 3), (3, 0), ("at least 1",)),
        ((2, 0), (3, 2), ("size of 0",)),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    tmp_path: Path, down: tuple[int, ...], up: tuple[int, ...], words: tuple[str, ...]
) -> None:
    refused(write(tmp_path / "a.safetensors", layer(down, up)), FLAT, *words)


@pytest.mark.parametrize(("missing", "kept"), [("down", "up"), ("up", "down")])
def test_half_a_layer_is_refused(tmp_path: Path, missing: str, kept: str) -> None:
    tensors = kohya(np.array(1.0)) | peft(TO_Q.replace("to_q", "to_k"))
    del tensors[f"{FLAT}.lora_{missing}.weight"]
    refused(write(tmp_path / "a.safetensors", tensors), f"lora_{kept}.weight", f"no matching {missing}")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("end", ["lora_down.weight", "lora_up.weight"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_nan_and_infinity_are_named(tmp_path: Path, bad: float, end: str, dtype: str) -> None:
    tensors = kohya()
    values = tensors[f"{FLAT}.{end}"][1].copy()
    values[1, 1] = bad
    tensors[f"{FLAT}.{end}"] = (dtype, values)
    refused(write(tmp_path / "a.safetensors", tensors), f"{FLAT}.{end}", "NaN")


def test_doubles_over_float32_are_refused_but_huge_sums_are_not(tmp_path: Path) -> None:
    tensors = kohya()
    tensors[f"{FLAT}.lora_up.weight"] = ("F64", np.full((3, 2), 1e39))
    refused(write(tmp_path / "a.safetensors", tensors), "over float32")
    tensors[f"{FLAT}.lora_up.weight"] = ("F32", np.full((3, 2), 3e38))
    assert np.isfinite(read_lora(write(tmp_path / "b.safetensors", tensors)).layers[TO_Q].up).all()


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    for end, dtype in (("lora_down.weight", "I32"), ("alpha", "BOOL")):
        tensors = kohya(np.array(1.0))
        tensors[f"{FLAT}.{end}"] = (dtype, tensors[f"{FLAT}.{end}"][1])
        refused(write(tmp_path / "a.safetensors", tensors), f"{FLAT}.{end}", dtype, "BF16")


# --- no LoRA at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "gzip"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (b"\x80\x02}q\x00." + bytes(60), "pickle"),
        (b"<!DOCTYPE html><html>sign in</html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs"),
        (b"GGUF" + bytes(60), "GGUF"),
        (b"abc", "cut short"),
        (bytes(8), "JSON"),
        (b"\xff" * 64, "not a safetensors"),
    ],
)
def test_other_kinds_of_file_are_named(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    refused(path, word, "a.safetensors")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(tmp_path / "missing.safetensors", "no such file", "missing.safetensors")
    refused(Path("/dev/zero"), "not a regular file")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    refused(fifo, "not a regular file")
    refused(Path("a\0b"), "can't be read")
