"""What the iOS engine refuses, or reads only as Python does: hostile bundles and LoRAs, wrong requests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from android.exported import write_refused_loras
from bundle_mutations import MUTATIONS as BUNDLE_MUTATIONS
from bundle_mutations import PIPELINE_MUTATIONS, RAW
from contradictions import CONTRADICTIONS, write_contradiction
from ios.swift import Ran, execute
from ios.tool import CONTENT, GOLDEN, MEMORY, STYLE, tool
from lora_mutations import MUTATIONS as LORA_MUTATIONS
from safetensors.numpy import load_file
from stand_in import make_bundle

from lorarar.errors import InputError
from lorarar.lora import read_lora
from runtime_py.manifest import read_manifest

pytestmark = pytest.mark.apps


def refused(ran: Ran) -> str:
    """The one sentence with which something was refused."""
    assert ran.code == 2 and ran.err.count("error: ") == 1 and len(ran.err.strip().splitlines()) == 1, ran.err
    assert len(ran.err) < 900
    return ran.err


# Only a check reads the golden file's tensors, and only a run the graph: there, a check says it in its row.
IN_A_ROW = {"golden replaced", "not a model", "an empty model", "input of other type"}


@pytest.mark.parametrize("name", [*BUNDLE_MUTATIONS, *RAW])
def test_hostile_bundles_are_refused(products: Path, golden_bundle: Path, name: str) -> None:
    place = golden_bundle / "manifest.json"
    if name in RAW:
        place.write_bytes(RAW[name])
    else:
        manifest = json.loads(place.read_text())
        BUNDLE_MUTATIONS[name][0](golden_bundle, manifest)
        place.write_text(json.dumps(manifest))
    ran = tool(products, "check", golden_bundle)
    if name in IN_A_ROW:
        assert ran.code == 1 and "\tnot_run\t" in ran.out, ran.out + ran.err
    else:
        assert "hypernet" in refused(ran) or "manifest" in ran.err or "coreml" in ran.err


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a whole bundle of stand-ins, which no runtime opens."""
    return make_bundle(tmp_path_factory.mktemp("stand-in") / "bundle")


