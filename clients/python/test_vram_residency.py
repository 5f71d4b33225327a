"""Tests of vram_residency.py, with the standard library's unittest; test/crash/python-client.test.ts runs them.

A fake attach server in threads of this process says whatever a test wants. After each test the process has as
many descriptors as before it. `VRAM_TEST_LIBCUDA` is the fake libcuda of test/border/fake; its memory is made by
another process. `VRAM_TEST_SOCKET`, `…_FILE` and `…_DIGEST` are a service, and what it has sealed as `model`.
"""

from __future__ import annotations

import array
import contextlib
import copy
import ctypes
import fcntl
import gc
import hashlib
import http.client
import importlib.util
import io
import itertools
import json
import os
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
import warnings
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import vram_residency as vram  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

PAGE, GRANULE = 4096, 2 * 1024 * 1024
DIGEST, OTHER, SHA256 = "ab" * 32, "cd" * 32, "ef" * 32
LIBRARY = os.environ.get("VRAM_TEST_LIBCUDA", "")
Said = Callable[[socket.socket, dict], None]


def descriptors() -> List[str]:
    """What this process has open, less what looking takes."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return sorted(entry for entry in found if "/proc/" not in entry)


def framed(message: Any) -> bytes:
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack("<I", len(text)) + text


def rights(passed: Sequence[int]) -> list:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []


def say(connection: socket.socket, data: bytes, passed: Sequence[int] = ()) -> None:
    """Sends it all, the descriptors with the first byte."""
    if data:
        rest = data[connection.sendmsg([data], rights(passed)) :]
        if rest:
            connection.sendall(rest)


def grant(tensors: Sequence[tuple] = (), byte_length: int = PAGE, **memory: Any) -> dict:
    """A reply of a service that has sealed `model`; tensors as in TensorInfo."""
    kind = memory.setdefault("kind", "memfd")
    memory.setdefault("deviceUuid", "EMU-1")
    memory.setdefault("byteLength", byte_length)
    backend = "emulated" if kind == "memfd" else "cuda-substituted"
    record = {
        "shardId": "shard-1",
        "name": "model",
        "state": "sealed",
        "backend": backend,
        "digest": DIGEST,
    }
    record.update(
        device={"ordinal": 0, "uuid": memory["deviceUuid"]}, byteLength=byte_length, sha256=SHA256
    )
    lease = {"leaseId": "lease-1", "shardId": "shard-1", "digest": DIGEST}
    keys = ("name", "dtype", "shape", "offset", "byteLength")
    rows = [dict(zip(keys, tensor)) for tensor in tensors]
    verification = {"digest": DIGEST, "basis": "measured"}
    told = {
        "record": record,
        "seal": {"digest": DIGEST},
        "lease": lease,
        "verification": verification,
    }
    return {"v": 1, "ok": True, "exportId": "export-1", **told, "tensors": rows, "memory": memory}


def refusal(code: str, **details: Any) -> dict:
    problem = {
        "code": code,
        "status": 409,
        "detail": f"refused as {code}",
        "fix": "mend it",
        "details": details,
    }
    return {"v": 1, "ok": False, "problem": problem}


def make_memfd(content: bytes, seals: int = vram.MEMFD_SEALS, byte_length: int = PAGE) -> int:
    """Memory as the service makes it, unless told otherwise; the caller closes it."""
    fd = os.memfd_create("weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, byte_length)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class Service:
    """Listens where an attach socket is. Every connection gets its request read, and `said`."""

    def __init__(self, folder: str, said: Said) -> None:
        self.path = os.path.join(folder, "vram.sock")
        self.requests: List[dict] = []
        self.failures: List[BaseException] = []
        self._said = said
        self._threads: List[threading.Thread] = []
        self._open: List[socket.socket] = []
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path + vram.ATTACH_SUFFIX)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path + vram.ATTACH_SUFFIX)
        self._listener.listen(16)
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            (length,) = struct.unpack("<I", connection.recv(4, socket.MSG_WAITALL))
            request = json.loads(connection.recv(length, socket.MSG_WAITALL)) if length > 0 else {}
            self.requests.append(request)
            self._said(connection, request)
        except (BrokenPipeError, ConnectionResetError):
            connection.close()
        except BaseException as error:
            self.failures.append(error)
            connection.close()

    def hang_up(self) -> None:
        """Ends every connection, when its thread has said what it had to say."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._open:
            connection.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self.hang_up()
        self._listener.close()


class Case(unittest.TestCase):
    def setUp(self) -> None:
        warnings.simplefilter("error")
        self.addCleanup(warnings.resetwarnings)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("VRAM_LEASE", "VRAM_NAME")
        }
        patch = mock.patch.dict(os.environ, environment, clear=True)
        patch.start()
        self.addCleanup(patch.stop)
        unchanged = self.unchanged()
        unchanged.__enter__()
        self.addCleanup(unchanged.__exit__, None, None, None)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """As many descriptors after it as before."""
        gc.collect()
        before = descriptors()
        yield
        gc.collect()
        self.assertEqual(descriptors(), before)

    def memfd(self, content: bytes = b"", **how: Any) -> int:
        """Memory as the service makes it, closed after the test."""
        fd = make_memfd(content, **how)
        self.addCleanup(os.close, fd)
        return fd

    @contextlib.contextmanager
    def service(self, said: Said) -> Iterator[Service]:
        service = Service(self.folder, said)
        try:
            yield service
        finally:
            service.stop()
        self.assertEqual(service.failures, [])

    @contextlib.contextmanager
    def granting(self, tensors: Sequence[tuple] = (), content: bytes = b"") -> Iterator[Service]:
        """A service that grants a memfd with this in it."""
        data, fd = framed(grant(tensors)), self.memfd(content)
        with self.service(lambda connection, _: say(connection, data, [fd])) as service:
            yield service

    def refused(self, code: str, said: Said, **terms: Any) -> vram.VramError:
        """What attaching is refused with; nothing of it is left."""
        with self.unchanged(), self.service(said) as service:
            return self.refused_by(code, service, **terms)

    def refused_by(self, code: str, service: Service, **terms: Any) -> vram.VramError:
        with self.assertRaises(vram.VramError) as caught:
            vram.attach("model", terms.pop("expect", vram.ANY), socket=service.path, **terms)
        self.assertEqual(caught.exception.code, code, str(caught.exception))
        self.assertNotEqual(caught.exception.fix, "")
        return caught.exception


