"""Hundreds of damaged and hostile LoRA files, made of a golden one.

Every mutation says what must happen: `refuse`, `same` (nothing lost) or `changed` (a valid file with other numbers).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator

import make_golden_lora as golden
import numpy as np

from lorarar.lora.safetensors_file import BITS, MAX_HEADER_VALUES
from lorarar.lora.tensors import FLOATS

SOURCE = (golden.FOLDER / "kohya-sgm.safetensors").read_bytes()
LENGTH = int.from_bytes(SOURCE[:8], "little")
HEADER: dict[str, dict] = json.loads(SOURCE[8 : 8 + LENGTH])
DATA = SOURCE[8 + LENGTH :]
FIRST = next(iter(HEADER))
DOWNS = [name for name in HEADER if name.endswith("lora_down.weight")]

Mutation = tuple[str, str, bytes]  # id, verdict, the file


def pack(header: object, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_entry(name: str, **fields: object) -> bytes:
    return pack(HEADER | {name: HEADER[name] | fields})


def with_tensor(name: str, dtype: str, values: np.ndarray) -> bytes:
    """The golden file with one tensor replaced, everything else consistent."""
    tensors = {}
    for other, entry in HEADER.items():
        begin, end = entry["data_offsets"]
        tensors[other] = ("F16", np.frombuffer(DATA[begin:end], "<f2").reshape(entry["shape"]))
    return golden.safetensors(tensors | {name: (dtype, values)})


def values_of(name: str) -> np.ndarray:
    begin, end = HEADER[name]["data_offsets"]
    return np.frombuffer(DATA[begin:end], "<f2").reshape(HEADER[name]["shape"]).astype(np.float64)


def flips() -> Iterator[Mutation]:
    """A flipped bit in length or header breaks the JSON, a name's pair or the layout; in the data, a value."""
    draw = random.Random(1)
    for place in [*range(8), *sorted(draw.sample(range(8, 8 + LENGTH), 90))]:
        bit = draw.randrange(8)
        yield f"flip-header-{place}-{bit}", "refuse", flipped(place, bit)
    for place in sorted(draw.sample(range(8 + LENGTH, len(SOURCE)), 12)):
        # Factors are below 1, so one flipped bit makes no infinity.
        yield f"flip-data-{place}", "changed", flipped(place, draw.randrange(8))


def flipped(place: int, bit: int) -> bytes:
    data = bytearray(SOURCE)
    data[place] ^= 1 << bit
    return bytes(data)


def cuts() -> Iterator[Mutation]:
    draw = random.Random(2)
    for size in sorted(
        {0, 1, 7, 8, 9, 8 + LENGTH - 1, 8 + LENGTH, len(SOURCE) - 1, *draw.sample(range(len(SOURCE)), 30)}
    ):
        yield f"cut-{size}", "refuse", SOURCE[:size]
    for more in (1, 8, 4096):
        yield f"longer-{more}", "refuse", SOURCE + bytes(more)


def offsets() -> Iterator[Mutation]:
    begin, end = HEADER[DOWNS[0]]["data_offsets"]
    for offset in (
        [begin + 2, end + 2], [begin - 2, end - 2], [end, begin], [begin, end + 2], [begin, end - 2], [-2, end],
        [begin, len(DATA) + 2], [begin, 10**18], [begin, 2**64], [begin, 10**30], [begin], [begin, end, end], [],
        [float(begin), float(end)], [str(begin), str(end)], [None, end], [True, end], {"begin": begin}, "0", None,
    ):  # fmt: skip
        yield f"offsets-{offset}", "refuse", with_entry(DOWNS[0], data_offsets=offset)
    second = HEADER[DOWNS[1]]
    yield (
        "offsets-of-another",
        "refuse",
        with_entry(DOWNS[0], shape=second["shape"], data_offsets=second["data_offsets"]),
    )
    shifted = {
        name: entry | {"data_offsets": [offset + 16 for offset in entry["data_offsets"]]}
        for name, entry in HEADER.items()
    }
    yield "gap-before-the-first", "refuse", pack(shifted, bytes(16) + DATA)


