"""Power by Redfish: a management controller's systems, over HTTPS, with the standard library.

What DSP0266 and the ComputerSystem schema say: the service root leads to the systems, each of which names the target of
its reset action and the types that it takes, there or in an action info.  An answer 202 is a task that is asked again
until it is over.  Only addresses of the controller that was named are followed: what it says could lead elsewhere, and
our password would go with us.

This module is shipped to the far side.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple, Union

from easycluster.errors import EasyClusterError, Unsupported

__all__ = ["Redfish", "RedfishError", "switch"]

ROOT = "/redfish/v1/"
LIMIT = 60.0
# Of one request.
_REQUEST = 20.0
# Seconds between two looks at a task or a state, and the bytes that an answer may have.
_PAUSE = 0.3
_LONGEST = 4 << 20

# What is asked for, and the types that do it, the first that the system takes; power is cut, not asked to go.
_TYPES = {"on": ("On", "ForceOn"), "off": ("ForceOff",), "cycle": ("PowerCycle", "ForceRestart")}
_STATES = {"on": "On", "off": "Off"}
_OVER = ("Completed", "Exception", "Killed", "Cancelled")

# A status, the answer as a mapping, and its headers in small letters.
Answer = Tuple[int, Dict[str, Any], Dict[str, str]]


class RedfishError(EasyClusterError, OSError):
    """A controller cannot be asked, or did not do it; says what it said."""


class _SamePlace(urllib.request.HTTPRedirectHandler):
    """Follows redirects on one controller only: headers, and so the password, go with them."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if _origin(newurl) != _origin(req.full_url):
            raise RedfishError(f"{_origin(req.full_url)} sends us to {_origin(newurl)}, which nobody has named")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Redfish:
    """A management controller.

    Args:
        url: ``https://host:port``, or a host's name.
        user: Who logs in.
        password: His.
        auth: ``"basic"``, or ``"session"`` for a session that is made and deleted.
        verify: ``"yes"``, ``"no"``, or a file with certificates that are trusted.
        limit: Seconds for all that one switch takes.
    """

    def __init__(
        self,
        url: str,
        user: str = "",
        password: str = "",
        auth: str = "basic",
        verify: str = "yes",
        limit: float = LIMIT,
    ) -> None:
        whole = url if "://" in url else f"https://{url}"
        parts = urllib.parse.urlsplit(whole)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise RedfishError(f"{parts.hostname or url!r}: a controller is named https://host or https://host:port")
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._user = user
        self._password = password
        self._auth = auth
        self._end = time.monotonic() + limit
        self._limit = limit
        self._token = ""
        # BMCs are not behind proxies, and what the environment says about those is for other things.
        handlers: List[Any] = [urllib.request.ProxyHandler({}), _SamePlace()]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=_context(verify)))
        self._opener = urllib.request.build_opener(*handlers)

    def __repr__(self) -> str:
        return f"<Redfish {self._base}>"

    # Requests ------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Answer:
        url = urllib.parse.urljoin(self._base + ROOT, path)
        if _origin(url) != _origin(self._base):
            raise RedfishError(f"{self._base} names {_origin(url)}, which nobody else has")
        headers = {"Accept": "application/json", "OData-Version": "4.0"}
        if self._token:
            headers["X-Auth-Token"] = self._token
        elif self._user and self._auth == "basic":
            plain = f"{self._user}:{self._password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(plain).decode()
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data, headers, method=method)
        left = self._end - time.monotonic()
        if left <= 0:
            self._too_late(f"{method} {path}")
        try:
            with self._opener.open(request, timeout=min(_REQUEST, left)) as answer:
                return answer.status, _json(answer.read(_LONGEST)), _lower(answer.headers)
        except urllib.error.HTTPError as exc:
            with exc:
                self._refuse(exc.code, f"{method} {path}", _json(exc.read(_LONGEST)))
        except urllib.error.URLError as exc:
            if isinstance(exc.reason, ssl.SSLCertVerificationError):
                text = f"its certificate is not trusted ({exc.reason.verify_message})"
                raise RedfishError(f"{self._base}: {text}; name a file with it: verify: FILE, or verify: no") from None
            raise RedfishError(f"{self._base}: {exc.reason}") from None
        except (OSError, ValueError) as exc:
            raise RedfishError(f"{self._base}: {method} {path}: {exc}") from None

    def _refuse(self, code: int, what: str, body: Dict[str, Any]) -> NoReturn:
        if code in (401, 403):
            raise RedfishError(f"{self._base}: user {self._user!r} is refused ({code}): see user and password")
        raise RedfishError(f"{self._base}: {what}: {code} {_message(body)}".rstrip())

    def _too_late(self, what: str) -> NoReturn:
        raise RedfishError(f"{self._base}: {what} was not over within {self._limit:g} s")

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Be logged in, if that takes a session."""
        if self._auth != "session":
            yield
            return
        root = self._ask("GET", ROOT)[1]
        where = root.get("Links", {}).get("Sessions", {}).get("@odata.id", ROOT + "SessionService/Sessions")
        body = {"UserName": self._user, "Password": self._password}
        _, _, headers = self._ask("POST", where, body)
        self._token = headers.get("x-auth-token", "")
        if not self._token:
            raise RedfishError(f"{self._base}: a session was made, and no token given")
        try:
            yield
        finally:
            # It is forgotten by itself some time later.
            with contextlib.suppress(RedfishError):
                if headers.get("location"):
                    self._ask("DELETE", headers["location"])
            self._token = ""

    # Systems -------------------------------------------------------------------------------------

    def system(self, wanted: str = "") -> Dict[str, Any]:
        """A system of the controller.

        Args:
            wanted: Its path, identifier, name or UUID; not needed if there is only one.
        """
        if wanted.startswith("/"):
            return self._ask("GET", wanted)[1]
        root = self._ask("GET", ROOT)[1]
        if "Systems" not in root:
            raise Unsupported("power()", f"{self._base} has no systems")
        members = self._ask("GET", root["Systems"]["@odata.id"])[1].get("Members", [])
        found = [self._ask("GET", one["@odata.id"])[1] for one in members]
        if wanted:
            named = [one for one in found if wanted in (one.get("Id"), one.get("Name"), one.get("UUID"))]
        else:
            named = found
        if len(named) != 1:
            names = ", ".join(str(one.get("Id")) for one in found) or "none"
            text = f"no system {wanted!r}" if wanted and not named else f"{len(named)} systems"
            raise RedfishError(f"{self._base} has {text}; say which with system: (it has {names})")
        return named[0]

    def state(self, wanted: str = "") -> str:
        """``"on"`` or ``"off"``; a system that is going to be one of them counts as the other."""
        said = str(self.system(wanted).get("PowerState"))
        states = {"On": "on", "PoweringOff": "on", "Paused": "on", "Off": "off", "PoweringOn": "off"}
        if said not in states:
            raise RedfishError(f"{self._base}: power is neither on nor off but {said!r}")
        return states[said]

    def reset(self, what: str, wanted: str = "") -> None:
        """Switch a system ``"on"``, ``"off"`` or through a ``"cycle"``.

        Raises:
            Unsupported: If it takes no such reset.
            RedfishError: If it does not work, or not in time.
        """
        system = self.system(wanted)
        action = system.get("Actions", {}).get("#ComputerSystem.Reset")
        if action is None:
            raise Unsupported(f"power({what!r})", f"{self._base} does not switch its system")
        if _STATES.get(what) == system.get("PowerState"):
            return
        taken = self._allowed(action)
        kinds = [kind for kind in _TYPES[what] if taken is None or kind in taken]
        path = system["@odata.id"]
        if not kinds:
            if what == "cycle":
                self.reset("off", path)
                self.reset("on", path)
                return
            raise Unsupported(f"power({what!r})", f"{self._base} takes only {', '.join(taken or ())}")
        if what == "cycle" and system.get("PowerState") == "Off":
            # Many controllers refuse to restart what is off.
            self.reset("on", path)
            return
        self._do(action["target"], kinds[0])
        if what in _STATES:
            self._wait_for(path, _STATES[what])

    def _allowed(self, action: Dict[str, Any]) -> Optional[List[str]]:
        """The reset types that are taken, or None if the controller does not say."""
        said = action.get("ResetType@Redfish.AllowableValues")
        if said is None and "@Redfish.ActionInfo" in action:
            parameters = self._ask("GET", action["@Redfish.ActionInfo"])[1].get("Parameters", [])
            said = next((one.get("AllowableValues") for one in parameters if one.get("Name") == "ResetType"), None)
        return None if said is None else [str(one) for one in said]

    def _do(self, target: str, kind: str) -> None:
        code, body, headers = self._ask("POST", target, {"ResetType": kind})
        monitor = headers.get("location") or body.get("@odata.id")
        while code == 202 and monitor:
            self._pause(f"the task {kind}")
            code, body, headers = self._ask("GET", monitor)
            state = body.get("TaskState")
            if state in _OVER:
                break
            # A task resource answers 200 as long as it is there.
            code = 202 if state else code
        if body.get("TaskState", "Completed") != "Completed" or body.get("TaskStatus", "OK") == "Critical":
            raise RedfishError(f"{self._base}: {kind} ended as {body.get('TaskState')}: {_message(body)}")

    def _wait_for(self, path: str, state: str) -> None:
        while self._ask("GET", path)[1].get("PowerState") != state:
            self._pause(f"power {state}")

    def _pause(self, what: str) -> None:
        if time.monotonic() + _PAUSE > self._end:
            self._too_late(what)
        time.sleep(_PAUSE)


def switch(what: str, system: str = "", **options: Any) -> str:
    """Switch a system, or ask (``"status"``); returns ``"on"`` or ``"off"``, ``""`` after switching.

    Args:
        what: ``"on"``, ``"off"``, ``"cycle"`` or ``"status"``.
        system: See :meth:`Redfish.system`.
        options: See :class:`Redfish`.
    """
    controller = Redfish(**options)
    with controller.session():
        if what == "status":
            return controller.state(system)
        controller.reset(what, system)
        return ""


def _context(verify: str) -> ssl.SSLContext:
    if verify.lower() in ("yes", "true", "on"):
        return ssl.create_default_context()
    if verify.lower() in ("no", "false", "off"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context = ssl.create_default_context(cafile=verify)
    except (OSError, ssl.SSLError) as exc:
        raise RedfishError(f"verify: {verify}: {exc.strerror or exc}") from None
    # Who names the very certificate of a controller knows whose it is; most are made out to no name at all.
    context.check_hostname = False
    return context


def _origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _json(data: bytes) -> Dict[str, Any]:
    try:
        said: Union[Dict[str, Any], Any] = json.loads(data or b"{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _lower(headers: Any) -> Dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}


def _message(body: Dict[str, Any]) -> str:
    """What a controller says was wrong, in its error or its task."""
    error = body.get("error", {})
    infos = [*error.get("@Message.ExtendedInfo", []), *body.get("Messages", [])]
    texts = [str(one.get("Message")) for one in infos if isinstance(one, dict) and one.get("Message")]
    return "; ".join(texts) or str(error.get("message", ""))
