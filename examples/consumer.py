"""A program that uses sealed weights where they lie, and stops when nobody vouches for them.

    PYTHONPATH=clients/python python3 examples/consumer.py NAME fsverity:HEX

`07-python-consumer.sh` runs it. Standard library; NumPy where it is there. On a GPU `m[name]` is no
memoryview but an object with `__cuda_array_interface__` (docs/attach.md).
"""

import select
import sys

from vram_residency import VramError, attach

try:
    import numpy
except ImportError:
    numpy = None

TENSOR = "model.norm.weight"


def first_weight(view):
    """The first weight of a BF16 tensor: the upper half of a 32-bit float."""
    if numpy is None:
        return memoryview(b"\0\0" + view[:2]).cast("f")[0]
    bits = numpy.frombuffer(view, dtype="<u2")  # no copy: the array lies on the view
    assert not bits.flags.owndata and not bits.flags.writeable
    return float((bits[:1].astype("<u4") << 16).view("<f4")[0])


def main(name, digest):
    with attach(name, expect=digest) as m:
        info, view = m.tensors[TENSOR], m[TENSOR]
        print(f"attached to {m.digest}, {len(m)} tensors, backend {m.record['backend']}")
        print(f"{info.name}: {info.dtype} {info.shape} at {info.offset}")
        print(f"its first weight is {first_weight(view)}, {'by NumPy' if numpy else 'without NumPy'}")
        try:
            view[0] = 0
        except TypeError:
            print("the view is read-only")
        print(f"at work under {m.lease['leaseId']}", flush=True)

        # An engine would look at `m.lease_ended` between two requests; it never waits. This one has
        # nothing else to do: the connection is readable when there is something to hear.
        while m.lease_ended is None:
            select.select([m], [], [])
        print(f"told: {m.lease_ended}")
        print(f"its first weight is {first_weight(view)}: it must not be used")
        return 0 if m.lease_ended == "unreliable" else 1


try:
    sys.exit(main(*sys.argv[1:]))
except VramError as error:
    sys.exit(f"{error}\n  {error.fix}")