class Attaching(Case):
    def test_tensors_are_the_bytes_of_the_memory(self) -> None:
        content = bytes(range(256)) * 16
        rows = [
            ("a", "F32", [2, 2], 16, 16),
            ("b", "BF16", [3], 101, 6),
            ("none", "F32", [0, 7], 4096, 0),
        ]
        with self.granting(rows, content) as service:
            with vram.attach("model", f"fsverity:{DIGEST}", socket=service.path) as m:
                self.assertEqual(m.tensors["a"], vram.TensorInfo("a", "F32", (2, 2), 16, 16))
                self.assertEqual(
                    (list(m), len(m), list(m.keys())), (["a", "b", "none"], 3, ["a", "b", "none"])
                )
                self.assertEqual(bytes(m["a"]), content[16:32])
                self.assertEqual(bytes(m["b"]), content[101:107])
                self.assertEqual((bytes(m["none"]), bytes(m.data)), (b"", content))
                self.assertEqual(
                    {name: bytes(view) for name, view in m.items()}["a"], content[16:32]
                )
                with self.assertRaises(TypeError):
                    m["a"][0] = 1  # type: ignore[index]
                with self.assertRaises(KeyError):
                    m["c"]
                self.assertEqual(
                    (m.digest, m.kind, m.device_uuid), (f"fsverity:{DIGEST}", "memfd", "EMU-1")
                )
                told = (m.record["name"], m.seal["digest"], m.lease["leaseId"], m.verification)
                self.assertEqual(
                    told, ("model", DIGEST, "lease-1", {"digest": DIGEST, "basis": "measured"})
                )
                self.assertIsNone(m.lease_ended)
            self.assertEqual(m.lease_ended, "this process closed it")
            with self.assertRaises(vram.VramError) as caught:
                m["a"]
            self.assertEqual(caught.exception.code, "CLOSED")
            m.close()

    def test_the_request_says_what_was_asked_for(self) -> None:
        fd, salted = self.memfd(), {**grant()["verification"], "salted": {"salt": "0aff"}}

        def said(connection: socket.socket, request: dict) -> None:
            reply = {**grant(), "verification": salted}
            reply["lease"]["leaseId"] = request.get("lease", "lease-1")
            say(connection, framed(reply), [fd])

        def asked(environment: dict, expect: Any, **terms: Any) -> dict:
            with mock.patch.dict(os.environ, environment):
                vram.attach("model", expect, socket=service.path, **terms).close()
            return {key: value for key, value in service.requests[-1].items() if key != "holder"}

        plain = {"v": 1, "shard": "model", "expect": None}
        with self.service(said) as service:
            self.assertEqual(asked({}, vram.ANY), plain)
            self.assertRegex(service.requests[0]["holder"], rf"^.{{1,100}} \(pid {os.getpid()}\)$")
            terms: dict = {"max_age_ms": 0, "salt": b"\x0a\xff"}
            whole = {**plain, "expect": DIGEST, "maxAgeMs": 0, "salt": "0aff"}
            self.assertEqual(asked({}, DIGEST, **terms), whole)
            self.assertEqual(asked({}, f"sha256:{SHA256}", salt="0AFF")["salt"], "0AFF")
            vram.attach("model", vram.ANY, socket=service.path, holder="engine").close()
            self.assertEqual(service.requests[-1]["holder"], "engine")
            # The lease of `vram lease` is for the shard it is for.
            for environment, terms, lease in [
                ({"VRAM_LEASE": "l1", "VRAM_NAME": "model"}, {}, {"lease": "l1"}),
                ({"VRAM_LEASE": "l1"}, {}, {"lease": "l1"}),
                ({"VRAM_LEASE": ""}, {}, {}),
                ({"VRAM_LEASE": "l1", "VRAM_NAME": "other"}, {}, {}),
                ({"VRAM_LEASE": "l1", "VRAM_NAME": "model"}, {"lease": False}, {}),
                ({"VRAM_LEASE": "l1", "VRAM_NAME": "model"}, {"lease": ""}, {}),
                ({"VRAM_LEASE": "l1", "VRAM_NAME": "model"}, {"lease": "l2"}, {"lease": "l2"}),
            ]:
                self.assertEqual(asked(environment, vram.ANY, **terms), {**plain, **lease})

    def test_what_is_expected_has_to_be_said(self) -> None:
        with self.assertRaises(TypeError):
            vram.attach("model")  # type: ignore[call-arg]
        for nothing in (None, "", "abc", DIGEST.upper(), f"md5:{DIGEST}", f"{DIGEST}\n", 7):
            with self.assertRaises(vram.VramError) as caught:
                vram.attach("model", nothing, socket="/nonexistent/vram.sock")  # type: ignore[arg-type]
            self.assertEqual(caught.exception.code, "INVALID_ARGUMENT", repr(nothing))

    def test_another_digest_is_refused_by_the_service_and_here(self) -> None:
        said = refusal("DIGEST_MISMATCH", actual=f"fsverity:{DIGEST}")
        error = self.refused("DIGEST_MISMATCH", lambda c, _: say(c, framed(said)), expect=OTHER)
        self.assertIsInstance(error, vram.WrongDigest)
        self.assertEqual((error.message, error.fix), ("refused as DIGEST_MISMATCH", "mend it"))
        self.assertEqual(error.details, {"actual": f"fsverity:{DIGEST}"})
        for expect in (OTHER, f"fsverity:{OTHER}", f"sha256:{OTHER}", f"sha256:{DIGEST}"):
            with self.granting() as service:
                self.assertIsInstance(
                    self.refused_by("DIGEST_MISMATCH", service, expect=expect), vram.WrongDigest
                )

    def test_refusals_have_classes(self) -> None:
        for code, kind in [
            ("MEASUREMENT_MISMATCH", vram.MeasurementMismatch),
            ("SHARD_NOT_FOUND", vram.NotResident),
            ("SHARD_NOT_RESIDENT", vram.NotResident),
            ("A_NEWER_ONE", vram.VramError),
        ]:
            error = self.refused(code, lambda c, _, code=code: say(c, framed(refusal(code))))
            self.assertIs(type(error), kind)

    def test_nobody_answers(self) -> None:
        path = os.path.join(self.folder, "vram.sock")
        for prepare in (lambda: None, lambda: open(path + vram.ATTACH_SUFFIX, "w").close()):
            prepare()
            with self.assertRaises(vram.ServiceUnreachable):
                vram.attach("model", vram.ANY, socket=path)
        os.unlink(path + vram.ATTACH_SUFFIX)
        over = threading.Event()
        start = time.monotonic()
        with self.service(lambda _c, _r: void(over.wait())) as service:
            error = self.refused_by("SERVICE_UNREACHABLE", service, timeout=0.05)
            over.set()
        self.assertIn("timed out", error.message)
        self.assertLess(time.monotonic() - start, 30)

    def test_a_service_that_refuses_before_it_reads(self) -> None:
        path = os.path.join(self.folder, "early.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path + vram.ATTACH_SUFFIX)
            listener.listen(1)

            def serve() -> None:
                with listener.accept()[0] as connection:
                    connection.shutdown(socket.SHUT_RD)
                    say(connection, framed(refusal("FORBIDDEN")))

            thread = threading.Thread(target=serve)
            thread.start()
            with self.assertRaises(vram.VramError) as caught:
                vram.attach("model", vram.ANY, socket=path)
            thread.join()
        self.assertEqual(caught.exception.code, "FORBIDDEN")

    def test_what_is_open_stays_in_this_process(self) -> None:
        look = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n != '3'])"
        with self.granting() as service:
            with vram.attach("model", vram.ANY, socket=service.path) as m:
                ran = subprocess.run(
                    [sys.executable, "-c", look], close_fds=False, capture_output=True, text=True
                )
                self.assertNotIn("memfd", ran.stdout)
                self.assertNotIn(f"socket:[{os.fstat(m.fileno()).st_ino}]", ran.stdout)


