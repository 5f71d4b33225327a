"""Tests of vram_residency.py, with the standard library's unittest; test/crash/python-client.test.ts runs them.

A fake attach server in threads of this process says whatever a test wants. After each test the process has as
many descriptors as before it. `VRAM_TEST_LIBCUDA` is the fake libcuda of test/border/fake; its memory is made by
another process. `VRAM_TEST_SOCKET` and `VRAM_TEST_EXPECT` are a service of ours that has sealed `model`.
"""

from __future__ import annotations

import array
import contextlib
import copy
import ctypes
import fcntl
import gc
import hashlib
import io
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
    record = {"shardId": "shard-1", "name": "model", "state": "sealed", "backend": backend, "digest": DIGEST}
    record.update(device={"ordinal": 0, "uuid": memory["deviceUuid"]}, byteLength=byte_length, sha256=SHA256)
    lease = {"leaseId": "lease-1", "shardId": "shard-1", "digest": DIGEST}
    keys = ("name", "dtype", "shape", "offset", "byteLength")
    rows = [dict(zip(keys, tensor)) for tensor in tensors]
    verification = {"digest": DIGEST, "basis": "measured"}
    told = {"record": record, "seal": {"digest": DIGEST}, "lease": lease, "verification": verification}
    return {"v": 1, "ok": True, "exportId": "export-1", **told, "tensors": rows, "memory": memory}


def refusal(code: str, **details: Any) -> dict:
    problem = {"code": code, "status": 409, "detail": f"refused as {code}", "fix": "mend it", "details": details}
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
        environment = {key: value for key, value in os.environ.items() if key not in ("VRAM_LEASE", "VRAM_NAME")}
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
        rows = [("a", "F32", [2, 2], 16, 16), ("b", "BF16", [3], 101, 6), ("none", "F32", [0, 7], 4096, 0)]
        with self.granting(rows, content) as service:
            with vram.attach("model", f"fsverity:{DIGEST}", socket=service.path) as m:
                self.assertEqual(m.tensors["a"], vram.TensorInfo("a", "F32", (2, 2), 16, 16))
                self.assertEqual((list(m), len(m), list(m.keys())), (["a", "b", "none"], 3, ["a", "b", "none"]))
                self.assertEqual(bytes(m["a"]), content[16:32])
                self.assertEqual(bytes(m["b"]), content[101:107])
                self.assertEqual((bytes(m["none"]), bytes(m.data)), (b"", content))
                self.assertEqual({name: bytes(view) for name, view in m.items()}["a"], content[16:32])
                with self.assertRaises(TypeError):
                    m["a"][0] = 1  # type: ignore[index]
                with self.assertRaises(KeyError):
                    m["c"]
                self.assertEqual((m.digest, m.kind, m.device_uuid), (f"fsverity:{DIGEST}", "memfd", "EMU-1"))
                told = (m.record["name"], m.seal["digest"], m.lease["leaseId"], m.verification)
                self.assertEqual(told, ("model", DIGEST, "lease-1", {"digest": DIGEST, "basis": "measured"}))
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
                self.assertIsInstance(self.refused_by("DIGEST_MISMATCH", service, expect=expect), vram.WrongDigest)

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
                ran = subprocess.run([sys.executable, "-c", look], close_fds=False, capture_output=True, text=True)
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
            self.assertIn(f"a grant with {count} descriptors", self.with_descriptors(grant(), count).message)
        self.assertIn("behind the first byte", self.with_descriptors(grant(), 1, late=True).message)
        self.assertIn("a refusal with a descriptor", self.with_descriptors(refusal("SHARD_BUSY"), 1).message)

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
            self.assertIn("more descriptors than this process may have", error.message)

    def test_messages_that_are_none(self) -> None:
        for text in (b"", b"{", b"[]", b"null", b"7", b"\xff{}", b"{}", b'{"v":2,"ok":true}', b"[" * 100_000):
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
            inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
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

        replies = [(reply, [fd]) for reply in variants(whole)] + [(r, []) for r in variants(refusal("INTERNAL"))]
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
            ("no measurement", lambda r: r["verification"].update(basis="fresh-enough"), {"max_age_ms": 0}),
            ("no measurement", lambda r: r.pop("verification"), {"max_age_ms": 0}),
            ("no measurement", lambda r: None, {"salt": "00"}),
            ("no measurement", lambda r: r["verification"].update(salted={"salt": "01"}), {"salt": "00"}),
            ("memory of another backend", lambda r: r["memory"].update(kind="cuda-vmm"), {}),
            ("memory of another backend", lambda r: r["record"].update(backend="cuda"), {}),
            ("memory of another device", lambda r: r["memory"].update(deviceUuid="EMU-2"), {}),
            ("less memory", lambda r: r["record"].update(byteLength=PAGE + 1), {}),
            ("less memory", lambda r: r["record"].update(byteLength=0), {}),
        ]:
            self.assertIn(what, self.refused("SERVICE_UNREACHABLE", said(change), **terms).message)

    def test_tensors_that_do_not_fit(self) -> None:
        fd, row = self.memfd(), {"name": "a", "dtype": "F32", "shape": [2], "offset": 0, "byteLength": 8}
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
            error = self.refused("POLICY_VIOLATION", lambda c, _, fd=fd: say(c, framed(grant()), [fd]))
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
        event = framed({"v": 1, "event": "lease_ended", "leaseId": "lease-1", "because": "unreliable"})
        self.assertEqual(self.follow(event), ["unreliable"] * 2)
        self.assertEqual(self.follow(event[:3], event[3:9], event[9:]), [None, None, "unreliable", "unreliable"])
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
        for piece in (framed(b"nonsense"), struct.pack("<I", vram.MAX_MESSAGE_BYTES + 1), framed({"v": 7})):
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
            ({"XDG_RUNTIME_DIR": "/run/user/7", "VRAM_SOCKET": ""}, None, "/run/user/7/vram-residency/vram.sock"),
            ({"XDG_RUNTIME_DIR": "relative"}, None, "/run/vram-residency/vram.sock" if machine else usual),
        ]:
            with mock.patch.dict(os.environ, environment, clear=True):
                self.assertEqual(vram.service_socket(argument), path)

    def test_in_a_folder_for_everybody_the_own_one_must_be_ones_own(self) -> None:
        own = os.path.join(self.folder, "vram-residency-1234")
        environment = {"TMPDIR": self.folder}
        with mock.patch.dict(os.environ, environment, clear=True), mock.patch("os.getuid", return_value=1234):
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
            self.assertEqual((code, found["expected"], found["record"]["name"]), (0, DIGEST, "model"))
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
            with self.service(lambda c, _, refused=refused: say(c, framed(refusal(refused)))) as service:
                self.assertEqual(self.run_main("model", "--socket", service.path)[0], code)


if __name__ == "__main__":
    unittest.main()
