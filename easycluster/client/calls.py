"""Calls, globals and objects: what a client is asked for by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from easycluster.client.items import iterate
from easycluster.errors import RemoteException
from easycluster.link.operations import Op
from easycluster.objects.wrappers import take_keywords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Calls"]


class Calls:
    """The methods of a client that ask the far side for something, one request each."""

    if TYPE_CHECKING:
        # The client's own: send a request, and wait for its answer unless told otherwise.
        _request: Callable[..., Any]
        # The same for a request without keywords, by the quick way.
        _call: Callable[..., Any]
        _chosen: Callable[..., BaseException]
        _sent_blocks: dict[str, int]

    def call(self, func: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function by name.

        Args:
            func: Dotted name; simple names are looked for in the definitions first.
            args: Positional arguments.
            kwargs: Keyword arguments; ``nonblocking``, ``oncomplete``, ``onerror``, ``threadid`` and
                ``origexc`` are taken out and mean what they mean in :meth:`send_request`.
        """
        keywords = take_keywords(kwargs)
        return self._request((Op.CALL, func, args, kwargs), *keywords)

    def raw_call(
        self,
        func: str,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Call a function by name; nothing is taken out of ``kwargs``.

        Args:
            func: Dotted name.
            args: Positional arguments.
            kwargs: Keyword arguments.
            nonblocking: See :meth:`send_request`.
            oncomplete: See :meth:`send_request`.
            onerror: See :meth:`send_request`.
            threadid: See :meth:`send_request`.
            origexc: See :meth:`send_request`.
            timeout: See :meth:`send_request`.
        """
        operation = (Op.CALL, func, tuple(args), kwargs or {})
        return self._request(operation, nonblocking, oncomplete, onerror, threadid, origexc, timeout)

    def send_request(
        self,
        oid: int,
        meth: str,
        args: Sequence[Any],
        kwargs: dict[str, Any] | None = None,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Call a method of a far-side object.

        Args:
            oid: Number of the object; 0 is the root object, see :meth:`get_root`.
            meth: Name of the method.
            args: Positional arguments.
            kwargs: Keyword arguments.
            nonblocking: Return a :class:`NonblockingResponse` at once.
            oncomplete: Return at once; called with the result later: a function, or a tuple of a
                function and further arguments.
            onerror: Called with a RemoteException instead of ``oncomplete`` if the call raised.
            threadid: Number of the far-side thread to run it in, any int; ``SINGLE`` for a new one.
            origexc: True raises the original exception and prints the far-side traceback,
                ``"quiet"`` raises it without printing, False raises a RemoteException.
            timeout: Seconds until the call is stopped on the far side.

        Returns:
            The result, a response, or the request's number with ``oncomplete``.

        Raises:
            CallTimeout: If it did not finish in time.
            SessionError: If the session has ended.
            SerializationError: If a value cannot cross.
            Exception: What the call raised.
        """
        keywords = (nonblocking, oncomplete, onerror, threadid, origexc, timeout)
        if oid == 0:
            return self.get_root().raw_call_method(meth, tuple(args), kwargs, *keywords)
        return self._request((Op.METHOD, oid, meth, tuple(args), kwargs or {}), *keywords)

    def get_attribute(self, oid: int, name: str, **keywords: Any) -> Any:
        """Return an attribute of a far-side object."""
        if not keywords:
            return self._look_up((Op.GET, oid, name))
        return self._request((Op.GET, oid, name), **keywords)

    def set_attribute(self, oid: int, name: str, value: Any, **keywords: Any) -> Any:
        """Set an attribute of a far-side object."""
        return self._request((Op.SET, oid, name, value), **keywords)

    def del_attribute(self, oid: int, name: str, **keywords: Any) -> Any:
        """Delete an attribute of a far-side object."""
        return self._request((Op.DELETE, oid, name), **keywords)

    def get_method(self, oid: int, name: str) -> tuple[bool, Any]:
        """Return ``(True, None)`` if the attribute is a method, else ``(False, its value)``."""
        found: tuple[bool, Any] = self._look_up((Op.METHOD_OR_VALUE, oid, name))
        return found

    def _look_up(self, operation: tuple[Any, ...]) -> Any:
        """Do a request whose AttributeError is an answer like others, so that it is not printed."""
        try:
            return self._call(operation, False)
        except RemoteException as exc:
            error = exc
        # Out here, because ``raise`` in there would replace the context that the original came with.
        try:
            raise self._chosen(error, "quiet" if isinstance(error.orig, AttributeError) else True)
        finally:
            del error  # see _request

    def stream(self, oid: int) -> Iterator[Any]:
        """Iterate over a far-side generator, reading ahead while the caller works on what came."""
        return iterate(self, oid)  # type: ignore[arg-type]  # only a BaseClient has this class

    def eval(
        self,
        expr: str,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Evaluate an expression among the definitions; keywords as in :meth:`send_request`."""
        return self._request((Op.EVAL, expr), nonblocking, oncomplete, onerror, threadid, origexc, timeout)

    def execblock(
        self,
        code: str,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
        timeout: float | None = None,
    ) -> Any:
        """Run statements among the definitions; returns what they give to ``exec_return``."""
        return self._request((Op.EXEC, code), nonblocking, oncomplete, onerror, threadid, origexc, timeout)

    def import_modules(
        self,
        names: Iterable[str],
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
    ) -> Any:
        """Import modules on the far side; keywords as in :meth:`send_request`."""
        return self._request((Op.IMPORT, list(names)), nonblocking, oncomplete, onerror, threadid, origexc)

    def import_module(
        self,
        name: str,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
    ) -> Any:
        """Import a module on the far side; keywords as in :meth:`send_request`."""
        return self.import_modules([name], nonblocking, oncomplete, onerror, threadid, origexc)

    def get_root(self) -> Any:
        """Return a proxy for the root object, which has ``call``, ``eval`` and so on as methods."""
        return self._request((Op.SERVICE, "root"))

    def update_definitions(
        self,
        nonblocking: bool = False,
        oncomplete: Any = None,
        onerror: Any = None,
        threadid: int | None = None,
        origexc: bool | str = True,
    ) -> Any:
        """Send what ``define_common`` got since the last time.

        Raises:
            Exception: What the definitions raise on the far side.
        """
        blocks, counts = self._new_blocks()
        if not blocks and not (nonblocking or oncomplete is not None):
            return None
        result = self._request((Op.UPDATE, blocks), nonblocking, oncomplete, onerror, threadid, origexc)
        self._sent_blocks.update(counts)
        return result if nonblocking or oncomplete is not None else None

    def _new_blocks(self) -> tuple[list[Any], dict[str, int]]:
        """Return the definitions this worker lacks, and how many it has afterwards."""
        return [], {}
