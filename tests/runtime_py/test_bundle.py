"""Bundles: what is damaged, hostile or half-copied is refused in one sentence, before anything runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_mutations import MUTATIONS, PIPELINE_MUTATIONS, RAW, hypernet
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file
from tiny_world import BUNDLE_RANK

from lorarar.commands.check import main as check
from lorarar.errors import InputError
from lorarar.layout import Layout, adapter_shapes, coefficient_shapes, fixed, roles_shape
from lorarar.lora import LoRA, write_lora
from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.check import check_bundle
from runtime_py.component import read_golden
from runtime_py.hashes import tree_sha256
from runtime_py.merge import merge_files


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def lora_file(layout: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_world import random_lora

    path = tmp_path_factory.mktemp("lora") / "content.safetensors"
    lora: LoRA = random_lora(layout, (4,), 1)
    write_lora(lora, path)
    return path


def assert_refused(bundle: Path, lora: Path, output: Path, words: str = "") -> None:
    """Merging fails in one sentence and writes nothing; checking fails too, in the same way or by its exit code."""
    with pytest.raises(InputError) as caught:
        merge_files(Bundle.open(bundle), lora, lora, output)
    message = " ".join(str(caught.value).split())
    assert len(message) < 600 and "Traceback" not in message
    assert re.search(words, message), message
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    try:
        assert check([str(bundle)]) == 1
    except InputError as error:
        assert len(str(error)) < 600


# Only a check needs the golden file's tensors; a merge that ignores them is right.
CHECK_ONLY = {"golden replaced"}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_bundles(
    name: str, bundle_folders: dict[tuple[str, str], Path], lora_file: Path, tmp_path: Path
) -> None:
    folder = copy_of(bundle_folders["onnx", "fp32"], tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    mutate, words = MUTATIONS[name]
    mutate(folder, manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if name in CHECK_ONLY:
        with pytest.raises(InputError, match=words):
            check([str(folder)])
    else:
        assert_refused(folder, lora_file, tmp_path / "out" / "merged.safetensors", words)


@pytest.mark.parametrize("name", PIPELINE_MUTATIONS)
def test_mutated_pipelines(name: str, folder: Path, opened: list[str], tmp_path: Path) -> None:
    copy = copy_of(folder, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    mutate, message = PIPELINE_MUTATIONS[name]
    mutate(copy, manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        check([str(copy)])
    assert "unet" not in opened


@pytest.mark.parametrize("key", [("onnx", "fp32"), ("coreml", "fp32"), ("coreai", "fp32"), ("executorch", "fp32")])
def test_a_manifest_that_lies_about_sizes_allocates_nothing(
    key: tuple[str, str], bundle_folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """Consistent in itself, with 2 GB of golden inputs: the artifact's own sizes are looked at first."""
    folder = copy_of(bundle_folders[key], tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    group = manifest["layout"]["groups"][1]
    assert group["name"] == "qo_64x64"
    group["name"], group["in"] = "qo_999999x64", 999_999
    lie = Layout.from_json("tiny", manifest["layout"])
    entry, sizes, learned = hypernet(manifest), {"stacked_rank": 2 * BUNDLE_RANK}, lie.part("qo")
    inputs = roles_shape(2) | adapter_shapes(learned)
    for end, shapes in (("inputs", inputs), ("outputs", coefficient_shapes(learned, 2))):
        entry[end] = [{"name": n, "dtype": "float32", "shape": fixed(shape, sizes)} for n, shape in shapes.items()]
    entry["golden"]["inputs"] = {n: {"shape": fixed(shape, sizes), "value": 1} for n, shape in inputs.items()}
    path = folder / "golden" / "hypernet.safetensors"
    save_file({n.replace("qo_64x64", "qo_999999x64"): tensor for n, tensor in load_file(path).items()}, path)
    entry["golden"]["bytes"], entry["golden"]["sha256"] = tree_sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    opened = Bundle.open(folder)
    assert opened.layout.groups[1].in_features == 999_999
    tracemalloc.start()
    (row,) = check_bundle(opened)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert row.status == "not_run"
    assert "manifest" in row.reason
    assert peak < 100 * 2**20


@pytest.mark.parametrize("name", RAW)
def test_manifests_that_are_none(
    name: str, bundle_folders: dict[tuple[str, str], Path], lora_file: Path, tmp_path: Path
) -> None:
    folder = copy_of(bundle_folders["onnx", "fp32"], tmp_path)
    (folder / "manifest.json").write_bytes(RAW[name])
    assert_refused(folder, lora_file, tmp_path / "out" / "merged.safetensors")


@pytest.mark.parametrize("key", [("coreml", "fp16"), ("coreai", "fp16"), ("executorch", "fp32"), ("qnn", "fp16")])
@pytest.mark.parametrize("keep", [0, 1, 500])
def test_artifacts_cut_short_with_a_forged_hash(
    key: tuple[str, str], keep: int, bundle_folders: dict[tuple[str, str], Path], lora_file: Path, tmp_path: Path
) -> None:
    """The hash only protects from accidents: whoever can write the artifact can write the manifest."""
    folder = copy_of(bundle_folders[key], tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = hypernet(manifest)
    path = folder / entry["file"]
    path = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[:keep])
    entry["bytes"], entry["sha256"] = tree_sha256(folder / entry["file"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(folder, lora_file, tmp_path / "out" / "merged.safetensors")


def test_no_bundle_at_all(tmp_path: Path, lora_file: Path) -> None:
    with pytest.raises(InputError, match=r"not a bundle \(no manifest.json\); make one with  lorarar export pipeline"):
        Bundle.open(tmp_path)
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.open(lora_file)


def test_a_component_it_does_not_have(bundle_folders: dict[tuple[str, str], Path]) -> None:
    with pytest.raises(InputError, match="the bundle has no vae, only hypernet"):
        Bundle.open(bundle_folders["onnx", "fp32"]).component("vae")


def test_a_folder_with_a_name_that_is_no_text_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"x\xff.txt")).write_bytes(b"a")
    with pytest.raises(InputError, match=r"x\?\.txt: its name is not UTF-8; export the bundle again"):
        tree_sha256(tmp_path)


def test_the_hash_of_a_folder_is_as_the_schema_says(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_bytes(b"two")
    (tmp_path / "a.txt").write_bytes(b"one")
    # printf one | sha256sum; printf two | sha256sum; then the two lines | sha256sum
    one = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    two = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    import hashlib

    expected = hashlib.sha256(f"{one}  a.txt\n{two}  b/2\n".encode()).hexdigest()
    assert tree_sha256(tmp_path) == (6, expected)


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_a_program_of_other_types_than_the_manifest_s_is_refused(
    end: str, bundle_folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """As a phone refuses it."""
    folder = Path(shutil.copytree(bundle_folders["coreml", "fp16"], tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    tensors = manifest["components"]["hypernet"][end]
    assert {tensor["dtype"] for tensor in tensors} == {"float16"}
    for tensor in tensors:
        tensor["dtype"] = "float32"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="its tensors are not the manifest's"):
        open_runner(Bundle.open(folder), "hypernet")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_golden_tensors_of_other_types_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    save_torch_file({f"x.{key}": torch.ones(2).to(dtype) for key in ("values", "mean", "rms")}, path)
    with pytest.raises(InputError, match="not a golden file of this bundle"):
        read_golden(path, ["x"])
