"""Attach to weights that `vram serve` holds sealed, and read them where they lie (docs/attach.md).

    with attach("model.safetensors", expect="fsverity:…") as m:
        print(m.digest, m.tensors["model.norm.weight"].shape)
        weights = m["model.norm.weight"]

On a GPU `m[name]` has `__cuda_array_interface__`; on the emulated device it is a read-only
memoryview. Nothing is copied. The connection is this process's presence: while it stands, the
service knows that the memory is in use. It stands until `close()`, or until no tensor is left. A
mapping outlives its lease, but then nobody vouches for it: look at `m.lease_ended`.

One file, standard library, Linux, Python >= 3.9. Sizes are bytes. Refusals are `VramError`.
"""

from __future__ import annotations

import argparse
import array
import collections.abc
import contextlib
import ctypes
import fcntl
import json
import math
import mmap
import os
import re
import socket as _socket
import stat
import struct
import sys
import threading
import time
import warnings
import weakref
from typing import Any, Iterator, List, Literal, Mapping, NamedTuple, Optional, Tuple, Type, Union

PROTOCOL_VERSION = 1
ATTACH_SUFFIX = ".attach"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
#: F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE (linux/fcntl.h).
MEMFD_SEALS = 0x1 | 0x2 | 0x4 | 0x10
#: Exit codes of the command line, as `vram` has them (src/cli/exit.ts); any other error is 1.
EXIT_CODES = {"INVALID_ARGUMENT": 2, "SERVICE_UNREACHABLE": 6, "AUDIT_UNAVAILABLE": 7}
EXIT_CODES.update(DIGEST_MISMATCH=3, MEASUREMENT_MISMATCH=3, REGISTRY_CORRUPT=3)
EXIT_CODES.update(SEAL_REFUSED=4, UNAUTHENTICATED=4, FORBIDDEN=4, ABORTED=130)
EXIT_CODES.update(LEASE_NOT_FOUND=5, POLICY_VIOLATION=5, BACKEND_CHANGED=5, DEVICE_UNUSABLE=5)
EXIT_CODES.update(WORKER_STOPPED=5, SHARD_NOT_RESIDENT=5, MEASUREMENT_INVALID=8)
EXIT_CODES.update(VRAM_UNREADABLE=8, DEVICE_LOST=8, DEVICE_STALLED=8)
_SOCKET_PATH_BYTES = 107
_CHUNK_BYTES = 1024 * 1024
_RIGHTS_SPACE = _socket.CMSG_SPACE(4 * 253)  # as many as a message carries: all are closed
#: The typestr of what NumPy has a type for; the bytes of an element, where it has a whole number.
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "C64": "<c8", "BOOL": "|b1", "I8": "|i1"}
_TYPES.update(I64="<i8", I32="<i4", I16="<i2", U64="<u8", U32="<u4", U16="<u2", U8="|u1")
_BYTES = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_BYTES.update({dtype: int(typestr[2:]) for dtype, typestr in _TYPES.items()})


