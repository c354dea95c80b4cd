"""Export to phones: one call makes a bundle and checks it against PyTorch.

    import export
    report = export.pipeline("miniature", target="onnx", out="bundle")
    report.passed, report.rows

The names are resolved when they are used, so that importing this package loads no toolchain. The modules
`export.hypernet`, `export.unet` and `export.pipeline` are commands for `python -m`: import none of them, since that
would replace the function of the same name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorarar.toolchains import missing_toolchain, quiet_toolchains

if TYPE_CHECKING:
    from export.api import hypernet as hypernet
    from export.api import pipeline as pipeline
    from export.api import unet as unet
    from export.options import HypernetOptions as HypernetOptions
    from export.options import PipelineOptions as PipelineOptions
    from export.options import Report as Report
    from export.options import Source as Source
    from export.options import UNetOptions as UNetOptions
    from export.write import write_hypernet as write_hypernet
    from export.write import write_pipeline as write_pipeline
    from export.write import write_unet as write_unet

_HOMES = {
    **dict.fromkeys(("hypernet", "unet", "pipeline"), "export.api"),
    **dict.fromkeys(("write_hypernet", "write_unet", "write_pipeline"), "export.write"),
    **dict.fromkeys(("Report", "Source", "HypernetOptions", "UNetOptions", "PipelineOptions"), "export.options"),
}
__all__ = [*_HOMES]  # noqa: PLE0604
_TOOLCHAINS = ("torch", "diffusers", "transformers")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; InputError names the extra to install when a toolchain is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        with quiet_toolchains():
            found = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _TOOLCHAINS:
            raise
        raise missing_toolchain(package, "train") from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