def void(_: Any) -> None:
    """For handlers that are one call."""


class Protocol(Case):
    def test_a_reply_that_ends_early_at_every_byte(self) -> None:
        fd, data = self.memfd(), framed(grant([("a", "F32", [1], 0, 4)]))
        ends = iter(range(len(data)))

        def said(connection: socket.socket, _: dict) -> None:
            say(connection, data[: next(ends)], [fd])
            connection.shutdown(socket.SHUT_RDWR)

        with self.unchanged(), self.service(said) as service:
            for _ in range(len(data)):
                self.refused_by("SERVICE_UNREACHABLE", service)
        self.assertGreater(len(data), 500)

    def test_a_reply_in_pieces(self) -> None:
        fd, data = self.memfd(b"pieces"), framed(grant([("a", "U8", [6], 0, 6)]))

        def said(connection: socket.socket, _: dict) -> None:
            say(connection, data[:1], [fd])
            for at in range(1, len(data)):
                connection.sendall(data[at : at + 1])

        with self.service(said) as service:
            with vram.attach("model", vram.ANY, socket=service.path) as m:
                self.assertEqual(bytes(m["a"]), b"pieces")

    def with_descriptors(self, reply: dict, count: int, late: bool = False) -> vram.VramError:
        data, fds = framed(reply), [self.memfd() for _ in range(count)]

        def said(connection: socket.socket, _: dict) -> None:
            if late:
                say(connection, data[:9])
            say(connection, data[9:] if late else data, fds)

        return self.refused("SERVICE_UNREACHABLE", said)

    def test_a_grant_has_one_descriptor_with_its_first_byte_and_a_refusal_none(self) -> None:
        for count in (0, 2, 253):
            self.assertIn(
                f"a grant with {count} descriptors", self.with_descriptors(grant(), count).message
            )
        self.assertIn("behind the first byte", self.with_descriptors(grant(), 1, late=True).message)
        self.assertIn(
            "a refusal with a descriptor", self.with_descriptors(refusal("SHARD_BUSY"), 1).message
        )

    def test_descriptors_for_which_there_is_no_room(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fds = [self.memfd() for _ in range(8)]
        # The service answers when the limit is there: sending takes no descriptors.
        limited = threading.Event()

        def said(connection: socket.socket, _: dict) -> None:
            limited.wait()
            say(connection, framed(grant()), fds)

        with self.unchanged(), self.service(said) as service:
            real = socket.socket.sendall

            def limit(connection: socket.socket, data: bytes) -> None:
                real(connection, data)
                while len(service.requests) == 0:
                    time.sleep(0.001)
                free = os.dup(0)
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, hard))
                limited.set()

            try:
                with mock.patch.object(socket.socket, "sendall", limit):
                    error = self.refused_by("SERVICE_UNREACHABLE", service)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.assertIn("this process may have no more files", error.message)

    def test_messages_that_are_none(self) -> None:
        for text in (
            b"",
            b"{",
            b"[]",
            b"null",
            b"7",
            b"\xff{}",
            b"{}",
            b'{"v":2,"ok":true}',
            b"[" * 100_000,
        ):
            self.refused("SERVICE_UNREACHABLE", lambda c, _, text=text: say(c, framed(text)))
        for length in (vram.MAX_MESSAGE_BYTES + 1, 2**32 - 1):
            data = struct.pack("<I", length) + b"{}"
            error = self.refused("SERVICE_UNREACHABLE", lambda c, _, data=data: say(c, data))
            self.assertIn(f"a reply of {length} bytes", error.message)

    def test_whatever_a_reply_lacks_or_has_wrong_is_refused_or_does_not_matter(self) -> None:
        """Each value of a grant, and of a refusal, is left out, and replaced by each of these."""
        fd = self.memfd()
        whole = grant([("a", "F32", [2], 0, 8)])
        wrong: list = [None, -1, True, 1.5, 2**70, "", "x", [], [None], {}, {"a": 1}]

        def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
            inside = (
                value.items()
                if isinstance(value, dict)
                else enumerate(value) if isinstance(value, list) else ()
            )
            for key, child in inside:
                yield (*at, key)
                yield from places(child, (*at, key))

        def variants(reply: dict) -> Iterator[dict]:
            for *path, last in places(reply):
                for value in (KeyError, *wrong):
                    changed = copy.deepcopy(reply)
                    holder: Any = changed
                    for key in path:
                        holder = holder[key]
                    if value is KeyError:
                        del holder[last]
                    else:
                        holder[last] = value
                    yield changed

        replies = [(reply, [fd]) for reply in variants(whole)] + [
            (r, []) for r in variants(refusal("INTERNAL"))
        ]
        left = iter(replies)

        def said(connection: socket.socket, _: dict) -> None:
            reply, passed = next(left)
            say(connection, framed(reply), passed)

        outcomes = []
        with self.unchanged(), self.service(said) as service:
            for reply, _ in replies:
                try:
                    vram.attach("model", DIGEST, socket=service.path).close()
                    outcomes.append("granted")
                except vram.VramError as error:
                    outcomes.append(error.code)
        self.assertGreater(outcomes.count("SERVICE_UNREACHABLE"), 200)
        self.assertGreater(outcomes.count("granted"), 20)

    def test_replies_that_contradict_what_was_asked_or_themselves(self) -> None:
        fd = self.memfd()

        def said(change: Callable[[dict], Any]) -> Said:
            def answer(connection: socket.socket, _: dict) -> None:
                reply = grant()
                change(reply)
                say(connection, framed(reply), [fd])

            return answer

        for what, change, terms in [
            ("another shard", lambda r: r["record"].update(name="b", shardId="c"), {}),
            ("a lease on another shard", lambda r: r["lease"].update(shardId="shard-2"), {}),
            ("digests that differ", lambda r: r["lease"].update(digest=OTHER), {}),
            ("digests that differ", lambda r: r["seal"].update(digest=OTHER), {}),
            ("digests that differ", lambda r: r["verification"].update(digest=OTHER), {}),
            ("another lease than was presented", lambda r: None, {"lease": "lease-2"}),
            (
                "no measurement",
                lambda r: r["verification"].update(basis="fresh-enough"),
                {"max_age_ms": 0},
            ),
            ("no measurement", lambda r: r.pop("verification"), {"max_age_ms": 0}),
            ("no measurement", lambda r: None, {"salt": "00"}),
            (
                "no measurement",
                lambda r: r["verification"].update(salted={"salt": "01"}),
                {"salt": "00"},
            ),
            ("memory of another backend", lambda r: r["memory"].update(kind="cuda-vmm"), {}),
            ("memory of another backend", lambda r: r["record"].update(backend="cuda"), {}),
            ("memory of another device", lambda r: r["memory"].update(deviceUuid="EMU-2"), {}),
            ("less memory", lambda r: r["record"].update(byteLength=PAGE + 1), {}),
            ("less memory", lambda r: r["record"].update(byteLength=0), {}),
        ]:
            self.assertIn(what, self.refused("SERVICE_UNREACHABLE", said(change), **terms).message)

    def test_tensors_that_do_not_fit(self) -> None:
        fd, row = self.memfd(), {
            "name": "a",
            "dtype": "F32",
            "shape": [2],
            "offset": 0,
            "byteLength": 8,
        }
        for what, change in [
            ("beyond the end", {"offset": PAGE - 7}),
            ("beyond the end", {"offset": 2**64}),
            ("beyond the end", {"dtype": "Q4_K", "byteLength": PAGE + 1}),
            ("without sizes", {"offset": -1}),
            ("without sizes", {"offset": 0.0}),
            ("without sizes", {"offset": True}),
            ("without sizes", {"shape": [-1, -2]}),
            ("other bytes than its shape has", {"shape": [3]}),
            ("other bytes than its shape has", {"shape": [0]}),
            ("twice", {"name": "b"}),
        ]:
            data = framed({**grant(), "tensors": [{**row, "name": "b"}, {**row, **change}]})
            error = self.refused("SERVICE_UNREACHABLE", lambda c, _, data=data: say(c, data, [fd]))
            self.assertIn(what, error.message)


