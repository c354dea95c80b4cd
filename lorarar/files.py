"""Write files and folders that are never half there, and read JSON that may come from a stranger."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lorarar.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def check_lora_output(output: Path, *inputs: Path) -> None:
    """Refuse an output path that is no safetensors file, and as `check_output`."""
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: a LoRA is written as a safetensors file; end its name with .safetensors")
    check_output(output, *inputs)


def check_png(output: Path, *inputs: Path) -> None:
    """Refuse an output path that is no PNG by its name, and as `check_output`."""
    if output.suffix.lower() != ".png":
        raise InputError(f"{output}: the image is a PNG; end its name with .png")
    check_output(output, *inputs)


def check_json(output: Path, *inputs: Path) -> None:
    """Refuse an output path that is no JSON by its name, and as `check_output`."""
    if output.suffix.lower() != ".json":
        raise InputError(f"{output}: it is written as JSON; end its name with .json")
    check_output(output, *inputs)


def check_checkpoint_name(output: Path) -> None:
    """Refuse a name that is not a checkpoint's."""
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: a checkpoint is written as a safetensors file; end its name with .safetensors")


def check_output(output: Path, *inputs: Path) -> None:
    """Refuse an output path that is a folder, can't be written, or would overwrite an input."""
    _check_replaceable(output)
    place = resolved(output)
    for given in inputs:
        # A PEFT folder is an input as a whole: writing into it, or making a folder in it, would change what it holds.
        if resolved(given) in (place, *(place.parents if given.is_dir() else [])):
            raise InputError(f"{output}: writing there would overwrite the input {given}; choose another output")
        if output.exists() and given.exists() and output.samefile(given):
            raise InputError(f"{output}: this is the same file as the input {given}; choose another output")
    _check_writable(output, place.parent)


def check_folder(folder: Path, *files: str) -> None:
    """Refuse a folder of outputs that is a file or can't be written in, and one with a folder in place of `files`."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give a folder")
    _check_writable(folder, resolved(folder))
    for name in files:
        check_output(folder / name)


def _check_replaceable(output: Path) -> None:
    if output.is_dir():
        raise InputError(f"{output}: this is a folder; give the name of a file")
    if output.exists() and not output.is_file():  # a rename would put a file in its place
        raise InputError(f"{output}: this is a device or a pipe; give the name of a file")


def _check_writable(output: Path, folder: Path) -> None:
    # The folder is made when something is written, which may be hours from now.
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{output}: nothing can be written in {there}; choose another output")


def resolved(path: Path) -> Path:
    """Return a path with its links followed; InputError where they lead in a circle."""
    try:
        path.stat()
    except OSError as error:
        # Not left to resolve(), which raises a RuntimeError or, from Python 3.13, nothing.
        if error.errno == errno.ELOOP:
            raise InputError(f"{path}: its links lead in a circle; correct them, or give another path") from None
    return path.resolve()


def whole(*folders: Path) -> list[Path]:
    """Return folders and all that is in them, as the inputs of `check_output`."""
    return [path for folder in folders for path in (folder, *folder.rglob("*"))]


def in_utf8(text: str) -> str:
    """Return a text with `?` in the place of lone surrogates, as a file's name in another encoding has."""
    return text.encode("utf-8", "replace").decode()


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written in UTF-8, which lone surrogates can't."""
    return text == in_utf8(text)


def check_text(name: str, text: str) -> None:
    """Refuse what is no text, and lone surrogates, which stand for the bytes of a command line that are not UTF-8."""
    if not isinstance(text, str):
        raise InputError(f"`{name}` is {text!r}; give a text")
    if not is_utf8(text):
        raise InputError(f"`{name}` is {text!r}, which no tokenizer reads; write it in UTF-8")


