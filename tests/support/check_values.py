"""Run by any Python from 3.8 on: do values and proxies cross there?  Argument: the folder of the package.

The near side's ``easycluster/__init__.py`` needs a newer Python, so an empty package stands in for it here,
as the face of the bundle does on a far side.
"""

from __future__ import annotations

import array
import os
import pickle
import sys
import threading
import types

package = types.ModuleType("easycluster")
package.__path__ = [sys.argv[1]]
sys.modules["easycluster"] = package
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support.joined_values import joined  # noqa: E402

from easycluster.errors import SerializationError  # noqa: E402
from easycluster.objects.exports import ServerObject, callback, make_server_class, make_singleton  # noqa: E402
from easycluster.wire import pickling  # noqa: E402
from easycluster.wire.values import PeerInfo  # noqa: E402


class Counter(ServerObject):
    def __init__(self):
        self.count = 0

    def add(self, more):
        self.count += more
        return self.count

    def __len__(self):
        return self.count


class Refuses:
    def __reduce__(self):
        raise RuntimeError("no")


def refusal(end, value):
    try:
        end.values.dumps(value)
    except SerializationError as exc:
        return str(exc)
    return "it was not refused"


def check():
    near, far = joined()
    counter = Counter()
    proxy = far.give([counter])[0]
    assert proxy.add(2) == len(proxy) == proxy.count == 2
    assert near.give({"a": (proxy,)})["a"][0] is counter
    assert type(pickle.loads(pickle.dumps(counter, 5))) is Counter
    assert list(far.give(number for number in range(3))) == [0, 1, 2]
    assert far.give(array).array("B", b"ab")[1] == 98
    assert near.give(callback(len))("abc") == 3

    large = bytes(200_000)
    for value in (large, bytearray(large), ("f", (large,), {"a": bytearray(large)}), memoryview(large)):
        assert near.give(value) == value
    pickling.required.discard(pickling.WARY)

    for poison in (threading.Lock(), Refuses()):
        text = refusal(far, [Counter(), {"bad": poison}])
        assert text.startswith("value[1]['bad']: "), text
    near.values.peer = PeerInfo("gpu01:22", ("cpython", 3, 99, 1))
    assert "put it into define_common" in refusal(near, [lambda: 1])

    make_server_class(array.array)
    single = make_singleton([1])
    values, numbers = far.give([array.array("B", b"ab"), single])
    values.append(1)
    numbers.append(2)
    assert (len(values), single, list(numbers), list(values)) == (3, [1, 2], [1, 2], [97, 98, 1])
    assert near.give(numbers) is single

    before = len(far.exports)
    del proxy, values, numbers
    near.settle()
    assert len(far.exports) < before
    assert not pickling.met
    assert not pickling.at_load


check()
print("well")
