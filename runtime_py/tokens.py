"""A prompt as CLIP's tokens, from the bundle's tokenizer.json (the format of the `tokenizers` library)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lorarar.errors import InputError, said_by
from runtime_py.component import MEND


@dataclass(frozen=True)
class Tokens:
    """A prompt's tokens, padded, and the words that did not fit."""

    ids: Int[np.ndarray, "1 length"]
    cut: str


class ClipTokenizer:
    """Byte-level BPE over lower-case words between a start and an end token, padded to `length`."""

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{path}: not a tokenizer file ({said_by(error)}); {MEND}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.length, self.start, self.end, self.pad = (int(entry[key]) for key in ("length", "start", "end", "pad"))

    def __call__(self, prompt: str) -> Tokens:
        try:
            encoded = self._tokenizer.encode(prompt, add_special_tokens=False)
            known = np.array(encoded.ids, np.int32)
        except Exception as error:  # as above, and an OverflowError of numpy's
            raise InputError(f"{self._path}: the tokenizer can't read this prompt ({said_by(error)}); {MEND}") from None
        room = self.length - 2
        kept = known[:room].tolist()
        cut = prompt[encoded.offsets[room][0] :] if len(encoded.ids) > room else ""
        ids = [self.start, *kept, self.end]
        ids += [self.pad] * (self.length - len(ids))
        return Tokens(np.array([ids], np.int32), cut)