def _temporary(path: Path) -> str:
    """Return how the hidden name begins of what will become `path`: a name may have 255 bytes, 4 a character."""
    return f".{path.name[:40]}."


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on any failure.

    Where `path` is a link, what it leads to is written. Raises InputError for a folder, a device or a pipe.
    """
    _check_replaceable(path)
    # The given name's, by which libraries tell a format; none of theirs is so long, and a name may have 255 bytes.
    suffix, path = path.suffix if len(path.suffix) <= 20 else "", resolved(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_temporary(path), suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _permit(temporary, 0o666)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` on success and disappears on any failure.

    Where `path` is a link, the folder that it leads to is replaced.
    """
    path = resolved(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_temporary(path), dir=path.parent))
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(made: Path, path: Path) -> None:
    """Rename a finished folder to `path`, beside which it lies; what was there is removed."""
    _permit(made, 0o777)
    if not path.exists():
        made.replace(path)
        return
    old = Path(tempfile.mkdtemp(prefix=_temporary(path) + "old.", dir=path.parent))
    try:
        path.replace(old / path.name)
        made.replace(path)
    finally:
        if not path.exists():  # an error or interrupt between the two
            (old / path.name).replace(path)
        shutil.rmtree(old)


def _permit(path: Path, mode: int) -> None:
    """Give a path the permissions of any new file or folder: tempfile makes both private to the user."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write torch tensors into a safetensors file; OSError as any write, where safetensors' own names no cause."""
    from safetensors.torch import save

    path.write_bytes(save(dict(tensors), None if metadata is None else dict(metadata)))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, *, what: str, mend: str, schema: Mapping[str, Any] | None = None, limit: int = 2**20) -> Any:
    """Read a JSON file that may come from a stranger, and check it.

    `what` the file is and how to `mend` it (an imperative clause, such as "export the bundle again") go into the error.
    `limit` is the largest size in bytes. `schema` is a JSON Schema (draft 2020-12). Raises InputError when the file is
    missing, too large, not UTF-8 JSON (NaN and infinities, which Python reads, are not JSON), has a key twice or breaks
    the schema.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; {mend}")
    size = path.stat().st_size
    if size > limit:
        raise InputError(f"{path}: {size:,} bytes is too large for {what} (at most {limit:,}); {mend}")
    return parse_json(path.read_bytes(), str(path), mend=mend, schema=schema)


def parse_json(text: str | bytes, name: str, *, mend: str, schema: Mapping[str, Any] | None = None) -> Any:
    """Parse JSON that came from `name` and check it against a schema; InputError as `read_json`."""
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        data = json.loads(decoded, object_pairs_hook=once, parse_constant=no_constant)
    except RepeatedKey as error:
        raise InputError(f"{name}: it has the key {error.key[:100]!r} twice; {mend}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{name}: not valid JSON; {mend}") from None
    if schema is not None:
        check_schema(data, schema, name, mend)
    return data


def check_schema(data: object, schema: Mapping[str, Any], name: str, mend: str) -> None:
    """Check data against a JSON Schema; InputError names the place in `name` that breaks it, and the best reason."""
    import jsonschema

    try:
        error = jsonschema.exceptions.best_match(_validator()(schema).iter_errors(data))
    except RecursionError:
        raise InputError(f"{name}: it is nested too deeply; {mend}") from None
    if error is not None:
        message = error.message if len(error.message) < 200 else error.message[:200] + "…"
        raise InputError(f"{name}: {error.json_path} breaks the schema ({message}); {mend}")


@cache
def _validator() -> Any:
    """Return what checks schemas.

    JSON Schema takes 2.0 for an integer, and Python's `range` does not: it is none. Nor is a number what no double
    holds, such as 1e999 or a whole number of 400 digits, nor a text what can't be written in UTF-8: JSON can escape
    half of a pair of surrogates.
    """
    from jsonschema import Draft202012Validator, validators

    kinds = {
        "integer": lambda _, value: type(value) is int and _is_double(value),
        "number": lambda _, value: _is_double(value),
        "string": lambda _, value: isinstance(value, str) and is_utf8(value),
    }
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(kinds)
    return validators.extend(Draft202012Validator, type_checker=types)


def _is_double(value: object) -> bool:
    """Tell whether a value is a finite number of a double's range, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def package_schema(package: str, name: str) -> Mapping[str, Any]:
    """Read a JSON Schema that is shipped as a file of one of our packages."""
    schema: Mapping[str, Any] = json.loads((resources.files(package) / name).read_text(encoding="utf-8"))
    return schema


class RepeatedKey(ValueError):
    """An object of a JSON text with a key twice, of which Python's parser takes the last."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its keys and values, for Python's parser as its `object_pairs_hook`; or RepeatedKey."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RepeatedKey(key)
        found[key] = value
    return found


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and infinities, which Python's parser takes though they are not JSON; its `parse_constant`."""
    raise ValueError(f"{name} is not JSON")
