"""What `out` may be, what an export leaves in it, and what it never removes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_world import tiny_hypernet

from export.bundle import BundleWriter, new_bundle
from export.options import HypernetOptions
from export.resume import require_replaceable
from export.targets import find_target
from export.write import write_hypernet
from lorarar.errors import CutShort, InputError
from lorarar.layout import Layout

MANIFESTS = {"an extension of a browser": {"manifest_version": 3}, "a list": [], "half a bundle": {"schema_version": 2}}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_a_folder_with_another_manifest_is_left_alone(tmp_path: Path, manifest: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "background.js").write_text("mine")
    with (
        pytest.raises(InputError, match="exists and is not a bundle"),
        new_bundle(tmp_path, find_target("onnx"), {}, print),
    ):
        pass
    assert (tmp_path / "background.js").read_text() == "mine"


def test_a_bundle_is_replaced_and_files_beside_its_own_are_not(tmp_path: Path) -> None:
    """Of any version: the next one is a new one."""
    names = {"unet": {"file": "unet.onnx", "golden": {"file": "golden/unet.safetensors"}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "components": names}))
    (tmp_path / "golden").mkdir()
    (tmp_path / "unet.onnx").mkdir()
    for name in ("unet.onnx/weights.bin", "golden/unet.safetensors"):
        (tmp_path / name).write_text("ours")
    require_replaceable(tmp_path)
    for name in ("merged.safetensors", "golden/notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=r"no part of its bundle \(golden/notes.txt, merged.safetensors\)"):
        require_replaceable(tmp_path)


def test_what_was_saved_into_a_bundle_during_its_export_is_kept(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is the finished work: the same command goes on from it once the file is moved away."""
    out, given = tmp_path / "bundle", (tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", 4))
    write_hypernet(*given, out)
    finish = BundleWriter.finish

    def late(self: BundleWriter, *args: Any, **options: Any) -> Any:
        (out / "image.png").write_text("mine")
        return finish(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(BundleWriter, "finish", late)
        with pytest.raises(CutShort, match=r"no part of its bundle \(image.png\)") as refused:
            write_hypernet(*given, out)
    assert (out / "image.png").read_text() == "mine"
    assert "the same command goes on from it" in refused.value.__notes__[0]
    (out / "image.png").unlink()
    said: list[str] = []
    write_hypernet(*given, out, said.append)
    assert not any("converting" in text for text in said)


@pytest.mark.parametrize("out", [".", "..", "../bundle"])
def test_the_folder_in_which_a_command_runs_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"`out` is .*, in which this command runs; give another"):
        require_replaceable(Path(out))
