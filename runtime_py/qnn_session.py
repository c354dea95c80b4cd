"""ONNX Runtime with Qualcomm's provider, whose libraries the user installs: `onnxruntime-qnn`.

Sessions are opened in processes of their own, since the compiler and the emulator end theirs when they fail.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.toolchains import import_onnxruntime

PROVIDER = "QNNExecutionProvider"
MODEL, CONTEXT = "model.onnx", "model_qnn.bin"
"""The files of an artifact: the graph, of one node, and the context that it runs."""
_NO_FALLBACK = {"session.disable_cpu_ep_fallback": "1"}


def require_qnn() -> None:
    """Import the provider. Raises ModuleNotFoundError where it is missing, and InputError where there is none."""
    if (platform.system(), platform.machine()) not in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Windows", "AMD64")):
        raise InputError(
            f"Qualcomm has no onnxruntime-qnn for {platform.system()} on {platform.machine()}; use Linux or Windows"
        )
    import_onnxruntime()
    import onnxruntime_qnn  # noqa: F401


def sdk_version() -> str:
    """Return the version of Qualcomm's libraries (QAIRT) in the provider's package, which contexts are made by."""
    from onnxruntime_qnn.build_and_package_info import qnn_version

    return str(qnn_version)


def open_session(model: Path, provider: Mapping[str, str], entries: Mapping[str, str] | None = None) -> Any:
    """Open a session in which the NPU, or its emulator, runs every node of the graph.

    `provider` are options of QNN's provider, `entries` of the session. Raises ONNX Runtime's errors, which derive from
    no class of their own.
    """
    ort = import_onnxruntime()
    import onnxruntime_qnn

    ort.set_default_logger_severity(3)
    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    options = ort.SessionOptions()
    for name, value in (_NO_FALLBACK | dict(entries or {})).items():
        options.add_session_config_entry(name, value)
    htp = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    options.add_provider_for_devices(devices[:1], htp | dict(provider))
    return ort.InferenceSession(str(model), options)
