"""An `.mlpackage` on disk: `Manifest.json` → the model specification (Core ML's Model.proto), and its weights files."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lorarar.errors import InputError
from lorarar.files import read_json
from lorarar.toolchains import missing_toolchain
from runtime_py.mil.blob import Blob, WeightsFile
from runtime_py.mil.compiled import PROGRAM, read_compiled
from runtime_py.mil.values import TensorType

MODEL_PATH = "@model_path/"
LARGEST_MODEL = 1 << 31  # bytes
_ALIAS = "_coreml_proto"


@dataclass
class Package:
    """The parsed specification and the folder that its weights are relative to."""

    root: Path
    spec: Any  # CoreML.Specification.Model
    folder: Path
    _files: dict[str, WeightsFile] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Package:
        """Read a package; raises InputError unless it holds an ML program, or a pipeline of such."""
        package = cls.read(path)
        for part in package.parts:
            kind = part.WhichOneof("Type")
            if kind != "mlProgram":
                raise InputError(f"{path} holds a Core ML {kind or 'model without a type'}; convert it as an mlprogram")
        return package

    @classmethod
    def read(cls, path: Path) -> Package:
        """Read a package, a single `.mlmodel` file, or a compiled program, whatever kind of model it holds."""
        if (path / PROGRAM).is_file():
            return cls(path, read_compiled(path, _proto_parser().Model), path)
        model = path if path.suffix == ".mlmodel" and path.is_file() else _model_file(path)
        # What protobuf reads at most; weights lie beside the model.
        if (size := model.stat().st_size) >= LARGEST_MODEL:
            raise InputError(
                f"{model} has {size / 2**30:.1f} GiB, and a model's file less than 2; copy or export it again"
            )
        parser = _proto_parser()
        try:
            spec = parser.Model.FromString(model.read_bytes())
        # protobuf's DecodeError, whose module this package must not import before it is needed.
        except Exception as error:
            raise InputError(f"{model} is not a Core ML model; copy or export the package again") from error
        return cls(path, spec, model.parent)

    @property
    def parts(self) -> list[Any]:
        """The specifications with programs, in running order: a pipeline's models, or the one."""
        return list(self.spec.pipeline.models) if self.spec.WhichOneof("Type") == "pipeline" else [self.spec]

    def blob(self, name: str, offset: int, kind: TensorType, what: str) -> Blob:
        """Return a blob by the file name and offset that the program gives; the file must lie in the package."""
        if name not in self._files:
            path = _inside(self.root, self.folder / name.removeprefix(MODEL_PATH))
            if not name.startswith(MODEL_PATH) or path is None:
                raise InputError(f"{self.root}: {what} points outside the package ({name!r}); do not use this package")
            self._files[name] = WeightsFile(path)
        return self._files[name].blob(offset, kind, what)


@contextmanager
def one_sentence(path: Path | str) -> Iterator[None]:
    """Refuse, with InputError, what a damaged package makes the block fail of: sizes and names that contradict."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, MemoryError, OverflowError, RecursionError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged or contradicts itself ({said}); copy or export it again") from None


def _model_file(path: Path) -> Path:
    manifest = path / "Manifest.json"
    if not manifest.is_file():
        raise InputError(f"{path} is not an .mlpackage (it has no Manifest.json); give the package's folder")
    try:
        data = read_json(manifest, what="a package's manifest", mend="copy or export the package again")
        model = path / "Data" / data["itemInfoEntries"][data["rootModelIdentifier"]]["path"]
    except (KeyError, TypeError):
        raise InputError(f"{manifest} names no root model; copy or export the package again") from None
    if _inside(path, model) is None:
        raise InputError(f"{manifest} points outside the package; do not use this package")
    if not model.is_file():
        raise InputError(f"{model} is missing; copy or export the whole package")
    return model


def _inside(root: Path, path: Path) -> Path | None:
    """Return where a path leads, None unless that is within the root: a NUL and a circle of links lead nowhere."""
    try:
        resolved = path.resolve()
    except (ValueError, RuntimeError, OSError):
        return None
    return resolved if resolved.is_relative_to(root.resolve()) else None


def _proto_parser() -> ModuleType:
    """Import the protobuf module of Model.proto.

    Importing it as `coremltools.proto` would first import coremltools itself, which takes 7 s and brings torch.
    The generated modules refer to each other relatively and need nothing else, so they are imported alone.
    """
    if "coremltools" in sys.modules:
        return importlib.import_module("coremltools.proto.Model_pb2")
    if _ALIAS not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise missing_toolchain("coremltools", "coreml")
        package = sys.modules[_ALIAS] = ModuleType(_ALIAS)
        package.__path__ = [f"{folder}/proto" for folder in found.submodule_search_locations]
    return importlib.import_module(f"{_ALIAS}.Model_pb2")