class Memory(Case):
    def test_memory_that_others_could_change_is_refused(self) -> None:
        file = os.open(self.folder, os.O_TMPFILE | os.O_RDWR)
        read, write = os.pipe()
        for fd in (file, read, write):
            self.addCleanup(os.close, fd)
        os.truncate(file, PAGE)
        lacking = [vram.MEMFD_SEALS & ~seal for seal in (0x1, 0x2, 0x4, 0x10)]
        for what, fd in [
            ("has the seals 0x0,", self.memfd(seals=0)),
            *((f"has the seals {seals:#x},", self.memfd(seals=seals)) for seals in lacking),
            (f"has {PAGE - 1} bytes", self.memfd(byte_length=PAGE - 1)),
            (f"has {2 * PAGE} bytes", self.memfd(byte_length=2 * PAGE)),
            ("no memory that can be sealed", file),
            ("no memory that can be sealed", read),
        ]:
            error = self.refused(
                "POLICY_VIOLATION", lambda c, _, fd=fd: say(c, framed(grant()), [fd])
            )
            self.assertIn(what, error.message)

    def test_views_outlive_close_and_the_connection_does_not(self) -> None:
        fd, ended = self.memfd(b"weights"), threading.Event()

        def said(connection: socket.socket, _: dict) -> None:
            say(connection, framed(grant([("a", "U8", [7], 0, 7)])), [fd])
            if connection.recv(1) == b"":
                ended.set()

        with self.service(said) as service:
            with vram.attach("model", vram.ANY, socket=service.path) as m:
                view = m["a"]
                part = view[1:3]
                self.assertFalse(ended.is_set())
            self.assertTrue(ended.wait(30))
            self.assertEqual((bytes(view), bytes(part), m.fileno()), (b"weights", b"ei", -1))
            del view
            self.assertEqual(bytes(part), b"ei")
            self.assertTrue(mapped("weights"))
            del part
            self.assertFalse(mapped("weights"))

    def test_a_view_keeps_the_connection_when_the_attachment_is_dropped(self) -> None:
        fd, ended = self.memfd(b"weights"), threading.Event()

        def said(connection: socket.socket, _: dict) -> None:
            say(connection, framed(grant([("a", "U8", [7], 0, 7)])), [fd])
            if connection.recv(1) == b"":
                ended.set()

        with self.service(said) as service:
            view = vram.attach("model", vram.ANY, socket=service.path)["a"]
            gc.collect()
            self.assertFalse(ended.wait(0.05))
            self.assertEqual(bytes(view), b"weights")
            del view
            self.assertTrue(ended.wait(30))


@unittest.skipIf(numpy is None, "NumPy is not installed (python3-numpy)")
class NumPy(Case):
    def test_numpy_reads_in_place(self) -> None:
        content = struct.pack("<6f", *range(6))
        with self.granting([("a", "F32", [2, 3], 0, 24)], content) as service:
            with vram.attach("model", vram.ANY, socket=service.path) as m:
                found = numpy.frombuffer(m["a"], dtype="<f4").reshape(m.tensors["a"].shape)
                self.assertEqual(found.tolist(), [[0, 1, 2], [3, 4, 5]])
                self.assertFalse(found.flags.writeable or found.flags.owndata)
                with self.assertRaises(ValueError):
                    found[0, 0] = 1
                with self.assertRaises(ValueError):
                    found.flags.writeable = True
            self.assertEqual(found.sum(), 15)


def mapped(name: str) -> bool:
    with open("/proc/self/maps") as maps:
        return f"/memfd:{name}" in maps.read()


class Events(Case):
    def follow(self, *pieces: bytes) -> List[Optional[str]]:
        """What `lease_ended` is after each of these, and when the service is gone."""
        fd, steps = self.memfd(), iter(pieces)
        go, said_it = threading.Semaphore(0), threading.Semaphore(0)

        def said(connection: socket.socket, _: dict) -> None:
            say(connection, framed(grant()), [fd])
            for piece in steps:
                go.acquire()
                connection.sendall(piece)
                said_it.release()

        with self.unchanged(), self.service(said) as service:
            with vram.attach("model", vram.ANY, socket=service.path) as m:
                self.assertIsNone(m.lease_ended)
                found = []
                for _ in pieces:
                    self.assertEqual(select.select([m], [], [], 0)[0], [])
                    go.release()
                    said_it.acquire()
                    found.append(m.lease_ended)
                service.hang_up()
                found.append(m.lease_ended)
        return found

    def test_the_end_of_the_lease_is_told(self) -> None:
        event = framed(
            {"v": 1, "event": "lease_ended", "leaseId": "lease-1", "because": "unreliable"}
        )
        self.assertEqual(self.follow(event), ["unreliable"] * 2)
        self.assertEqual(
            self.follow(event[:3], event[3:9], event[9:]), [None, None, "unreliable", "unreliable"]
        )
        again = framed({"v": 1, "event": "lease_ended", "leaseId": "lease-1", "because": "closed"})
        self.assertEqual(self.follow(event + again), ["unreliable"] * 2)

    def test_other_events_do_not_end_it(self) -> None:
        other = framed({"v": 1, "event": "lease_ended", "leaseId": "lease-2", "because": "expired"})
        newer = framed({"v": 1, "event": "something_new"})
        self.assertEqual(self.follow(other, newer), [None, None, "the service is gone"])

    def test_a_service_that_is_gone_is_told(self) -> None:
        self.assertEqual(self.follow(), ["the service is gone"])
        self.assertEqual(self.follow(b"\x07"), [None, "the service is gone"])

    def test_what_is_no_event_ends_it(self) -> None:
        for piece in (
            framed(b"nonsense"),
            struct.pack("<I", vram.MAX_MESSAGE_BYTES + 1),
            framed({"v": 7}),
        ):
            found = self.follow(piece)
            self.assertRegex(str(found[0]), "^the connection broke: SERVICE_UNREACHABLE: ")
            self.assertEqual(found[0], found[1])


