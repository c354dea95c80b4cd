"""Hundreds of damaged and hostile files: each gives one sentence, or the LoRA it still means; never much memory."""

import itertools
import json
import time
import tracemalloc
from pathlib import Path

import make_golden_lora as golden
import numpy as np
import pytest
import torch
from lora_mutations import MUTATIONS, pack

from lorarar.command_line import run_command
from lorarar.commands.merge import main as merge_files
from lorarar.errors import InputError
from lorarar.lora import peft_config, read_lora
from lorarar.lora.peft_config import parse_config
from runtime_py.bundle import Bundle
from runtime_py.merge import merge_files as merge_with_bundle

MEMORY = 64 * 2**20
SECONDS = 10
ORIGINAL = read_lora(golden.FOLDER / "kohya-sgm.safetensors")


def test_there_are_many_and_all_are_different() -> None:
    assert len(MUTATIONS) >= 300
    assert len({name for name, _, _ in MUTATIONS}) == len(MUTATIONS)
    assert sum(verdict == "refuse" for _, verdict, _ in MUTATIONS) >= 250


def checked(path: Path) -> tuple[object, str]:
    """The LoRA or None, and the refusal; asserts that neither took much memory or time."""
    start = time.monotonic()
    tracemalloc.start()
    try:
        lora, sentence = read_lora(path), ""
    except InputError as error:
        lora, sentence = None, str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY
    assert time.monotonic() - start < SECONDS
    return lora, sentence


@pytest.mark.parametrize(("name", "verdict", "data"), MUTATIONS, ids=[name for name, _, _ in MUTATIONS])
def test_a_mutated_file_is_refused_or_read_right(tmp_path: Path, name: str, verdict: str, data: bytes) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    lora, sentence = checked(path)
    if verdict == "refuse":
        assert lora is None, name
        assert "\n" not in sentence
        assert sentence.isprintable()
        assert str(path) in sentence
        assert 20 < len(sentence) - len(str(path)) < 600
        return
    assert lora is not None, sentence
    different = [
        module
        for module, layer in ORIGINAL.layers.items()
        if not np.array_equal(lora.layers[module].delta(), layer.delta())
    ]
    assert set(lora.layers) == set(ORIGINAL.layers)
    assert len(different) == (1 if verdict == "changed" else 0)


def test_the_commands_end_in_one_sentence_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file that must be refused, given to both merging commands: no traceback, no output file."""
    bundle = Bundle.open(golden.FOLDER.parent / "hypernet" / "bundle")
    good = str(golden.FOLDER / "peft.safetensors")
    bad, out = tmp_path / "bad.safetensors", tmp_path / "out" / "merged.safetensors"
    commands = (
        lambda _: merge_files([str(bad), good, "--method", "direct", "-o", str(out)]),
        lambda _: merge_with_bundle(bundle, Path(good), bad, out),
    )
    refused = [data for _, verdict, data in MUTATIONS if verdict == "refuse"]
    assert len(refused) >= 200
    for data in refused:
        bad.write_bytes(data)
        for command in commands:
            with pytest.raises(SystemExit) as caught:
                run_command(command)
            said = capsys.readouterr().err.splitlines()
            assert caught.value.code == 2
            assert [line.startswith("error: ") for line in said] == [True]
            assert not out.parent.exists()


def test_a_sparse_file_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    flat = "lora_unet_conv_in"
    elements = 2**30
    header = {
        f"{flat}.lora_down.weight": {"dtype": "F16", "shape": [1, elements], "data_offsets": [0, 2 * elements]},
        f"{flat}.lora_up.weight": {"dtype": "F16", "shape": [4, 1], "data_offsets": [2 * elements, 2 * elements + 8]},
    }
    path = tmp_path / "sparse.safetensors"
    start = pack(header, b"")
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 2 * elements + 8)
    lora, sentence = checked(path)
    assert lora is None
    assert "too large" in sentence


@pytest.mark.parametrize("length", [400, 5000])
def test_patterns_from_a_stranger_cannot_hang(tmp_path: Path, length: int) -> None:
    name = "base_model.model.down_blocks." + "a." * (length // 2) + "a"
    tensors: golden.Tensors = {f"{name}.lora_A.weight": ("F32", np.ones((1, 2)))}
    tensors |= {f"{name}.lora_B.weight": ("F32", np.ones((2, 1)))}
    (tmp_path / "adapter_model.safetensors").write_bytes(golden.safetensors(tensors))
    patterns = {f".*.*{index}": 2 for index in range(1000)}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1, "alpha_pattern": patterns}))
    start = time.monotonic()
    with pytest.raises(InputError, match=r"too long to match|no LoRA keys"):
        read_lora(tmp_path)
    assert time.monotonic() - start < 30


def test_patterns_that_match_last_take_their_time_too() -> None:
    """As many as `re` forgets; the time of a search that finds its pattern counts as that of one that finds none."""
    modules = [f"down_blocks.2.attentions.1.transformer_blocks.{index}.attn1.to_q" for index in range(722)]
    patterns = dict.fromkeys(modules, 2)
    scaling = parse_config({"r": 1, "alpha_pattern": patterns}, "config")
    start = time.monotonic()
    assert [scaling.scale(module, 1) for module in modules] == [2] * len(modules)
    assert time.monotonic() - start < 10
    slow = {f".*a.*{index}x": 1 for index in range(50)} | {".*": 2}
    scaling = parse_config({"r": 1, "alpha_pattern": slow}, "config")
    with pytest.raises(InputError, match="too long to match"):
        for _ in range(1000):
            scaling.scale("a." * 300 + "a", 1)


def test_a_busy_machine_refuses_no_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=1000.0)
    monkeypatch.setattr(peft_config.time, "monotonic", lambda: next(clock))
    scaling = parse_config({"r": 1, "alpha_pattern": {"to_q": 2, "to_k": 3}}, "config")
    assert scaling.scale("attn1.to_v", 1) == 8


def test_a_long_pattern_is_refused_before_it_is_compiled() -> None:
    pattern = "ab" * 50_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="too complex"):
            parse_config({"r": 1, "alpha_pattern": {pattern: 1}}, "config")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(pattern)


@pytest.mark.parametrize("name", ["alpha_pattern", "rank_pattern"])
def test_there_may_be_as_many_patterns_as_any_lora_needs(name: str) -> None:
    many = {f"a{index}": 1 for index in range(10_000)}
    assert parse_config({"r": 1, name: many}, "config").scale("b", 1) == 8
    with pytest.raises(InputError, match=r"10,001 patterns"):
        parse_config({"r": 1, name: many | {"one more": 1}}, "config")


@pytest.mark.parametrize("metadata", [False, True])
def test_half_a_character_is_refused_as_safetensors_does(tmp_path: Path, metadata: bool) -> None:
    half = {"__metadata__": {"lora_adapter_metadata": "\ud800"}} if metadata else {"unet.\ud800.lora_A.weight": {}}
    header = json.dumps(half).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match=r"a\.safetensors.*not UTF-8 text"):
        read_lora(path)


def test_a_sparse_tensor_is_refused() -> None:
    """numpy has no form of it."""
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    with pytest.raises(InputError, match=r"can't be read .*; give whole tensors"):
        read_lora({f"{name}.lora_A.weight": torch.eye(4).to_sparse(), f"{name}.lora_B.weight": torch.eye(4)})
