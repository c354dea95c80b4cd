"""Time merges of whole files: two LoRA files in, one out, against reading and writing the same bytes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.timing import Samples, interleave
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import Layout
from lorarar.lora import read_lora, write_lora
from lorarar.merging import MergeOptions, merge_loras, predict_with
from lorarar.synthetic import synthetic_lora

_DTYPE = "fp16"  # what LoRA files hold


def measure_files(
    layout: Layout, hypernet: Hypernetwork, rank: int, folder: Path, rounds: int
) -> tuple[dict[str, Samples], int]:
    """Return the times of `merge` and of `copy`, and the bytes that each reads and writes.

    The files come from the page cache.
    """
    sources = [folder / "content.safetensors", folder / "style.safetensors"]
    merged, copied = folder / "merged.safetensors", folder / "copied.bin"
    for seed, path in enumerate(sources):
        write_lora(synthetic_lora(layout, rank, seed), path, dtype=_DTYPE)
    options = MergeOptions(predict=predict_with(hypernet))

    def merge_files() -> None:
        content, style = map(read_lora, sources)
        write_lora(merge_loras(content, style, layout, "learned", options).lora, merged, dtype=_DTYPE)

    def copy_files() -> None:
        data = b"".join(path.read_bytes() for path in sources)
        copied.write_bytes(data[: merged.stat().st_size])

    merge_files()
    samples = interleave({"merge": merge_files, "copy": copy_files}, rounds)
    return samples, sum(path.stat().st_size for path in (*sources, merged))