class Places(Case):
    def test_the_socket_is_found_as_the_command_line_finds_it(self) -> None:
        uid = os.getuid()
        usual = f"/tmp/vram-residency-{uid}/vram.sock"
        machine = os.path.exists("/run/vram-residency") or uid == 0
        for environment, argument, path in [
            ({"VRAM_SOCKET": "/a/b"}, None, "/a/b"),
            ({"VRAM_SOCKET": "b"}, None, os.path.join(os.getcwd(), "b")),
            ({"VRAM_SOCKET": "/a/b"}, "/c/d", "/c/d"),
            ({"XDG_RUNTIME_DIR": "/run/user/7"}, None, "/run/user/7/vram-residency/vram.sock"),
            (
                {"XDG_RUNTIME_DIR": "/run/user/7", "VRAM_SOCKET": ""},
                None,
                "/run/user/7/vram-residency/vram.sock",
            ),
            (
                {"XDG_RUNTIME_DIR": "relative"},
                None,
                "/run/vram-residency/vram.sock" if machine else usual,
            ),
        ]:
            with mock.patch.dict(os.environ, environment, clear=True):
                self.assertEqual(vram.service_socket(argument), path)

    def test_in_a_folder_for_everybody_the_own_one_must_be_ones_own(self) -> None:
        own = os.path.join(self.folder, "vram-residency-1234")
        environment = {"TMPDIR": self.folder}
        with mock.patch.dict(os.environ, environment, clear=True), mock.patch(
            "os.getuid", return_value=1234
        ):
            with mock.patch("os.path.exists", return_value=False):
                self.assertEqual(vram.service_socket(), os.path.join(own, "vram.sock"))
                os.mkdir(own, 0o700)
                stat = os.lstat(own)
                mine = types.SimpleNamespace(st_mode=stat.st_mode, st_uid=1234)
                for found, is_fine in [
                    (mine, True),
                    (types.SimpleNamespace(st_mode=stat.st_mode, st_uid=7), False),
                    (types.SimpleNamespace(st_mode=stat.st_mode | 0o002, st_uid=1234), False),
                    (types.SimpleNamespace(st_mode=stat.st_mode | 0o020, st_uid=1234), False),
                    (types.SimpleNamespace(st_mode=0o120777, st_uid=1234), False),
                ]:
                    with mock.patch("os.lstat", return_value=found):
                        if is_fine:
                            self.assertEqual(vram.service_socket(), os.path.join(own, "vram.sock"))
                        else:
                            with self.assertRaises(vram.ServiceUnreachable):
                                vram.service_socket()

    def test_a_path_that_no_socket_can_have(self) -> None:
        self.assertEqual(vram.service_socket("/" + "a" * 99), "/" + "a" * 99)
        for path in ("/" + "a" * 100, "/" + "ä" * 50):
            with self.assertRaises(vram.VramError) as caught:
                vram.service_socket(path)
            self.assertEqual(caught.exception.code, "INVALID_ARGUMENT")


class CommandLine(Case):
    def run_main(self, *arguments: str) -> Tuple[int, str, str]:
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with mock.patch.object(sys, "argv", ["vram_residency.py", *arguments]):
                try:
                    code = vram.main()
                except SystemExit as end:
                    code = int(end.code or 0)
        out.seek(0)
        return code, out.read(), err.getvalue()

    def test_prints_table_and_record(self) -> None:
        rows = [("a\x1b[2J", "F32", [2, 3], 8, 24), ("b", "Q4_K", [256], 64, 144)]
        with self.granting(rows) as service:
            code, out, err = self.run_main("model", "--socket", service.path)
            self.assertEqual(code, 0)
            self.assertIn("F32      2x3              a\\x1b[2J\n", out)
            self.assertIn(f"digest           fsverity:{DIGEST}\n", out)
            self.assertIn(f"nothing was expected: fsverity:{DIGEST} is what is there", err)
            self.assertIn("backend emulated", err)
            terms = ("--socket", service.path, "--json", "--expect", DIGEST, "--max-age", "0")
            code, out, err = self.run_main("model", *terms)
            found = json.loads(out)
            self.assertEqual(
                (code, found["expected"], found["record"]["name"]), (0, DIGEST, "model")
            )
            self.assertEqual(found["tensors"][1]["dtype"], "Q4_K")
            self.assertNotIn("nothing was expected", err)
            self.assertEqual(service.requests[-1]["maxAgeMs"], 0)

    def test_exit_codes(self) -> None:
        nowhere = ("--socket", os.path.join(self.folder, "none.sock"))
        self.assertEqual(self.run_main("model", *nowhere)[0], 6)
        self.assertEqual(self.run_main("model", "--expect", "nonsense", *nowhere)[0], 2)
        self.assertEqual(self.run_main()[0], 2)
        with self.granting() as service:
            code, _, err = self.run_main("model", "--expect", OTHER, "--socket", service.path)
            self.assertEqual((code, err.startswith("error DIGEST_MISMATCH: ")), (3, True))
        for refused, code in [("LEASE_NOT_FOUND", 5), ("SHARD_NOT_FOUND", 1), ("FORBIDDEN", 4)]:
            with self.service(
                lambda c, _, refused=refused: say(c, framed(refusal(refused)))
            ) as service:
                self.assertEqual(self.run_main("model", "--socket", service.path)[0], code)


class Gpu:
    """The fake libcuda, as a test of the client sees it: what is in its memory, and what is left of a mapping."""

    def __init__(self) -> None:
        self.cu = ctypes.CDLL(LIBRARY)

    def call(self, symbol: str, *arguments: Any) -> None:
        status = self.status(symbol, *arguments)
        if status != 0:
            raise AssertionError(f"{symbol}: {status}")

    def status(self, symbol: str, *arguments: Any) -> int:
        return getattr(self.cu, symbol)(
            *(ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments)
        )

    def get(self, symbol: str, *arguments: Any) -> int:
        value = ctypes.c_uint64()
        self.call(symbol, ctypes.byref(value), *arguments)
        return value.value

    @contextlib.contextmanager
    def context(self, device: int = 0) -> Iterator[None]:
        self.call("cuCtxSetCurrent", self.get("cuDevicePrimaryCtxRetain", device))
        yield
        self.call("cuCtxSetCurrent", 0)
        self.call("cuDevicePrimaryCtxRelease_v2", device)

    def read(self, pointer: int, byte_length: int, device: int = 0) -> bytes:
        room = ctypes.create_string_buffer(byte_length)
        with self.context(device):
            self.call("cuMemcpyDtoHAsync_v2", room, pointer, byte_length, 0)
        return room.raw

    def used(self, device: int = 0) -> int:
        free, total = ctypes.c_uint64(), ctypes.c_uint64()
        with self.context(device):
            self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value

    def access(self, pointer: int, device: int = 0) -> int:
        return self.get("cuMemGetAccess", (ctypes.c_int32 * 2)(1, device), pointer)

    def make(self, content: bytes, device: int) -> int:
        """Memory with this in it, exported: a descriptor."""
        size = -(-len(content) // GRANULE) * GRANULE
        handle = self.get("cuMemCreate", size, (ctypes.c_int32 * 8)(1, 1, 1, device), 0)
        address = self.get("cuMemAddressReserve", size, 0, 0, 0)
        self.call("cuMemMap", address, size, 0, handle, 0)
        self.call("cuMemSetAccess", address, size, (ctypes.c_int32 * 3)(1, device, 3), 1)
        with self.context(device):
            self.call("cuMemcpyHtoDAsync_v2", address, content, len(content), 0)
        return self.get("cuMemExportToShareableHandle", handle, 1, 0)


def export() -> None:
    """Another process: makes memory of what it reads, on the device it is told, and passes it on over its stdout."""
    gpu = Gpu()
    gpu.call("cuInit", 0)
    fd = gpu.make(sys.stdin.buffer.read(), int(sys.argv[2]))
    with socket.socket(fileno=1) as out:
        say(out, b"!", [fd])


def import_from_other_process(content: bytes, device: int = 0) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, __file__, "export", str(device)]
        subprocess.run(command, input=content, stdout=theirs, check=True)
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    return array.array("i", control[0][2])[0]


