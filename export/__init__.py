"""Export to phones: one call makes a bundle and checks it against PyTorch.

    import export
    report = export.pipeline("miniature", target="onnx", out="bundle")
    report.passed, report.rows

The names are resolved when they are used, so that importing this package loads no toolchain. The modules
`export.hypernet`, `export.unet` and `export.pipeline` are commands for `python -m`: import none of them, since that
would replace the function of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lorarar.toolchains import TRAINING, lazy_names, named_if_missing

if TYPE_CHECKING:
    from export.api import hypernet, pipeline, unet
    from export.options import Report

__all__ = ["Report", "hypernet", "pipeline", "unet"]
_find = lazy_names(__name__, {"export.api": ["hypernet", "pipeline", "unet"], "export.options": ["Report"]})


def __getattr__(name: str) -> Any:
    with named_if_missing(TRAINING, "train"):
        return _find(name)


def __dir__() -> list[str]:
    return __all__
