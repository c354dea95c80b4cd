"""An export that is stopped goes on, and makes the same bytes as one that was not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch

from export import bundle, resume, write
from export.bundle import check_all, file_entry
from export.graph import ImageSize
from export.options import PipelineOptions, Source
from export.resume import STATE, Unfinished, toolchain_versions, unfinished_folder
from export.targets import TARGETS
from export.write import write_pipeline
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline
from lorarar.errors import CutShort, FailedCheck, InputError
from lorarar.hypernet.checkpoints import open_predictor
from runtime_py.bundle import Bundle
from runtime_py.check import CheckRow
from runtime_py.parity import Tolerance

PARTS = ["hypernet", "text_encoder", "text_encoder_2", "unet", "vae_decoder"]
Files = dict[str, bytes]


def export(base: Path, out: Path, steps: int = 4, guidance: float = 3.5, unchecked: bool = False) -> Files:
    """The files of the bundle, by name."""
    layout = load_layout(str(base))
    hypernet = open_predictor(str(base), layout, untrained=True)
    source = Source(open_pipeline(str(base), False, torch.float32), layout, hypernet)
    options = PipelineOptions("onnx", "fp32", 2, ImageSize(32, 8, 1), steps, guidance, unchecked=unchecked)
    write_pipeline(source, options, out)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Written(list[str]):
    """`write_component` by another one: keeps the components' names, in order; the first vae_decoder is stopped."""

    def __init__(self, write: Callable[..., dict[str, Any]]) -> None:
        super().__init__()
        self.write = write
        self.error: BaseException = KeyboardInterrupt()

    def __call__(self, folder: Path, graph: Any, *rest: Any) -> dict[str, Any]:
        self.append(graph.name)
        if graph.name == "vae_decoder" and self.count("vae_decoder") == 1:
            (folder / "vae_decoder.onnx").write_bytes(b"half")
            raise self.error
        return self.write(folder, graph, *rest)


def made_up(folder: Path, name: str) -> dict[str, Any]:
    """Write a component's two files, and return their entry."""
    artifact, golden = folder / f"{name}.onnx", folder / "golden" / name
    golden.parent.mkdir(exist_ok=True)
    artifact.write_text(name)
    golden.write_text(f"golden {name}")
    return file_entry(folder, artifact) | {"golden": file_entry(folder, golden)}


def passed(made: Bundle, on_progress: object) -> list[CheckRow]:
    names = [*made.manifest["components"], "pipeline"]
    return [CheckRow(name, "", "", "passed", "", (), Tolerance(1.0, 1.0), 0.0, 0.0) for name in names]


def golden_image(pipeline: Any, layout: Any, stack: Any, size: ImageSize, path: Path, tile: int) -> dict[str, Any]:
    path.parent.mkdir(exist_ok=True)
    path.write_text("image")
    return {"prompt": "p", "seed": 1, "steps": 1, "guidance": 1.0}


class Unread(Bundle):
    """A bundle whose manifest is not held against the schema: its components are made up."""

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Unread:
        return cls(Path(path), {})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """An export whose parts are small files, since a real one takes a minute."""
    names = Written(lambda folder, graph, *rest: made_up(folder, graph.name))
    monkeypatch.setattr(bundle, "write_component", names)
    monkeypatch.setattr(bundle, "check_all", passed)
    monkeypatch.setattr(bundle, "Bundle", Unread)
    monkeypatch.setattr(write, "write_golden_image", golden_image)
    return names


def interrupted(base: Path, out: Path) -> Path:
    """Return the folder that an interrupted export leaves."""
    with pytest.raises(KeyboardInterrupt):
        export(base, out)
    assert not out.exists()
    return hidden(out)


def hidden(out: Path) -> Path:
    """The folder in which an export works."""
    return out.parent / f".{out.name}.unfinished"


