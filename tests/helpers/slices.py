"""Slices of a checkpoint as several ranks write them, without several ranks."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file


def recut(folder: Path, size: int) -> None:
    """The slices of one process as so many ranks would have written them."""
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    file.unlink()
    for rank in range(size):
        own = {}
        for name, tensor in tensors.items():
            parts = tensor.chunk(size) if tensor.dim() else (tensor,)
            if rank < len(parts):
                own[name] = parts[rank].contiguous()
        save_file(own, folder / f"{rank:05d}-of-{size:05d}.safetensors")
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"size": size}))