def uuid_of(device: int) -> str:
    return f"GPU-fa4e0000-0000-4000-8000-{device:012x}"


@unittest.skipIf(LIBRARY == "", "there is no fake libcuda (VRAM_TEST_LIBCUDA)")
class CudaCase(Case):
    CONTENT = random.Random(7).randbytes(GRANULE + 12345)
    ROWS = [
        ("f", "F32", [2, 3], 64, 24),
        ("b", "BF16", [2, 2], 96, 8),
        ("q", "Q4_K", [256], 104, 144),
    ]
    ROWS += [
        ("odd", "F32", [2], 257, 8),
        ("none", "I64", [0, 5], 300, 0),
        ("one", "I64", [], 304, 8),
    ]

    def setUp(self) -> None:
        self.gpu = Gpu()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = os.path.join(folder.name, "calls.log")
        # The fake keeps its log open until the next cuInit.
        self.configure(DEVICES="2")
        self.addCleanup(self.configure)
        super().setUp()
        os.environ["VRAM_LIBCUDA"] = LIBRARY
        self.addCleanup(self.nothing_is_mapped)

    def configure(self, **settings: str) -> None:
        for name in [name for name in os.environ if name.startswith("VRAM_FAKE_")]:
            del os.environ[name]
        os.environ.update({f"VRAM_FAKE_{name}": value for name, value in settings.items()})
        self.gpu.call("cuInit", 0)

    def nothing_is_mapped(self) -> None:
        gc.collect()
        self.configure(DEVICES="2")
        self.assertEqual([self.gpu.used(0), self.gpu.used(1)], [0, 0])
        self.assertEqual(
            [self.gpu.status("cuDevicePrimaryCtxRelease_v2", device) for device in (0, 1)],
            [201, 201],
        )
        self.assertFalse(mapped("fake-vram"))

    def calls(self) -> List[str]:
        with open(self.log) as log:
            found = [line.split()[0] for line in log]
        os.truncate(self.log, 0)
        return found

    @contextlib.contextmanager
    def exporting(
        self, device: int = 0, fd: Optional[int] = None, **memory: Any
    ) -> Iterator[Service]:
        if fd is None:
            fd = import_from_other_process(self.CONTENT, device)
            self.addCleanup(os.close, fd)
        memory = {
            "kind": "cuda-vmm",
            "deviceUuid": uuid_of(device),
            "byteLength": 2 * GRANULE,
            **memory,
        }
        data = framed(grant(self.ROWS, len(self.CONTENT), **memory))

        with self.unchanged(), self.service(
            lambda connection, _: say(connection, data, [fd])
        ) as service:
            yield service