def shapes() -> Iterator[Mutation]:
    for shape in (
        [10**9], [10**9, 10**9], [2**32, 2**32], [2**31, 2**31, 4], [2**63], [2**64, 0], [4, -8], [-4, -8],
        [4, 8.0], [4, "8"], [True, 32], [4, None], [[4, 8]], [], [4], [1] * 9, [1] * 100_000,
        [10**9] * 100_000, None, 32, "4,8", {"0": 4},
    ):  # fmt: skip
        yield f"shape-{str(shape)[:30]}", "refuse", with_entry(DOWNS[0], shape=shape)
    count = math.prod(HEADER[DOWNS[0]]["shape"])
    for shape in ([count], [2, 2, count // 4], [count, 1], [1, count], [1, 1, 1, count], [1] * 8 + [count]):
        yield f"reshaped-{shape}", "refuse", with_entry(DOWNS[0], shape=shape)
    lie = {FIRST: {"dtype": "F32", "shape": [10**9, 1], "data_offsets": [0, 4 * 10**9]}}
    yield "billion-elements-not-there", "refuse", pack(lie, bytes(64))
    yield "rank-0", "refuse", with_tensor(DOWNS[0], "F16", np.zeros((0, 8)))
    for name in DOWNS[:4]:
        yield f"rank-less-{name}", "refuse", with_tensor(name, "F16", np.zeros((9, *HEADER[name]["shape"][1:])))


def dtypes() -> Iterator[Mutation]:
    size = math.prod(HEADER[DOWNS[0]]["shape"])
    for dtype, bits in BITS.items():
        if dtype in FLOATS:
            continue
        # The bytes fit, so it is the dtype alone that is refused.
        header, raw = dict(HEADER), bytes(size * bits // 8)
        header[DOWNS[0]] = header[DOWNS[0]] | {"dtype": dtype, "data_offsets": [len(DATA), len(DATA) + len(raw)]}
        begin, end = HEADER[DOWNS[0]]["data_offsets"]
        filler = {"lora_unet_conv_in.alpha": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}}
        yield f"dtype-{dtype}", "refuse", pack(header | filler, DATA + raw)
    for dtype in ("F32", "BF16", "F64"):
        yield f"dtype-same-{dtype}", "same", with_tensor(DOWNS[0], dtype, values_of(DOWNS[0]))
    for dtype in ("F128", "f16", "", "F16 ", None, 16, ["F16"], "x" * 10_000):
        yield f"dtype-{str(dtype)[:9]!r}", "refuse", with_entry(DOWNS[0], dtype=dtype)


def numbers() -> Iterator[Mutation]:
    draw = random.Random(3)
    for index, name in enumerate(HEADER):
        values = values_of(name)
        bad = (math.nan, math.inf, -math.inf)[index % 3]
        values.reshape(-1)[draw.randrange(values.size)] = bad
        yield f"{bad}-in-{name}", "refuse", with_tensor(name, ("F16", "F32", "F64", "BF16")[index % 4], values)
    yield "zero-down", "changed", with_tensor(DOWNS[0], "F16", np.zeros(HEADER[DOWNS[0]]["shape"]))


def keys() -> Iterator[Mutation]:
    for name in HEADER:
        kept = {other: ("F16", values_of(other)) for other in HEADER if other != name}
        verdict = "changed" if name.endswith("alpha") and values_of(name) != HEADER_RANK[name] else "refuse"
        if name.endswith("alpha") and verdict == "refuse":
            verdict = "same"
        yield f"without-{name}", verdict, golden.safetensors(kept)
    for down in DOWNS:
        up = down.replace("lora_down", "lora_up")
        other = {down: up, up: down}
        swapped = {other.get(name, name): entry for name, entry in HEADER.items()}
        square = HEADER[down]["shape"][1] == HEADER[up]["shape"][0]
        # A square linear's swapped factors are consistent in themselves; comparing with the base refuses them.
        verdict = "changed" if square and len(HEADER[down]["shape"]) == 2 else "refuse"
        yield f"swapped-{down}", verdict, pack(swapped)
    entry = json.dumps(HEADER[FIRST])
    text = json.dumps(HEADER)[:-1] + f', "{FIRST}": {entry}}}'
    yield "key-twice", "refuse", pack(text.encode())
    yield "foreign-key", "same", golden.safetensors({"epoch": ("F32", np.ones(1))} | all_tensors())
    yield "foreign-factor", "refuse", golden.safetensors({"a.lora_A.weight": ("F32", np.ones(1))} | all_tensors())
    yield "half-prefix", "refuse", pack({name.removeprefix("lora_"): entry for name, entry in HEADER.items()})


def all_tensors() -> golden.Tensors:
    return {name: ("F16", values_of(name)) for name in HEADER}


HEADER_RANK = {
    name: HEADER[name.replace(".alpha", ".lora_down.weight")]["shape"][0] for name in HEADER if name.endswith(".alpha")
}


def headers() -> Iterator[Mutation]:
    for name, text in {
        "empty": b"", "null": b"null", "list": b"[]", "string": b'"a"', "number": b"1e999", "open": b"{",
        "text": b"{nonsense}", "latin1": '{"é": 1}'.encode("latin1"), "utf16": '{"a": 1}'.encode("utf-16"),
        "nul": b"{}\0",
        "nan": b'{"a": NaN}',
        "deep-list": b'{"a":' + b"[" * 200_000, "deep-object": b'{"a":' * 200_000, "closed": b"[" * 5000 + b"]" * 5000,
        "long-number": b'{"a": ' + b"9" * 100_000 + b"}", "many": b'{"a": [' + b"0," * (MAX_HEADER_VALUES + 1) + b"0]}",
        "entry-list": b'{"a": []}', "entry-null": b'{"a": null}', "entry-empty": b'{"a": {}}', "trailing": b"{} {}",
        "metadata-number": b'{"__metadata__": {"a": 1}}', "metadata-list": b'{"__metadata__": []}',
        "metadata-null": b'{"__metadata__": null}',
    }.items():  # fmt: skip
        yield f"header-{name}", "refuse", pack(text)
    for field in ("dtype", "shape", "data_offsets"):
        kept = {key: value for key, value in HEADER[FIRST].items() if key != field}
        yield f"entry-without-{field}", "refuse", pack(HEADER | {FIRST: kept})
    yield "entry-with-more", "refuse", with_entry(FIRST, strides=[1])
    for length in (0, 1, LENGTH - 9, LENGTH + 8, len(SOURCE), 10**8, 10**8 + 1, 2**63, 2**64 - 1):
        yield f"header-length-{length}", "refuse", length.to_bytes(8, "little") + SOURCE[8:]
    yield "peft-metadata-no-json", "refuse", pack(HEADER | {"__metadata__": {"lora_adapter_metadata": "{"}})
    deep = {"__metadata__": {"lora_adapter_metadata": "[" * 100_000}}
    yield "peft-metadata-deep", "refuse", pack(HEADER | deep)


def harmless() -> Iterator[Mutation]:
    yield "untouched", "same", SOURCE
    names = list(HEADER)
    random.Random(4).shuffle(names)
    yield "entries-shuffled", "same", pack({name: HEADER[name] for name in names})
    yield "spaces", "same", pack(json.dumps(HEADER, indent=3).encode())
    yield "metadata", "same", pack({"__metadata__": {"ss_tag_frequency": "é" * 50_000}} | HEADER)
    yield "bytes-moved", "same", golden.safetensors({name: all_tensors()[name] for name in names})


def lookalikes() -> Iterator[Mutation]:
    for name, start in {
        "gzip": b"\x1f\x8b\x08\x00", "zip": b"PK\x03\x04\x14\x00", "pickle": b"\x80\x04\x95", "html": b"<!DOCTYPE",
        "lfs": b"version https://git-lfs.github.com/spec/v1\n", "gguf": b"GGUF\x03\0\0\0", "png": b"\x89PNG\r\n\x1a\n",
        "elf": b"\x7fELF\x02\x01\x01\x00", "zeros": bytes(16), "ones": b"\xff" * 16, "json": b'{"a": 1, "b": 2}',
    }.items():  # fmt: skip
        yield f"lookalike-{name}", "refuse", start + DATA
        yield f"lookalike-short-{name}", "refuse", start


GENERATORS = (flips, cuts, offsets, shapes, dtypes, numbers, keys, headers, harmless, lookalikes)
MUTATIONS = [mutation for generator in GENERATORS for mutation in generator()]