@pytest.mark.full
def test_a_real_export_goes_on_and_makes_the_same_bytes(
    shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(shallow_pipeline, tmp_path / "whole" / "bundle")
    monkeypatch.setattr(bundle, "write_component", Written(bundle.write_component))
    interrupted(shallow_pipeline, tmp_path / "bundle")
    assert export(shallow_pipeline, tmp_path / "bundle") == whole
    Bundle.open(tmp_path / "bundle")


def test_it_goes_on(shallow_pipeline: Path, written: Written, tmp_path: Path) -> None:
    interrupted(shallow_pipeline, tmp_path / "bundle")
    assert written == PARTS
    files = export(shallow_pipeline, tmp_path / "bundle")
    assert written == [*PARTS, "vae_decoder"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"] and STATE not in files
    # The second time nothing is interrupted: the same from beginning to end.
    assert export(shallow_pipeline, tmp_path / "other") == files
    assert written == [*PARTS, "vae_decoder", *PARTS]


def damage_a_part(left: Path) -> None:
    data = (left / "unet.onnx").read_bytes()
    (left / "unet.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def damage_a_golden_file(left: Path) -> None:
    (left / "golden" / "unet").write_text("golden other")


def lose_a_golden_file(left: Path) -> None:
    (left / "golden" / "text_encoder").unlink()


def damage_the_state(left: Path) -> None:
    (left / STATE).write_text("{")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (damage_a_part, ["unet", "vae_decoder"]),
        (damage_a_golden_file, ["unet", "vae_decoder"]),
        (lose_a_golden_file, ["text_encoder", "vae_decoder"]),
        (damage_the_state, PARTS),
    ],
)
def test_what_does_not_fit_is_made_again(
    shallow_pipeline: Path, written: Written, tmp_path: Path, change: Callable[[Path], None], again: list[str]
) -> None:
    change(interrupted(shallow_pipeline, tmp_path / "bundle"))
    files = export(shallow_pipeline, tmp_path / "bundle")
    assert written == [*PARTS, *again]
    assert files["unet.onnx"] == b"unet" and files["golden/unet"] == b"golden unet"


@pytest.mark.parametrize(
    ("file", "change"),
    [("model_index.json", {"force_zeros_for_empty_prompt": False}), ("vae/config.json", {"scaling_factor": 0.5})],
)
def test_a_base_of_the_same_weights_with_another_config_is_another(
    shallow_pipeline: Path, written: Written, tmp_path: Path, file: str, change: dict[str, Any]
) -> None:
    base = shutil.copytree(shallow_pipeline, tmp_path / "bases" / "base")
    interrupted(base, tmp_path / "bundle")
    config = base / file
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    export(base, tmp_path / "bundle")
    assert written == [*PARTS, *PARTS]


def test_it_goes_on_with_what_no_file_depends_on_changed(
    shallow_pipeline: Path, written: Written, tmp_path: Path
) -> None:
    """As where a check was stopped that takes hours."""
    interrupted(shallow_pipeline, tmp_path / "bundle")
    files = export(shallow_pipeline, tmp_path / "bundle", 5, 2.0, unchecked=True)
    assert written == [*PARTS, "vae_decoder"]
    made = json.loads(files["manifest.json"])
    assert (made["pipeline"]["steps"], made["pipeline"]["guidance"]) == (5, 2.0)
    assert made["components"]["unet"]["parity"]["status"] == "not_run"


def test_it_goes_on_where_the_folder_could_not_be_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched, pytest.raises(OSError) as caught:
        patched.setattr(resume, "replace_folder", refused)
        with unfinished_folder(tmp_path / "bundle", {}) as work:
            keep(work, "unet")
    assert "goes on from it" in "".join(caught.value.__notes__)
    with unfinished_folder(tmp_path / "bundle", {}) as work:
        assert work.kept("unet")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "unet"]


def test_what_a_killed_export_left_half_made_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), unfinished_folder(tmp_path / "bundle", {}) as work:
        keep(work, "unet")
        (work.folder / "lorarar-1" / "graph").mkdir(parents=True)
        (work.folder / "lorarar-1" / "graph" / "weights.bin").write_text("half")
        raise KeyboardInterrupt
    with unfinished_folder(tmp_path / "bundle", {}):
        pass
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["unet"]