class Cuda(CudaCase):
    def test_tensors_are_the_bytes_of_the_other_process_and_can_be_read_only(self) -> None:
        for device in (0, 1):
            with self.exporting(device) as service:
                with vram.attach("model", DIGEST, socket=service.path) as m:
                    self.assertEqual(
                        (m.kind, m.device_uuid, m["f"].device_ordinal),
                        ("cuda-vmm", uuid_of(device), device),
                    )
                    for name, info in m.tensors.items():
                        if info.byte_length > 0:
                            expected = self.CONTENT[info.offset : info.offset + info.byte_length]
                            self.assertEqual(
                                self.gpu.read(m[name].pointer, info.byte_length, device), expected
                            )
                    whole = self.gpu.read(m.data.pointer, len(self.CONTENT), device)
                    self.assertEqual(
                        hashlib.sha256(whole).digest(), hashlib.sha256(self.CONTENT).digest()
                    )
                    self.assertEqual(
                        [self.gpu.access(m.data.pointer, n) for n in (0, 1)], [1 - device, device]
                    )
                    self.assertEqual(self.gpu.used(device), 2 * GRANULE)
                del m
            self.nothing_is_mapped()

    def test_the_array_interface(self) -> None:
        with self.exporting() as service, vram.attach("model", DIGEST, socket=service.path) as m:
            base = m.data.pointer
            rest = {"strides": None, "version": 3}
            for name, typestr, shape, offset in [
                ("f", "<f4", (2, 3), 64),
                ("b", "|u1", (8,), 96),
                ("q", "|u1", (144,), 104),
                ("odd", "|u1", (8,), 257),
                ("one", "<i8", (), 304),
            ]:
                told = {"shape": shape, "typestr": typestr, **rest}
                self.assertEqual(
                    m[name].__cuda_array_interface__, {**told, "data": (base + offset, True)}
                )
                self.assertEqual(
                    m[name].for_torch().__cuda_array_interface__,
                    {**told, "data": (base + offset, False)},
                )
                self.assertEqual(m[name].dtype, m.tensors[name].dtype)
            self.assertEqual(m["none"].__cuda_array_interface__["data"], (0, True))

    def test_tensors_keep_the_mapping_and_the_connection(self) -> None:
        with self.exporting() as service:
            tensor = vram.attach("model", DIGEST, socket=service.path)["f"].for_torch()
            gc.collect()
            self.assertEqual(self.gpu.read(tensor.pointer, 24), self.CONTENT[64:88])
            del tensor
            with vram.attach("model", DIGEST, socket=service.path) as m:
                tensor = m["f"]
            self.assertEqual(self.gpu.read(tensor.pointer, 24), self.CONTENT[64:88])
            self.configure(DEVICES="2", LOG=self.log)
            self.calls()
            del tensor, m
            undone = ["cuCtxPushCurrent_v2", "cuCtxSynchronize", "cuCtxPopCurrent_v2", "cuMemUnmap"]
            undone += ["cuMemAddressFree", "cuMemRelease", "cuDevicePrimaryCtxRelease_v2"]
            self.assertEqual(self.calls(), undone)
            self.configure(DEVICES="2")

    def test_another_gpu_is_refused(self) -> None:
        with self.exporting(deviceUuid="GPU-00000000-1111-2222-3333-444444444444") as service:
            error = self.refused_by("DEVICE_NOT_FOUND", service)
            self.assertIsInstance(error, vram.DeviceError)
            for uuid in ("GPU-00000000-1111-2222-3333-444444444444", uuid_of(0), uuid_of(1)):
                self.assertIn(uuid, error.message)
        with self.exporting(1, deviceUuid=uuid_of(0)) as service:
            self.assertIn(
                "not pinned memory of", self.refused_by("POLICY_VIOLATION", service).message
            )

    def test_what_is_no_memory_of_a_gpu_or_less_of_it_is_refused(self) -> None:
        with self.exporting(fd=self.memfd()) as service:
            error = self.refused_by("CUDA_FAILED", service)
            self.assertEqual(
                error.message, "cuMemImportFromShareableHandle: CUDA_ERROR_INVALID_VALUE (1)"
            )
        with self.exporting(byteLength=3 * GRANULE) as service:
            self.assertIn(
                "cuMemMap: CUDA_ERROR_INVALID_VALUE",
                self.refused_by("CUDA_FAILED", service).message,
            )

    def test_each_call_that_fails_leaves_nothing(self) -> None:
        undo = {
            "cuDevicePrimaryCtxRetain": "cuDevicePrimaryCtxRelease_v2",
            "cuMemMap": "cuMemUnmap",
        }
        undo.update(
            cuMemImportFromShareableHandle="cuMemRelease", cuMemAddressReserve="cuMemAddressFree"
        )
        with self.exporting() as service:
            self.configure(DEVICES="2", LOG=self.log)
            self.calls()
            m = vram.attach("model", DIGEST, socket=service.path)
            made = self.calls()
            m.close()
            del m
            self.assertEqual(made[-1], "cuMemSetAccess")
            for (status, name), at in itertools.product(
                [(2, "OUT_OF_MEMORY"), (999, "UNKNOWN")], range(len(made))
            ):
                symbol = made[at]
                os.environ["VRAM_FAKE_FAULTS"] = f"{symbol}:{made[: at + 1].count(symbol)}:{status}"
                self.calls()
                code = "DEVICE_UNUSABLE" if symbol == "cuInit" else "CUDA_FAILED"
                error = self.refused_by(code, service)
                self.assertIn(f"{symbol}: CUDA_ERROR_{name} ({status})", error.message)
                del error
                gc.collect()
                undone = [undo[call] for call in reversed(made[:at]) if call in undo]
                self.assertEqual(
                    [*made[: at + 1], *undone], [c for c in self.calls() if c != "cuGetErrorName"]
                )
                self.nothing_is_mapped()
                self.configure(DEVICES="2", LOG=self.log)
            self.configure(DEVICES="2")

    def test_memory_that_kernels_may_be_reading_stays(self) -> None:
        for fault, stays in [
            ("cuCtxSynchronize:1:700", True),
            ("cuMemUnmap:1:1", True),
            ("cuMemRelease:1:1", False),
        ]:
            with self.exporting() as service:
                m = vram.attach("model", DIGEST, socket=service.path)
                pointer = m.data.pointer
                self.configure(DEVICES="2", FAULTS=fault)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    m.close()
                    del m
                    gc.collect()
                self.assertIn(fault.split(":")[0], str(caught[0].message))
                self.configure(DEVICES="2")
                self.assertEqual(mapped("fake-vram"), stays)
                if fault.startswith("cuCtx"):
                    handle = self.gpu.get("cuMemRetainAllocationHandle", pointer)
                    self.gpu.call("cuMemUnmap", pointer, 2 * GRANULE)
                    self.gpu.call("cuMemAddressFree", pointer, 2 * GRANULE)
                    self.gpu.call("cuDevicePrimaryCtxRelease_v2", 0)
                    self.gpu.call("cuMemRelease", handle)
                    self.gpu.call("cuMemRelease", handle)
                elif stays:
                    self.gpu.call("cuMemUnmap", pointer, 2 * GRANULE)
                    self.gpu.call("cuMemAddressFree", pointer, 2 * GRANULE)
                else:
                    # Its handle is lost, its number is not: the fake counts them up by 16.
                    fd = import_from_other_process(b"x")
                    last = self.gpu.get("cuMemImportFromShareableHandle", fd, 1)
                    os.close(fd)
                    for handle in range(last, last - 160, -16):
                        self.gpu.status("cuMemRelease", handle)

    def test_libraries_that_are_no_driver(self) -> None:
        with self.exporting() as service:
            for library in (
                "/nonexistent/libcuda.so.1",
                "libc.so.6",
                os.path.join(os.path.dirname(LIBRARY), "old/libcuda.so.1"),
            ):
                os.environ["VRAM_LIBCUDA"] = library
                error = self.refused_by("DEVICE_UNUSABLE", service)
                self.assertIn(f"no CUDA driver in {library}", error.message)
            os.environ.update(VRAM_LIBCUDA=LIBRARY, VRAM_FAKE_DEVICES="0")
            self.assertIn(
                "CUDA_ERROR_NO_DEVICE (100)", self.refused_by("DEVICE_UNUSABLE", service).message
            )
            self.configure(DEVICES="2")

    def test_the_driver_is_left_alone_where_it_is_not_needed(self) -> None:
        os.environ["VRAM_LIBCUDA"] = "/nonexistent/libcuda.so.1"
        with self.granting() as service:
            vram.attach("model", DIGEST, socket=service.path).close()

    def test_a_slice_is_told_by_its_name(self) -> None:
        cuda = vram._Cuda.__new__(vram._Cuda)

        def call(symbol: str, room: Any, *_: int) -> None:
            room[:4] = b"\x01\x02\x03\x04" if symbol == "cuDeviceGetUuid_v2" else b"MIG "
            if symbol == "cuDeviceGetName":
                room.value = b"NVIDIA H200 MIG 1g.18gb"

        with mock.patch.multiple(
            cuda, create=True, call=call, get=lambda symbol, *_: int("Count" in symbol)
        ):
            self.assertEqual(cuda.find("MIG-01020304-0000-0000-0000-000000000000"), (0, 0))


