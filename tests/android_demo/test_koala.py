"""KOALA-700M in both apps' engines: a whole image of 512×512 in w8 through ONNX Runtime, in a phone's memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from android import on_jvm
from android.kotlin import build_tests, junit_command
from android.shared import merger
from ios.swift import build, onnxruntime_library
from limited_memory import run_limited
from measured_pages import measured

pytestmark = [pytest.mark.apps, pytest.mark.full]

MEMORY_GIB = 2.8  # which an app may use on an iPhone of 6 GB


@pytest.fixture(scope="module")
def koala(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle as the READMEs make it for a phone, but with random weights, and two LoRAs of rank 64."""
    folder = tmp_path_factory.mktemp("koala")
    size = ["--precision", "w8", "--resolution", "512", "--rank", "64", "--batch", "1"]
    given = ["--target", "onnx", "--base", "koala-700m", "--untrained", *size, "--unchecked"]
    measured("export.pipeline", *given, "--out", str(folder / "bundle"))
    for seed, role in enumerate(("content", "style")):
        named = ["--base", "koala-700m", "--adapt", "transformer", "--rank", "64", "--strength", "0.001"]
        out = folder / f"{role}.safetensors"
        measured("lorarar.commands.synthetic", *named, "--seed", str(seed), "--out", str(out))
    yield folder
    shutil.rmtree(folder)  # gigabytes that pytest would keep


def test_the_kotlin_engine_draws_it(koala: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "onnxruntime").mkdir()
    native = on_jvm.onnxruntime(tmp_path / "onnxruntime")
    jars = [merger(), build_tests(tmp_path, merger())]
    properties = native.properties | {"lorarar.large": koala, "lorarar.scratch": tmp_path}
    command = junit_command(["org.lorarar.merger.LargeRun"], jars, properties)
    _, peak = run_limited(command, native.environment, MEMORY_GIB)
    told = json.loads((tmp_path / "told.json").read_text())
    with capsys.disabled():
        print(f"\nKotlin: peak {peak:.2f} GiB, {told}")
    assert told["loads"] == 7  # the hypernetwork, four networks, and for another seed the UNet and the VAE
    assert told["open again"] < 0.1 * told["open"] and told["merge again"] < 0.1


def test_the_swift_engine_draws_it(koala: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    products = build()
    loras = [str(koala / f"{role}.safetensors") for role in ("content", "style")]
    drawn = ["--prompt", "a sks dog", "--steps", "2", "--guidance", "1", "-o", str(tmp_path / "image.safetensors")]
    library = ["--library", str(onnxruntime_library())]
    command = [str(products / "merger-tool"), "generate", str(koala / "bundle"), *loras, *drawn, *library]
    output, peak = run_limited(command, os.environ, MEMORY_GIB)
    with capsys.disabled():
        print(f"\nSwift: peak {peak:.2f} GiB\n{output}")
    assert "512×512" in output and (tmp_path / "image.safetensors").is_file()
