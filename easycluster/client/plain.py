"""Plain data from a keeper: pickles that name nothing.

What far-side *code* returns may be anything, and is unpickled as such.  What keepers and workers say
of themselves is numbers and texts only, and is read by somebody who looks after every session of the
process: it must not import or call a thing, whatever it claims to be.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

from easycluster.errors import RemoteProtocolError

__all__ = ["load_plain"]


def load_plain(data: bytes) -> dict[str, Any]:
    """Return the dictionary in a pickle of builtin values.

    Raises:
        RemoteProtocolError: If it is something else.
    """
    try:
        value = _PlainUnpickler(io.BytesIO(data)).load()
    except RemoteProtocolError:
        raise
    except Exception as exc:
        raise RemoteProtocolError("what the far side says of itself cannot be read") from exc
    if not isinstance(value, dict):
        raise RemoteProtocolError("what the far side says of itself is no dictionary")
    return value


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise RemoteProtocolError("what the far side says of itself is more than plain data")
