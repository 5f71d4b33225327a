"""`load_file` as safetensors.torch has it, on weights that `vram serve` holds sealed.

    PYTHONPATH=clients/python:examples/pytorch

    from vram_safetensors import load_file

    weights = load_file("model.safetensors", expect="fsverity:…")
    model.load_state_dict(weights, assign=True)

Nothing is copied, with one exception: a tensor on a GPU that does not lie at a multiple of its
element. `assign=True` keeps it so; without, PyTorch copies into the model's own parameters. The
service knows that the weights are in use until the last tensor is gone.

They are for reading. PyTorch has no read-only tensors: on the emulated device it warns once, and an
in-place operation ends the process (SIGSEGV); on a GPU it ends the CUDA context. Not yet shown on
hardware. For safetensors only: GGUF lists dimensions the other way round.
"""

from __future__ import annotations

from typing import Any, Dict, Union

import torch
from vram_residency import Attachment, CudaTensor, TensorInfo, attach

#: PyTorch's names; one that this PyTorch lacks is refused where a tensor has it.
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "C64": "complex64"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
}


class Weights(Dict[str, Any]):
    """Tensors by name. `attachment` has the record, and knows whether anybody still vouches."""

    def __init__(self, attachment: Attachment) -> None:
        super().__init__()
        self.attachment = attachment


def _place(attachment: Attachment, device: Union[str, "torch.device", None]) -> "torch.device":
    """Where the weights are. ValueError if that is not `device`: they would have to be copied."""
    data = attachment.data
    home = torch.device("cuda", data.device_ordinal) if isinstance(data, CudaTensor) else None
    home = home or torch.device("cpu")
    wanted = home if device is None else torch.device(device)
    if wanted.type != home.type or wanted.index not in (None, home.index):
        raise ValueError(f"the weights are on {home} ({attachment.device_uuid}), not on {wanted}")
    return home


def _tensor(memory: Any, info: TensorInfo, device: "torch.device") -> Any:
    dtype = getattr(torch, _DTYPES.get(info.dtype, ""), None)
    if dtype is None:
        raise TypeError(f"{info.name}: this PyTorch has no type for {info.dtype}")
    if info.byte_length == 0:
        return torch.empty(info.shape, dtype=dtype, device=device)
    if not isinstance(memory, CudaTensor):
        return torch.frombuffer(memory, dtype=dtype).reshape(info.shape)
    flat = torch.as_tensor(memory.for_torch(), device=device)
    if memory.pointer % dtype.itemsize != 0:
        flat = flat.clone()
    return flat.view(dtype).reshape(info.shape)


def load_file(
    name: str, expect: Any, device: Union[str, "torch.device", None] = None, **terms: Any
) -> Weights:
    """The tensors of a sealed shard, where they are. `expect` and `terms` are those of
    `vram_residency.attach`, and so are the errors. `device`: default, where the weights are."""
    attachment = attach(name, expect, **terms)
    try:
        home = _place(attachment, device)
        weights = Weights(attachment)
        for key, info in attachment.tensors.items():
            weights[key] = _tensor(attachment[key], info, home)
        return weights
    except BaseException:
        attachment.close()
        raise