class VramError(Exception):
    """A refusal: `code` is stable (docs/errors.md), `fix` says what to do, `details` is data."""

    def __init__(self, code: str, message: str, fix: str, details: Optional[dict] = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.fix, self.details = code, message, fix, details or {}


class WrongDigest(VramError):
    """DIGEST_MISMATCH: the shard is not the one that was expected; nothing was mapped."""


class MeasurementMismatch(VramError):
    """MEASUREMENT_MISMATCH: the bytes in VRAM are no longer the sealed ones."""


class NotResident(VramError):
    """SHARD_NOT_FOUND, SHARD_NOT_RESIDENT: nothing of this name can be relied on."""


class ServiceUnreachable(VramError):
    """SERVICE_UNREACHABLE: nobody answers in time, or not as a service of this version does."""


class DeviceError(VramError):
    """DEVICE_NOT_FOUND, DEVICE_UNUSABLE, CUDA_FAILED: this process cannot map the GPU's memory."""


_CLASSES: Mapping[str, Type[VramError]] = {
    **{"DIGEST_MISMATCH": WrongDigest, "MEASUREMENT_MISMATCH": MeasurementMismatch},
    **{"SHARD_NOT_FOUND": NotResident, "SHARD_NOT_RESIDENT": NotResident},
    **{"SERVICE_UNREACHABLE": ServiceUnreachable, "DEVICE_NOT_FOUND": DeviceError},
    **{"DEVICE_UNUSABLE": DeviceError, "CUDA_FAILED": DeviceError},
}


def _error(code: str, message: str, fix: str, details: Optional[dict] = None) -> VramError:
    return _CLASSES.get(code, VramError)(code, message, fix, details)


def _require(is_so: Any, what: str) -> None:
    if not is_so:
        fix = "name another socket; if it is the right one, install one version on both sides"
        what = f"what answers is no vram service of this version: {what}"
        raise _error("SERVICE_UNREACHABLE", what, fix)


class _Any:
    """The type of ANY."""


#: For `expect`: whatever is sealed under this name. It has to be said.
ANY = _Any()


class TensorInfo(NamedTuple):
    """A row of the tensor table. `dtype` and `shape` are the file's: safetensors lists the slowest
    dimension first, GGUF the fastest. `offset` counts from the start of the memory, in bytes."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    offset: int
    byte_length: int


class CudaTensor:
    """A tensor in VRAM. Keeps its mapping and the connection.

    `__cuda_array_interface__` (version 3) has its type and shape. What NumPy has no type for (BF16,
    F8, quantised types; see `dtype`), and what does not lie at a multiple of its element, is given
    as bytes: `|u1`, of one dimension. It is flagged read-only: Numba heeds that, CuPy drops it, and
    PyTorch refuses such arrays (pytorch/pytorch issue 32868); give that one `for_torch()`."""

    def __init__(self, mapping: _CudaMapping, info: TensorInfo, read_only: bool = True) -> None:
        self.info, self.dtype, self.device_ordinal = info, info.dtype, mapping.ordinal
        self.pointer = mapping.address + info.offset  #: device address in this process
        self._mapping, self._read_only = mapping, read_only

    @property
    def __cuda_array_interface__(self) -> dict:
        typestr, shape = _TYPES.get(self.dtype), self.info.shape
        if typestr is None or self.pointer % _BYTES[self.dtype] != 0:
            typestr, shape = "|u1", (self.info.byte_length,)
        data = (self.pointer if self.info.byte_length > 0 else 0, self._read_only)
        return {"shape": shape, "typestr": typestr, "data": data, "strides": None, "version": 3}

    def for_torch(self) -> CudaTensor:
        """The same without the flag, for `torch.as_tensor(t, device=f"cuda:{t.device_ordinal}")`;
        another device means a copy. It needs NumPy, and takes no empty tensors. The GPU maps the
        memory read-only all the same: a kernel that stores there, as in-place operations do, ends
        the CUDA context of this process (CUDA_ERROR_ILLEGAL_ADDRESS)."""
        return CudaTensor(self._mapping, self.info, read_only=False)


Tensor = Union[memoryview, CudaTensor]


class _HostMapping(mmap.mmap):
    """A mapped memfd. Views keep it, and it keeps the connection."""

    connection: Optional[_socket.socket] = None

    def __del__(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def tensor(self, info: TensorInfo) -> memoryview:
        return memoryview(self)[info.offset : info.offset + info.byte_length]


def _map_host(connection: Any, descriptor: int, byte_length: int, _uuid: str) -> _HostMapping:
    fix = "do not use it: whoever made it could change or shrink it under its readers"
    try:
        seals, size = fcntl.fcntl(descriptor, 1034), os.fstat(descriptor).st_size  # F_GET_SEALS
    except OSError:
        raise _error("POLICY_VIOLATION", "what came is no memory that can be sealed", fix) from None
    if seals & MEMFD_SEALS != MEMFD_SEALS:
        what = f"the memory has the seals {seals:#x}, and {MEMFD_SEALS:#x} are needed"
        raise _error("POLICY_VIOLATION", what, fix, {"seals": seals})
    if size != byte_length:
        raise _error("POLICY_VIOLATION", f"the memory has {size} bytes, not {byte_length}", fix)
    # Before 3.13 the mapping has a descriptor of its own for as long as it is there.
    how: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    mapping = _HostMapping(descriptor, byte_length, access=mmap.ACCESS_READ, **how)
    mapping.connection = connection
    return mapping


#: Arguments of driver calls: i int, u unsigned, p pointer, h handle or address or flags, s size_t.
_CALLS = {"cuInit": "u", "cuDeviceGetCount": "p", "cuDeviceGet": "pi", "cuDeviceGetName": "pii"}
_CALLS.update(cuDeviceGetUuid_v2="pi", cuDevicePrimaryCtxRetain="pi", cuCtxPushCurrent_v2="p")
_CALLS.update(cuDevicePrimaryCtxRelease_v2="i", cuCtxSynchronize="", cuCtxPopCurrent_v2="p")
_CALLS.update(cuMemImportFromShareableHandle="ppi", cuMemRelease="h", cuMemUnmap="hs")
_CALLS.update(cuMemGetAllocationPropertiesFromHandle="ph", cuMemAddressReserve="psshh")
_CALLS.update(cuMemAddressFree="hs", cuMemMap="hsshh", cuMemSetAccess="hsps", cuGetErrorName="ip")
_KINDS = {"i": ctypes.c_int, "u": ctypes.c_uint, "p": ctypes.c_void_p, "h": ctypes.c_uint64}
_KINDS.update(s=ctypes.c_size_t)
_POSIX_FD, _PINNED, _DEVICE, _READ = 1, 1, 1, 1


class _Cuda:
    """The driver: calls by name, as in cuda.h of CUDA 13.0; all of them are there since 11.4."""

    def __init__(self) -> None:
        path = os.environ.get("VRAM_LIBCUDA") or "libcuda.so.1"
        fix = "install the NVIDIA driver (R470 or newer); correct or unset VRAM_LIBCUDA"
        try:
            self._library = ctypes.CDLL(path)
            for name, kinds in _CALLS.items():
                getattr(self._library, name).argtypes = [_KINDS[kind] for kind in kinds]
            self.call("cuInit", 0)
        except (OSError, AttributeError, VramError) as error:
            raise _error("DEVICE_UNUSABLE", f"no CUDA driver in {path}: {error}", fix) from None

    def call(self, symbol: str, *arguments: Any) -> None:
        status = getattr(self._library, symbol)(*arguments)
        if status != 0:
            name = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(name))
            what = f"{symbol}: {(name.value or b'unknown').decode()} ({status})"
            raise _error("CUDA_FAILED", what, "`vram doctor` checks the device", {"status": status})

    def get(self, symbol: str, kind: str, *arguments: Any) -> Any:
        """What a call writes to its first argument."""
        value: Any = _KINDS[kind]()
        self.call(symbol, ctypes.byref(value), *arguments)
        return value.value

    def release(self, symbol: str, *arguments: Any) -> None:
        """Never raises: what cannot be released must not hide the reason for it."""
        try:
            self.call(symbol, *arguments)
        except VramError as error:
            warnings.warn(f"memory is not released: {error}", ResourceWarning, stacklevel=2)

    def find(self, wanted: str) -> Tuple[int, int]:
        """Ordinal and handle of the device with this UUID, among those that this process sees."""
        seen = []
        for ordinal in range(self.get("cuDeviceGetCount", "i")):
            device = self.get("cuDeviceGet", "i", ordinal)
            uuid, name = (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(256)
            self.call("cuDeviceGetUuid_v2", uuid, device)
            self.call("cuDeviceGetName", name, 256, device)
            # No attribute tells a MIG slice; its name does ("… MIG 1g.10gb").
            kind = "MIG" if re.search(rb" MIG \d", name.value) else "GPU"
            pattern = f"{kind}-\\1-\\2-\\3-\\4-\\5"
            seen.append(re.sub("(.{8})(.{4})(.{4})(.{4})(.{12})", pattern, bytes(uuid).hex()))
            if seen[-1] == wanted:
                return ordinal, device
        what = f"the weights are on {wanted}; this process sees {', '.join(seen) or 'no GPU'}"
        fix = "make that GPU visible: CUDA_VISIBLE_DEVICES; the GPUs a container is given"
        raise _error("DEVICE_NOT_FOUND", what, fix, {"deviceUuid": wanted, "visible": seen})

    def unmap(self, context: int, steps: contextlib.ExitStack) -> None:
        """Waits for kernels that may be reading, then releases. Where it cannot wait, the memory
        stays mapped until the process ends: a leak is better than a dangling pointer."""
        try:
            self.call("cuCtxPushCurrent_v2", context)
            try:
                self.call("cuCtxSynchronize")
            finally:
                self.get("cuCtxPopCurrent_v2", "p")
        except VramError as error:
            warnings.warn(f"memory stays mapped: {error}", ResourceWarning, stacklevel=2)
        else:
            steps.close()


class _CudaMapping:
    """An allocation of another process, mapped on its own GPU for reading. Tensors keep it, and it
    keeps the connection. What fails is undone in reverse; the descriptor is the caller's."""

    def __init__(self, connection: Any, descriptor: int, byte_length: int, uuid: str) -> None:
        cuda = _Cuda()
        self.ordinal, device = cuda.find(uuid)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            context = cuda.get("cuDevicePrimaryCtxRetain", "p", device)
            undo.callback(cuda.release, "cuDevicePrimaryCtxRelease_v2", device)
            handle = cuda.get("cuMemImportFromShareableHandle", "h", descriptor, _POSIX_FD)
            undo.callback(cuda.release, "cuMemRelease", handle)
            place = (ctypes.c_int32 * 8)()  # CUmemAllocationProp: type, …, location's type and id
            cuda.call("cuMemGetAllocationPropertiesFromHandle", place, handle)
            if (place[0], place[2], place[3]) != (_PINNED, _DEVICE, device):
                what = f"the memory that came is not pinned memory of {uuid}"
                raise _error("POLICY_VIOLATION", what, "do not use it: it lies elsewhere")
            self.address = cuda.get("cuMemAddressReserve", "h", byte_length, 0, 0, 0)
            undo.callback(cuda.release, "cuMemAddressFree", self.address, byte_length)
            cuda.call("cuMemMap", self.address, byte_length, 0, handle, 0)
            undo.callback(cuda.release, "cuMemUnmap", self.address, byte_length)
            access = (ctypes.c_int32 * 3)(_DEVICE, device, _READ)  # CUmemAccessDesc
            cuda.call("cuMemSetAccess", self.address, byte_length, access, 1)
            # Not at exit: the driver cleans up by itself, and others may still be reading.
            weakref.finalize(self, cuda.unmap, context, undo.pop_all()).atexit = False

    def tensor(self, info: TensorInfo) -> CudaTensor:
        return CudaTensor(self, info)


class Attachment(collections.abc.Mapping):
    """Mapped weights, by name: `m[name]` is a tensor, `m.tensors[name]` what is known of it. A
    context manager, made by `attach`. Tensors stay mapped after `close()` until the last of them is
    gone; but from then on the service may evict what they show."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[assignment]

    def __init__(self, grant: dict, tensors: dict, connection: Any, mapping: Any) -> None:
        self.record: dict = grant["record"]  #: public record (docs/api.md)
        self.seal: dict = grant["seal"]  #: docs/seal.md
        self.lease: dict = grant["lease"]
        #: The measurement; None if a lease was presented and none was asked for.
        self.verification: Optional[dict] = grant.get("verification")
        self.tensors: Mapping[str, TensorInfo] = tensors
        self.kind: str = grant["memory"]["kind"]  #: "memfd" (emulated) or "cuda-vmm"
        self.device_uuid: str = grant["memory"]["deviceUuid"]
        self.digest = f"fsverity:{self.record['digest']}"
        self._mapping, self._connection = mapping, connection
        self._ended: Optional[str] = None
        self._received, self._lock = bytearray(), threading.Lock()

    def __getitem__(self, name: str) -> Tensor:
        return self._at(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def data(self) -> Tensor:
        """All bytes of the shard: for those without a tensor table."""
        length = self.record["byteLength"]
        return self._at(TensorInfo("", "U8", (length,), 0, length))

    def _at(self, info: TensorInfo) -> Tensor:
        mapping = self._mapping
        if mapping is None:
            raise _error("CLOSED", "the attachment was closed", "attach again")
        return mapping.tensor(info)

    @property
    def lease_ended(self) -> Optional[str]:
        """None while the service vouches for the bytes, else why it does no more. Never waits;
        `fileno()` can be waited for."""
        with self._lock:
            try:
                while self._ended is None:
                    piece = self._connection.recv(_CHUNK_BYTES)
                    self._received += piece
                    self._take_events()
                    self._ended = self._ended or (None if piece else "the service is gone")
            except BlockingIOError:
                pass
            except (VramError, OSError) as error:
                self._ended = f"the connection broke: {error}"
            return self._ended

    def _take_events(self) -> None:
        while len(self._received) >= 4:
            (length,) = struct.unpack_from("<I", self._received)
            _require(length <= MAX_MESSAGE_BYTES, f"an event of {length} bytes")
            if len(self._received) < 4 + length:
                return
            event = _parse(bytes(self._received[4 : 4 + length]))
            del self._received[: 4 + length]
            if (event.get("event"), event.get("leaseId")) == ("lease_ended", self.lease["leaseId"]):
                self._ended = self._ended or str(event.get("because"))

    def fileno(self) -> int:
        """The connection: readable when `lease_ended` may have changed; -1 when it is closed."""
        return self._connection.fileno()

    def close(self) -> None:
        """Ends the connection, and with it the export and the lease it was granted. Never raises,
        may be called twice. What is in use stays mapped; unmapping from a GPU waits for kernels."""
        with self._lock:
            mapping, self._mapping = self._mapping, None
            self._ended = self._ended or "this process closed it"
            if isinstance(mapping, _HostMapping):
                with contextlib.suppress(BufferError):  # of its views, the last one unmaps it
                    mapping.close()
            del mapping
            self._connection.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def service_socket(socket: Optional[str] = None) -> str:
    """The path of the service's socket, as `vram` finds it: `socket`, VRAM_SOCKET, the usual one.
    INVALID_ARGUMENT if it is too long, SERVICE_UNREACHABLE if anybody could have made it."""
    uid, runtime, folder = os.getuid(), os.environ.get("XDG_RUNTIME_DIR", ""), ""
    path = os.environ.get("VRAM_SOCKET", "") if socket is None else socket
    if path == "" and os.path.isabs(runtime):
        path = os.path.join(runtime, "vram-residency", "vram.sock")
    elif path == "" and (uid == 0 or os.path.exists("/run/vram-residency")):
        path = "/run/vram-residency/vram.sock"
    elif path == "":
        temporary = os.environ.get("TMPDIR", "")
        temporary = temporary if os.path.isabs(temporary) else "/tmp"
        folder = os.path.join(temporary, f"vram-residency-{uid}")
        path = os.path.join(folder, "vram.sock")
    if folder != "" and os.path.lexists(folder):
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
            what = f"{folder}: is another user's, or others may write to it"
            raise _error("SERVICE_UNREACHABLE", what, "name the service's socket with VRAM_SOCKET")
    longest = _SOCKET_PATH_BYTES - len(ATTACH_SUFFIX)
    if len(os.fsencode(os.path.abspath(path))) > longest:
        what = f"the path of the socket has more than {longest} bytes"
        raise _error("INVALID_ARGUMENT", what, "have the service listen at a shorter one")
    return os.path.abspath(path)


def _parse(message: bytes) -> dict:
    try:
        value = json.loads(message.decode())
    except (ValueError, RecursionError):
        value = None
    _require(isinstance(value, dict) and value.get("v") == PROTOCOL_VERSION, "no message of ours")
    return value


def _exchange(connection: Any, path: str, request: dict, timeout: Any, came: List[int]) -> dict:
    """Connects, asks, and reads the reply. Descriptors go to `came`, whatever happens."""
    end = math.inf if timeout is None else time.monotonic() + timeout

    def wait() -> None:
        left = end - time.monotonic()
        connection.settimeout(None if left == math.inf else max(0.001, left))

    def read(length: int, may_bring: bool) -> bytes:
        data = bytearray()
        while len(data) < length:
            wait()
            size = min(length - len(data), _CHUNK_BYTES)
            # Python does not set close-on-exec by itself here.
            how = (_RIGHTS_SPACE, _socket.MSG_CMSG_CLOEXEC)
            piece, control, flags, _ = connection.recvmsg(size, *how)
            for level, kind, rights in control:
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                    came.extend(array.array("i", rights[: len(rights) // 4 * 4]))
            if flags & _socket.MSG_CTRUNC:
                fix = "raise the limit of open files (`ulimit -n`), or close some"
                what = "the memory was handed over, and this process may have no more files"
                raise _error("SERVICE_UNREACHABLE", f"{path}: {what}", fix)
            _require(may_bring or not control, "a descriptor behind the first byte")
            if may_bring and not piece:
                fix = "the service may be ending, or have too many connections: try again"
                what = f"{path}: it ended the connection without a reply"
                raise _error("SERVICE_UNREACHABLE", what, fix)
            _require(piece, "the connection ends before its reply does")
            data += piece
        return bytes(data)

    message = json.dumps(request).encode()
    try:
        wait()
        connection.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reply may say why
            connection.sendall(struct.pack("<I", len(message)) + message)
        # The first byte alone: what comes with it came with nothing else.
        (length,) = struct.unpack("<I", read(1, True) + read(3, False))
        _require(length <= MAX_MESSAGE_BYTES, f"a reply of {length} bytes")
        return _parse(read(length, False))
    except PermissionError as error:
        fix = "run it as the service's user, or as a member of its `allowedGroup`"
        raise _error("FORBIDDEN", f"this user may not connect to {path}", fix) from error
    except OSError as error:
        fix = "start a service with `vram serve`, or name its socket with VRAM_SOCKET"
        raise _error("SERVICE_UNREACHABLE", f"nobody answers at {path}: {error}", fix) from error


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _judge(reply: dict, request: dict, descriptors: int) -> dict:
    """The tensor table of a reply that grants what was asked for. Raises what the service refused
    with; nothing that can be looked at is taken on trust."""
    if reply.get("ok") is False:
        _require(descriptors == 0, "a refusal with a descriptor")
        problem = reply["problem"]
        code, what, fix = (str(problem[key]) for key in ("code", "detail", "fix"))
        raise _error(code, what, fix, problem["details"])
    _require(reply["ok"] is True and descriptors == 1, f"a grant with {descriptors} descriptors")
    record, lease, memory = reply["record"], reply["lease"], reply["memory"]
    kind, _, wanted = (request["expect"] or "").rpartition(":")
    if wanted not in ("", record.get("sha256") if kind == "sha256" else record["digest"]):
        what = f"{record['name']} is fsverity:{record['digest']}, not {request['expect']}"
        raise _error("DIGEST_MISMATCH", what, "do not use it: the service should have refused")
    found = reply.get("verification") or {"digest": record["digest"]}
    salt = request.get("salt", "").lower()
    size, is_host = record["byteLength"], record["backend"] == "emulated"
    _require(request["shard"] in (record["name"], record["shardId"]), "another shard")
    _require(lease["shardId"] == record["shardId"], "a lease on another shard")
    _require(request.get("lease") in (None, lease["leaseId"]), "another lease than was presented")
    digests = (reply["seal"]["digest"], lease["digest"], found["digest"])
    _require(digests == (record["digest"],) * 3, "digests that differ")
    is_measured = request.get("maxAgeMs") != 0 or found.get("basis") == "measured"
    is_salted = salt == "" or (found.get("salted") or {}).get("salt") == salt
    _require(is_measured and is_salted, "no measurement where one was asked for")
    _require(memory["kind"] == ("memfd" if is_host else "cuda-vmm"), "memory of another backend")
    _require(memory["deviceUuid"] == record["device"]["uuid"], "memory of another device")
    _require(_is_size(size) and _is_size(memory["byteLength"]), "sizes that are none")
    _require(0 < size <= memory["byteLength"], "less memory than the shard has bytes")
    tensors: dict = {}
    for row in reply["tensors"]:
        named = f"the tensor {row['name']!a}"
        where = (row["offset"], row["byteLength"])
        info = TensorInfo(row["name"], row["dtype"], tuple(row["shape"]), *where)
        _require(isinstance(info.name, str) and info.name not in tensors, f"{named} twice")
        _require(all(map(_is_size, (*info.shape, *info[3:]))), f"{named} without sizes")
        _require(info.offset + info.byte_length <= size, f"{named} beyond the end")
        element = _BYTES.get(info.dtype)
        fits = element is None or math.prod(info.shape) * element == info.byte_length
        _require(fits, f"{named} with other bytes than its shape has")
        tensors[info.name] = info
    return tensors


def attach(
    name: str,
    expect: Union[str, _Any],
    *,
    socket: Optional[str] = None,
    lease: Union[str, Literal[False], None] = None,
    max_age_ms: Optional[int] = None,
    salt: Union[str, bytes, None] = None,
    holder: Optional[str] = None,
    timeout: Optional[float] = None,
) -> Attachment:
    """Attaches to a shard, by name or id, and maps its memory for reading.

    expect      the digest it must have: fsverity:HEX, sha256:HEX or 64 hex digits; or ANY
    socket      of the service; default: see `service_socket`
    lease       id of a lease to attach under. Default: VRAM_LEASE, if VRAM_NAME is `name` or unset.
                False or "": none. Without one, the service grants one while this is open
    max_age_ms  settle for a measurement no older than so many milliseconds; 0: measure now
    salt        also measure with this salt, of 1 to 32 bytes: bytes, or their hex digits
    holder      what this process calls itself, for the record; default: program and pid
    timeout     seconds until there must be a reply; default: none, as measuring takes its time

    Raises VramError: what the service refuses with, INVALID_ARGUMENT, FORBIDDEN, POLICY_VIOLATION
    for memory that could change under its readers or lies elsewhere, SERVICE_UNREACHABLE, and on a
    GPU DEVICE_NOT_FOUND, DEVICE_UNUSABLE, CUDA_FAILED. Whatever fails leaves nothing behind."""
    if expect is not ANY and not re.fullmatch("((fsverity|sha256):)?[0-9a-f]{64}", str(expect)):
        message = "expect is fsverity:HEX, sha256:HEX or 64 lower-case hex digits"
        fix = "give the digest that the weights must have; vram_residency.ANY takes any"
        raise _error("INVALID_ARGUMENT", message, fix, {"argument": "expect"})
    if lease is None and os.environ.get("VRAM_NAME", name) == name:
        lease = os.environ.get("VRAM_LEASE")
    program = os.path.basename((getattr(sys, "argv", None) or ["python"])[0])
    holder = holder or f"{_printable(program)} (pid {os.getpid()})"[-128:]
    salt = salt if salt is None or isinstance(salt, str) else bytes(salt).hex()
    optional = {"lease": lease or None, "maxAgeMs": max_age_ms, "salt": salt, "holder": holder}
    request = {"v": PROTOCOL_VERSION, "shard": name, "expect": None if expect is ANY else expect}
    request.update((key, value) for key, value in optional.items() if value is not None)
    path = service_socket(socket) + ATTACH_SUFFIX
    came: List[int] = []
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        grant = _exchange(connection, path, request, timeout, came)
        try:
            tensors = _judge(grant, request, len(came))
        except (KeyError, TypeError, AttributeError) as error:
            _require(False, f"a reply that lacks something ({error!r})")
        memory = grant["memory"]
        open_mapping = _map_host if memory["kind"] == "memfd" else _CudaMapping
        mapping = open_mapping(connection, came[0], memory["byteLength"], memory["deviceUuid"])
        connection.setblocking(False)
        return Attachment(grant, tensors, connection, mapping)
    except BaseException:
        connection.close()
        raise
    finally:
        # A mapping has a reference of its own, and so has the driver.
        for descriptor in came:
            os.close(descriptor)


def _printable(value: Any) -> str:
    """What a file or a service says must not command a terminal."""
    escape = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    return "".join(escape)


def _print(m: Attachment) -> None:
    for info in m.tensors.values():
        shape = "x".join(map(str, info.shape))
        place = f"{info.offset:>14} {info.byte_length:>14}"
        print(place, f"{_printable(info.dtype):<8} {shape:<16}", _printable(info.name))
    for key, value in {**m.record, "digest": m.digest, "memory": m.kind}.items():
        print(f"{_printable(key):<16} {_printable(value)}")


def main() -> int:
    """The command line: prints tensor table and record of a shard. Returns the exit code."""
    parser = argparse.ArgumentParser(description="attaches to sealed weights; shows what is there")
    parser.add_argument("name", metavar="NAME", help="name or id of a shard")
    parser.add_argument("--expect", metavar="D", help="the digest it must have")
    parser.add_argument("--socket", metavar="S", help="of the service")
    parser.add_argument("--max-age", metavar="MS", type=int, help="settle for such a measurement")
    parser.add_argument("--salt", metavar="HEX", help="also measure with this salt")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    terms: dict = {"socket": given.socket, "max_age_ms": given.max_age, "salt": given.salt}
    try:
        with attach(given.name, ANY if given.expect is None else given.expect, **terms) as m:
            if given.json:
                keys = ("name", "dtype", "shape", "offset", "byteLength")
                tensors = [dict(zip(keys, info)) for info in m.tensors.values()]
                what = {"ok": True, "expected": given.expect, "kind": m.kind, "record": m.record}
                what.update(seal=m.seal, lease=m.lease, verification=m.verification)
                print(json.dumps({**what, "tensors": tensors}, indent=2))
            else:
                _print(m)
            if given.expect is None:
                print(f"nothing was expected: {m.digest} is what is there", file=sys.stderr)
            if m.record["backend"] != "cuda":
                backend = _printable(m.record["backend"])
                print(f"backend {backend}: this is no evidence about a GPU", file=sys.stderr)
        return 0
    except VramError as error:
        print(f"error {_printable(error)}\n  {_printable(error.fix)}", file=sys.stderr)
        return EXIT_CODES.get(error.code, 1)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