@pytest.mark.parametrize("name", PIPELINE_MUTATIONS)
def test_hostile_pipelines_are_refused_before_anything_runs(
    products: Path, pipeline: Path, tmp_path: Path, name: str
) -> None:
    """Where parts don't fit together, the sentence names the part that Python names."""
    copy = Path(shutil.copytree(pipeline, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    mutate, said = PIPELINE_MUTATIONS[name]
    mutate(copy, manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    ran = tool(products, "check", copy)
    if said == "not a golden file":
        assert ran.code == 1 and "\tnot_run\t" in ran.out, ran.out + ran.err
    elif "'s " in said:
        assert f"{said} doesn't fit the other parts" in refused(ran)
    else:
        assert "/manifest.json: $." in refused(ran)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_text_encoders_that_contradict_the_layout_are_refused(
    products: Path, with_text: Path, tmp_path: Path, name: str
) -> None:
    write_contradiction(name, with_text, tmp_path)
    said = CONTRADICTIONS[name][1]
    with pytest.raises(InputError, match=said):
        read_manifest(tmp_path)
    assert said in refused(tool(products, "check", tmp_path))


def test_hostile_loras_are_refused_or_mean_what_they_mean_in_python(products: Path, tmp_path: Path) -> None:
    places = []
    for number, (_, _, data) in enumerate(LORA_MUTATIONS):
        places.append(tmp_path / f"{number}.safetensors")
        places[-1].write_bytes(data)
    ran = execute("prlimit", f"--data={MEMORY}", products / "merger-tool", "lora", *places)
    said = [line.split("\t") for line in ran.out.splitlines()]
    assert len(said) == len(LORA_MUTATIONS) > 300
    wrong = []
    for (name, verdict, _), (_, found, sentence) in zip(LORA_MUTATIONS, said, strict=True):
        if found != ("refused" if verdict == "refuse" else "read") or len(sentence) > 900:
            wrong.append((name, verdict, found, sentence))
    assert wrong == []


def test_a_file_of_two_gigabytes_of_nothing_is_refused_without_being_read(products: Path, tmp_path: Path) -> None:
    """A header that tells the truth, about tensors that no LoRA has."""
    elements, name = 2**30, "lora_unet_conv_in.lora_{}.weight"
    entries = {
        name.format("down"): {"dtype": "F16", "shape": [1, elements], "data_offsets": [0, 2 * elements]},
        name.format("up"): {"dtype": "F16", "shape": [4, 1], "data_offsets": [2 * elements, 2 * elements + 8]},
    }
    header = json.dumps(entries).encode()
    place = tmp_path / "sparse.safetensors"
    with place.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * elements + 8)
    ran = execute("prlimit", f"--data={MEMORY}", products / "merger-tool", "lora", place)
    assert ran.code == 2 and "too large for a factor of a LoRA" in ran.out, ran.out + ran.err


def test_loras_that_are_read_mean_what_they_mean_in_python(products: Path, tmp_path: Path) -> None:
    kept = [(name, data) for name, verdict, data in LORA_MUTATIONS if verdict != "refuse"]
    assert len(kept) > 15
    for name, data in kept:
        place, output = tmp_path / "lora.safetensors", tmp_path / "deltas.safetensors"
        place.write_bytes(data)
        assert tool(products, "lora", place, "-o", output).code == 0, name
        found, expected = load_file(output), read_lora(place)
        assert set(found) == set(expected.layers), name
        for module, layer in expected.layers.items():
            np.testing.assert_allclose(found[module], layer.delta(), rtol=2e-6, atol=1e-6, err_msg=f"{name}: {module}")


def test_formats_that_are_no_lora_are_refused_by_name(products: Path, tmp_path: Path) -> None:
    folder = tmp_path / "refused"
    write_refused_loras(folder)
    wanted: dict[str, Any] = json.loads((folder / "index.json").read_text())
    assert {"dora", "loha", "lokr", "pickle"} <= set(wanted)
    ran = tool(products, "lora", *(folder / name for name in wanted))
    said = {line.split("\t")[0]: line for line in ran.out.splitlines()}
    for name, words in wanted.items():
        assert "\trefused\t" in said[name] and all(word in said[name] for word in words), said[name]


def test_a_lora_of_another_base_is_refused(products: Path) -> None:
    ran = tool(products, "merge", GOLDEN / "hypernet" / "bundle", CONTENT, STYLE)
    sentence = refused(ran)
    assert "teapot_1.safetensors" in sentence and "another base model" in sentence


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--steps", "0", "--prompt", "x"], "0 steps are not possible; valid are 1 to 1000"),
        (["generate", "--guidance", "0.5", "--prompt", "x"], "guidance 0.5 is not possible; give 1 (off) or more"),
        (["generate", "--guidance-rescale", "1.5", "--prompt", "x"], "guidance rescale of 1.5 is not possible"),
        (["generate", "--guidance", "1", "--negative", "b", "--prompt", "x"], "negative prompt means nothing without"),
        (["generate"], "give --prompt P"),
        (["benchmark", "--component", "nose"], "the bundle has no nose, only hypernet"),
        (["benchmark", "--component", "hypernet", "--runs", "0"], "0 runs after 3 warm-up runs are not possible"),
        (["merge", CONTENT, STYLE, STYLE], "3 LoRAs, but there is room for 2; export with --loras 3"),
        (["merge", CONTENT, "--strengths", "1,2"], "give 1 finite numbers, one for each LoRA"),
        (["merge", CONTENT, "--strengths", "nan"], "give 1 finite numbers, one for each LoRA"),
        (["merge", CONTENT, "--strengths", "1,"], "--strengths is '1,'; give numbers with a comma between them"),
        (["check", "--threads", "two"], "--threads is 'two'; give a number"),
        (["check", "--speed", "1"], "--speed is no option"),
        (
            ["generate", "--prompt", "a dog", "--subject", "a dog"],
            "a composed start needs --subject and --subject-class",
        ),
        (["generate", "--prompt", "a dog", "--composed-share", "0.5"], "give both or neither"),
        (["check", "--units", "gpu"], "--units is 'gpu'; valid are all, cpu-and-neural-engine, cpu-and-gpu, cpu-only"),
    ],
)
def test_wrong_requests_are_refused(products: Path, miniature: Path, arguments: list[object], said: str) -> None:
    command, *options = arguments
    assert said in tool(products, command, miniature, *options).err


@pytest.mark.parametrize("command", ["merge", "lora", "generate"])
def test_the_tool_overwrites_no_input(products: Path, miniature: Path, tmp_path: Path, command: str) -> None:
    lora, bundle = tmp_path / "lora.safetensors", tmp_path / "bundle"
    lora.write_bytes(CONTENT.read_bytes())
    bundle.symlink_to(miniature)
    words = [lora] if command == "lora" else [bundle, lora]
    prompt = ["--prompt", "a"] if command == "generate" else []
    for output in (lora, *([miniature / "manifest.json"] if command != "lora" else [])):
        before = output.read_bytes()
        assert "would overwrite the input" in refused(
            execute(products / "merger-tool", command, *words, *prompt, "-o", output)
        )
        assert output.read_bytes() == before


def test_a_missing_runtime_is_named(products: Path) -> None:
    bundle = GOLDEN / "hypernet" / "bundle"
    for library in ("/none.so", "libc.so.6"):
        ran = execute(products / "merger-tool", "check", str(bundle), "--library", library)
        assert "ONNX Runtime's library can't be loaded, or is another library" in refused(ran)
