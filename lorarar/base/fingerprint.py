"""Tell networks apart by a few numbers of every weight."""

from __future__ import annotations

import hashlib

from torch import nn


def fingerprint(network: nn.Module) -> str:
    """Digest the first few numbers of every weight, which tells a retrained network from the old one in no time."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        first = tensor.detach().flatten()[:16].float().cpu().numpy()
        digest.update(name.encode() + bytes(str(tuple(tensor.shape)), "ascii") + first.tobytes())
    return digest.hexdigest()[:16]
