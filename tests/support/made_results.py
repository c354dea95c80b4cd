"""Results made by hand, with images on disk: two contents × two styles, three methods, four images each."""

from __future__ import annotations

from pathlib import Path

from tiny_pipeline import save_image

from lorarar.evaluation.method_names import method_info
from lorarar.evaluation.results import ImageRecord, MergeFacts, PairRecord, Results

# One letter an image: `b`oth, `s`ubject only, `t`echnique (style) only, `n`either.
VERDICTS = {
    "direct": ("bnnn", "ssss", "ttbb", "nnnn"),
    "learned": ("bbbn", "sbsb", "bbbb", "ntsb"),
    "q-only": ("bnnb", "nnnn", "bnbn", "ntsb"),
}


def record(path: str, letter: str) -> ImageRecord:
    subject = (0.9, 0.8, 0.1) if letter in "bs" else (0.9, 0.2, 0.1)
    style = 0.7 if letter in "bt" else 0.5
    controls = {"subject_swapped": 0.1, "style_swapped": 0.2, "style_image_swapped": style}
    return ImageRecord(path, subject, style, controls, {"clip_i": 0.5 + style / 10, "dino": 0.25})


def made_results() -> Results:
    pairs = []
    for number, (content, style) in enumerate((c, s) for c in ("dog", "cat") for s in ("ink", "neon glow")):
        images = {
            method: tuple(
                record(f"images/{method}/{content}--{style}/{index:02d}.png", letter)
                for index, letter in enumerate(letters[number])
            )
            for method, letters in VERDICTS.items()
        }
        merges = {
            "direct": MergeFacts(0.001 * (number + 1), None, 1_000_000),
            "learned": MergeFacts(0.01, 0.005 + 0.001 * number, 2_000_000, 492_034),
            "q-only": MergeFacts(0.01, 0.005, None, 492_034),
        }
        references = tuple(f"references/{content}_{index}.png" for index in range(3))
        prompt = f"a sks {content} in {style} style"
        pairs.append(PairRecord(content, style, prompt, references, f"references/{style}.png", merges, images))
    settings = {"part": "validation", "seed": 0, "embedder": {"kind": "judge", "stands_in": True}}
    return Results(settings, {"name": "scripted"}, tuple(method_info(name) for name in VERDICTS), tuple(pairs))


def save_images(results: Results, folder: Path) -> None:
    """Every image and reference that the results name, in colours of its own."""
    for pair in results.pairs:
        paths = [*pair.subject_references, pair.style_reference]
        paths += [image.image for images in pair.methods.values() for image in images]
        for path in paths:
            save_image(folder / path, seed=sum(path.encode()))