class StubTensor:
    """As much of a PyTorch tensor as the example uses."""

    def __init__(
        self, owner: Any, dtype: Any, shape: tuple, device: Any, copied: bool = False
    ) -> None:
        self.owner, self.dtype, self.shape, self.device, self.copied = (
            owner,
            dtype,
            tuple(shape),
            device,
            copied,
        )

    def view(self, dtype: Any) -> StubTensor:
        if dtype is self.dtype:
            return self
        assert (
            self.dtype.itemsize == 1
            and len(self.shape) == 1
            and self.shape[0] % dtype.itemsize == 0
        )
        return StubTensor(
            self.owner, dtype, (self.shape[0] // dtype.itemsize,), self.device, self.copied
        )

    def reshape(self, shape: tuple) -> StubTensor:
        return StubTensor(self.owner, self.dtype, shape, self.device, self.copied)

    def clone(self) -> StubTensor:
        return StubTensor(None, self.dtype, self.shape, self.device, True)


def stub_torch() -> types.ModuleType:
    """PyTorch as its source has it: read-only arrays are refused (torch/csrc/utils/tensor_numpy.cpp)."""
    torch = types.ModuleType("torch")
    sizes = {"float32": 4, "bfloat16": 2, "int64": 8, "uint8": 1}
    for name, itemsize in sizes.items():
        setattr(torch, name, types.SimpleNamespace(name=name, itemsize=itemsize))

    def device(kind: str, index: Optional[int] = None) -> Any:
        kind, _, tail = str(kind).partition(":")
        return types.SimpleNamespace(type=kind, index=int(tail) if tail else index)

    def frombuffer(view: memoryview, dtype: Any) -> StubTensor:
        return StubTensor(view, dtype, (len(view) // dtype.itemsize,), device("cpu"))

    def as_tensor(owner: Any, device: Any) -> StubTensor:
        told = owner.__cuda_array_interface__
        if told["data"][1]:
            raise TypeError("the read only flag is not supported, should always be False")
        assert told["data"][0] != 0
        name = {"<f4": "float32", "|u1": "uint8", "<i8": "int64"}[told["typestr"]]
        return StubTensor(owner, getattr(torch, name), told["shape"], device)

    def empty(shape: tuple, dtype: Any, device: Any) -> StubTensor:
        return StubTensor(None, dtype, shape, device)

    torch.__dict__.update(device=device, frombuffer=frombuffer, as_tensor=as_tensor, empty=empty)
    return torch


def load_example() -> Any:
    path = os.path.join(HERE, "../../examples/pytorch/vram_safetensors.py")
    spec = importlib.util.spec_from_file_location("vram_safetensors", path)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, torch=stub_torch()):
        spec.loader.exec_module(example)
    return example


class PyTorchExample(Case):
    example = load_example()

    def test_on_the_emulated_device(self) -> None:
        rows = [("f", "F32", [2, 3], 64, 24), ("b", "BF16", [3], 88, 6), ("none", "F32", [0], 0, 0)]
        with self.granting(rows, bytes(range(128))) as service:
            weights = self.example.load_file("model", DIGEST, socket=service.path)
            found = {name: (t.dtype.name, t.shape, t.device.type) for name, t in weights.items()}
            expected = {
                "f": ("float32", (2, 3), "cpu"),
                "b": ("bfloat16", (3,), "cpu"),
                "none": ("float32", (0,), "cpu"),
            }
            self.assertEqual(found, expected)
            self.assertEqual(bytes(weights["f"].owner), bytes(range(64, 88)))
            self.assertTrue(weights["f"].owner.readonly)
            self.assertIsNone(weights.attachment.lease_ended)
            weights.attachment.close()
            for device in ("cuda", "cuda:0", "meta"):
                with self.assertRaisesRegex(ValueError, "the weights are on"):
                    self.example.load_file("model", DIGEST, device, socket=service.path)
            with self.assertRaises(vram.WrongDigest):
                self.example.load_file("model", OTHER, "cpu", socket=service.path)

    def test_a_type_that_pytorch_lacks(self) -> None:
        with self.granting([("q", "Q4_K", [256], 0, 144)]) as service:
            with self.assertRaisesRegex(TypeError, "no type for Q4_K"):
                self.example.load_file("model", DIGEST, socket=service.path)


class PyTorchExampleOnCuda(CudaCase):
    example = load_example()
    ROWS = [row for row in CudaCase.ROWS if row[1] != "Q4_K"] + [("odd_b", "BF16", [2], 401, 4)]

    def test_on_a_gpu(self) -> None:
        with self.exporting(1) as service:
            for device in (None, "cuda", "cuda:1"):
                weights = self.example.load_file("model", DIGEST, device, socket=service.path)
                found = {
                    n: (t.dtype.name, t.shape, t.device.index, t.copied) for n, t in weights.items()
                }
                expected = {"f": ("float32", (2, 3), 1, False), "b": ("bfloat16", (2, 2), 1, False)}
                expected.update(odd=("float32", (2,), 1, True), none=("int64", (0, 5), 1, False))
                expected.update(one=("int64", (), 1, False), odd_b=("bfloat16", (2,), 1, True))
                self.assertEqual(found, expected)
                pointer, tensor = weights["b"].owner.pointer, weights["b"]
                self.assertEqual(self.gpu.read(pointer, 8, 1), self.CONTENT[96:104])
                del weights
                gc.collect()
                self.assertEqual(self.gpu.read(pointer, 8, 1), self.CONTENT[96:104])
                del tensor
            for device in ("cpu", "cuda:0"):
                with self.assertRaisesRegex(ValueError, "the weights are on"):
                    self.example.load_file("model", DIGEST, device, socket=service.path)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("vram")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


@unittest.skipIf("VRAM_TEST_SOCKET" not in os.environ, "there is no service (VRAM_TEST_SOCKET)")
class Live(Case):
    """Against `vram serve`, which has sealed VRAM_TEST_FILE, of VRAM_TEST_DIGEST, as `model`."""

    def ask(self, method: str, path: str, body: Optional[dict] = None) -> dict:
        with contextlib.closing(UnixConnection(os.environ["VRAM_TEST_SOCKET"])) as connection:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            self.assertLess(answer.status, 300, told)
            return told

    def exports(self) -> int:
        return self.ask("GET", "/v1/shards/model")["shards"][0]["exports"]

    def read(self, tensor: Any) -> bytes:
        if isinstance(tensor, memoryview):
            return bytes(tensor)
        return Gpu().read(tensor.pointer, tensor.info.byte_length)

    def test_attached_to_what_was_sealed_until_it_is_evicted(self) -> None:
        digest = os.environ["VRAM_TEST_DIGEST"]
        with open(os.environ["VRAM_TEST_FILE"], "rb") as file:
            content = file.read()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        os.environ["VRAM_SOCKET"] = os.environ["VRAM_TEST_SOCKET"]

        with self.assertRaises(vram.WrongDigest):
            vram.attach("model", OTHER)
        with self.assertRaises(vram.NotResident):
            vram.attach("nothing", vram.ANY)
        with vram.attach("model", f"fsverity:{digest}", max_age_ms=0, salt=b"salt") as m:
            self.assertEqual((m.digest, self.read(m.data)), (f"fsverity:{digest}", content))
            self.assertEqual(sorted(m), sorted(header))
            for name, told in header.items():
                begin, end = told["data_offsets"]
                self.assertEqual(self.read(m[name]), content[8 + length + begin : 8 + length + end])
                self.assertEqual(list(m.tensors[name].shape), told["shape"])
            found = m.verification or {}
            self.assertEqual((found["basis"], found["salted"]["salt"]), ("measured", b"salt".hex()))
            self.assertEqual(self.exports(), 1)
        while self.exports() != 0:
            pass

        lease = self.ask("POST", "/v1/leases", {"shard": "model"})["lease"]["leaseId"]
        with self.assertRaises(vram.VramError) as caught:
            vram.attach("model", digest, lease="lease-that-never-was")
        self.assertEqual(caught.exception.code, "LEASE_NOT_FOUND")
        os.environ.update(VRAM_LEASE=lease, VRAM_NAME="model")
        with vram.attach("model", digest) as m:
            self.assertEqual(
                (m.lease["leaseId"], m.verification, m.lease_ended), (lease, None, None)
            )
            view = m.data
            self.ask("DELETE", "/v1/shards/model?revoke=true")
            while m.lease_ended is None:
                select.select([m], [], [], 1)
            self.assertEqual(m.lease_ended, "evicted")
            self.assertEqual(self.read(view), content)
        del m, view


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"]:
        export()
    else:
        unittest.main()