def test_every_package_that_makes_artifacts_counts() -> None:
    """Two versions of one may not make a bundle together."""
    distributions = packages_distributions()
    used = {package for target in TARGETS.values() for package in target.packages} | {"coreai_opt", "torchao", "peft"}
    assert {name for package in used for name in distributions.get(package, ())} <= toolchain_versions().keys()


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(errno.ENOSPC, "No space left on device"), MemoryError(), RuntimeError("XNNPACK"), AssertionError()),
        CutShort("its process ended by signal 9"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_finished_outlives_an_error(
    shallow_pipeline: Path, tmp_path: Path, written: Written, error: Exception
) -> None:
    """Such as a disk that is full in a 14 GB export."""
    written.error = error
    with pytest.raises(type(error)) as caught:
        export(shallow_pipeline, tmp_path / "bundle")
    left = hidden(tmp_path / "bundle")
    assert str(left) in "".join(caught.value.__notes__)
    # What was half written takes no space.
    assert sorted(path.name for path in left.glob("*.onnx")) == sorted(f"{name}.onnx" for name in PARTS[:-1])
    export(shallow_pipeline, tmp_path / "bundle")
    assert written == [*PARTS, "vae_decoder"] and [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [InputError("no"), FailedCheck("not equal")], ids=["input", "check"])
def test_nothing_is_left_where_the_same_command_would_end_again(
    shallow_pipeline: Path, tmp_path: Path, written: Written, error: Exception
) -> None:
    written.error = error
    with pytest.raises(type(error), match=str(error)):
        export(shallow_pipeline, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "waits"), [("failed", False), ("not_run", True)])
def test_what_could_not_be_checked_waits(
    shallow_pipeline: Path,
    tmp_path: Path,
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    waits: bool,
) -> None:
    """As where the system ended the process of a check to have its memory."""
    written.append("vae_decoder")  # nothing is stopped
    row = CheckRow("unet", "", "", status, "its process ended by signal 9", (), Tolerance(1.0, 1.0))
    monkeypatch.setattr(bundle, "check_all", check_all)
    monkeypatch.setattr(bundle, "check_component", lambda *_: [row])
    with pytest.raises(FailedCheck, match="signal 9; no bundle was written"):
        export(shallow_pipeline, tmp_path / "bundle")
    assert hidden(tmp_path / "bundle").exists() == waits


def test_an_error_before_anything_is_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError), unfinished_folder(tmp_path / "bundle", {}):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_written_once_and_files_are_hashed_once(
    shallow_pipeline: Path, tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.append("vae_decoder")  # nothing is stopped
    hashed, manifests = [], []
    tree, real = bundle.tree_sha256, bundle.write_manifest
    monkeypatch.setattr(bundle, "tree_sha256", lambda path: hashed.append(path.name) or tree(path))
    monkeypatch.setattr(bundle, "write_manifest", lambda folder, data: manifests.append(data) or real(folder, data))
    files = export(shallow_pipeline, tmp_path / "bundle")
    assert len(manifests) == 1 and json.loads(files["manifest.json"]) == manifests[0]
    assert sorted(hashed) == sorted(Path(name).name for name in files if name != "manifest.json")


def test_two_exports_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with unfinished_folder(out, {"facts": 1}) as work:
        keep(work, "unet")
        with pytest.raises(InputError, match="another export is writing it"), unfinished_folder(out, {"facts": 2}):
            pass
        assert (work.folder / "unet").read_text() == "unet"
    assert (out / "unet").read_text() == "unet" and [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_lock_of_a_killed_export_blocks_nobody(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code = (
        "import os, signal, sys; from pathlib import Path; from export.resume import unfinished_folder\n"
        "with unfinished_folder(Path(sys.argv[1]), {}) as work:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(out)], check=False, env=os.environ | {"PYTHONPATH": "."})
    assert died.returncode == -signal.SIGKILL and (tmp_path / ".bundle.lock").exists()
    with unfinished_folder(out, {}) as work:
        keep(work, "unet")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def keep(work: Unfinished, name: str) -> None:
    (work.folder / name).write_text(name)
    work.keep(name, file_entry(work.folder, work.folder / name))
