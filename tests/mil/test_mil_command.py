"""`python -m runtime_py.mil`: show any model, run and trace a program."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_builder import changed, ct, mb, save, spread
from PIL import Image

from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains
from runtime_py.mil import Program
from runtime_py.mil.__main__ import main

ROOT = Path(__file__).parents[2]
X = {"x": spread(2, 64)}


def branching(x: Any) -> Any:
    hidden = mb.linear(x=x, weight=spread(64, 64).astype(np.float32), name="hidden")
    total = mb.reduce_sum(x=hidden, keep_dims=False)
    return mb.cond(
        pred=mb.greater(x=total, y=np.float32(1e9)),
        _true_fn=lambda: mb.exp(x=hidden),
        _false_fn=lambda: mb.mul(x=hidden, y=np.float32(1e30), name="scaled"),
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("command") / "p.mlpackage", branching, X)


class Classes(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.mean((2, 3)) / 50, 1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "c.mlpackage"
    with quiet_toolchains():
        image = ct.ImageType(name="photo", shape=(1, 3, 4, 5), color_layout=ct.colorlayout.RGB)
        labels = ct.ClassifierConfig(["red", "green", "blue"])
        traced = torch.jit.trace(Classes(), torch.rand(1, 3, 4, 5))
        model = ct.convert(traced, inputs=[image], classifier_config=labels, skip_model_load=True)
        model.author, model.short_description = "somebody", "tells a colour"
        model.save(str(path))
    return path


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_show_tells_types_operations_and_bytes(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(package)]) == 0
    text = out(capsys)
    for part in ("mlProgram, specification version 8 (iOS 17 or newer)", "fp32 [2, 64]", "linear", "cond", "16,640"):
        assert part in text
    assert "unknown" not in text


def test_show_tells_what_cannot_be_run(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rename(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        next(each for each in block.operations if each.type == "linear").type = "future"

    other = changed(rename, package, tmp_path / "q.mlpackage")
    assert main(["show", str(other)]) == 0
    assert "future │ 1 │ unknown" in out(capsys)
    with pytest.raises(InputError, match="future 'hidden'"):
        main(["run", str(other), "--random", "0"])


def test_show_tells_of_images_labels_and_the_author(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(classifier)]) == 0
    text = out(capsys)
    for part in ("image RGB 5×4", "probabilities by name", "string", "somebody", "tells a colour"):
        assert part in text


def test_show_tells_of_a_neural_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_toolchains():
        given = [("x", ct.models.datatypes.Array(3))]
        builder = ct.models.neural_network.NeuralNetworkBuilder(given, [("y", None)])
        builder.add_activation("act", "RELU", "x", "y")
        ct.models.utils.save_spec(builder.spec, str(tmp_path / "old.mlmodel"))
    assert main(["show", str(tmp_path / "old.mlmodel")]) == 0
    text = out(capsys)
    assert "neuralNetwork" in text and "activation │ 1" in text and "fp64 [3]" in text
    with pytest.raises(InputError, match="neuralNetwork; convert it as an mlprogram"):
        main(["run", str(tmp_path / "old.mlmodel"), "--random", "0"])


@pytest.mark.parametrize("command", ["run", "trace"])
def test_what_is_refused_before_a_program_is_opened(command: str, package: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--random is -1; give a whole number of 0 or more"):
        main([command, str(package), "--random", "-1"])
    model = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    if command == "trace":
        before = model.read_bytes()
        with pytest.raises(InputError, match="writing there would overwrite the input"):
            main([command, str(package), "--random", "0", "--out", str(model)])
        assert model.read_bytes() == before


def test_a_picture_that_is_read_is_not_written_over(package: Path, tmp_path: Path) -> None:
    picture = tmp_path / f"{next(iter(Program.open(package).outputs))}.png"
    picture.write_bytes(b"mine")
    with pytest.raises(InputError, match="writing there would overwrite the input"):
        main(["run", str(package), "--image", f"x={picture}", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="writing there would overwrite the input"):
        main(["trace", str(package), "--image", f"x={picture}", "--out", str(picture)])
    assert picture.read_bytes() == b"mine"


def test_outputs_may_have_any_name(tmp_path: Path) -> None:
    """numpy.savez has parameters of these names."""

    def two(x: Any) -> Any:
        return mb.exp(x=x, name="file"), mb.abs(x=x, name="allow_pickle")

    package = save(tmp_path / "p.mlpackage", two, X)
    assert main(["run", str(package), "--random", "0", "--out", str(tmp_path / "out")]) == 0
    with np.load(tmp_path / "out" / "outputs.npz") as made:
        assert set(made) == {"file", "allow_pickle"} and (made["file"] > 0).all()


def test_run_takes_arrays_and_keeps_its_outputs(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", **X)
    arguments = ["run", str(package), "--inputs", str(tmp_path / "in.npz"), "--mode", "fp32"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    (made,) = np.load(tmp_path / "out" / "outputs.npz").values()
    weight = spread(64, 64).astype(np.float32)
    np.testing.assert_allclose(made, X["x"] @ weight.T * np.float32(1e30), rtol=1e-4, atol=1e26)
    assert "fp32" not in out(capsys)
    with pytest.raises(InputError, match=r"no \.npz of arrays"):
        (tmp_path / "bad.npz").write_bytes(b"PK\3\4 and no more")
        main(["run", str(package), "--inputs", str(tmp_path / "bad.npz")])
    with pytest.raises(InputError, match="lack 'x'"):
        main(["run", str(package)])


def test_run_takes_an_image_of_any_size_and_tells_the_label(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30), (10, 200, 30)).save(tmp_path / "green.png")
    arguments = ["run", str(classifier), "--image", f"photo={tmp_path / 'green.png'}"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "green" in out(capsys)
    told = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert told["classLabel"] == "green" and max(told["classLabel_probs"], key=told["classLabel_probs"].get) == "green"
    with pytest.raises(InputError, match="'other' is no input that takes an image"):
        main(["run", str(classifier), "--image", f"other={tmp_path / 'green.png'}"])
    with pytest.raises(InputError, match="give NAME=FILE"):
        main(["run", str(classifier), "--image", "green.png"])


def test_trace_finds_what_is_not_finite_and_takes_its_time(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trace.csv"
    assert main(["trace", str(package), "--random", "1", "--mode", "fp32", "--out", str(file)]) == 0
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    kinds = [row["type"] for row in rows]
    assert kinds.count("linear") == 1 and "mul" in kinds and "exp" not in kinds
    scaled = next(row for row in rows if row["type"] == "mul")
    assert float(scaled["high"]) > 1e29 and float(scaled["low"]) < 0 and int(scaled["infinities"]) == 0
    assert all(float(row["seconds"]) > 0 for row in rows)
    wide = {"x": np.zeros(100, np.float16)}
    half = save(tmp_path / "half.mlpackage", lambda x: mb.mul(x=x, y=np.float16(6e4)), wide)
    capsys.readouterr()
    assert main(["trace", str(half), "--random", "1"]) == 0
    assert "not finite, in running order" in out(capsys)


def test_a_bad_package_is_one_sentence(tmp_path: Path) -> None:
    for command in ("show", "run", "trace"):
        run = subprocess.run(
            [sys.executable, "-m", "runtime_py.mil", command, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 2
        assert run.stderr.count("\n") == 1
        assert run.stderr.startswith("error: ")


def test_help_needs_nothing() -> None:
    for words in ([], ["show"], ["run"], ["trace"]):
        call = [sys.executable, "-m", "runtime_py.mil", *words, "--help"]
        assert subprocess.run(call, cwd=ROOT, capture_output=True, check=False).returncode == 0
