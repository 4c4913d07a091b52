"""Redfish as controllers differ in it: sessions, tasks, action infos, reset types, and answers that lead elsewhere."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from easycluster.devices.redfish import RedfishError, switch
from easycluster.errors import Unsupported

SYSTEM = "/redfish/v1/Systems/1"
TOKEN = "t0k3n"


class Controller(ThreadingHTTPServer):
    """A controller of one system, small but honest: its power changes when it is asked for the second time.

    Attributes:
        allowed: Reset types that it takes, or None for one that does not say.
        in_info: Whether it says so in an action info.
        tasks: Answers of the task that a reset becomes, one after the other; none for no task.
        with_session: Whether only a session's token opens it.
    """

    daemon_threads = True

    def __init__(self):
        self.power, self.pending = "On", ""
        self.allowed, self.in_info = ["On", "ForceOff", "ForceRestart"], False
        self.tasks, self.with_session, self.elsewhere = [], False, ""
        self.requests, self.sessions = [], 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(f"GET {self.path}")
        if self.path == "/redfish/v1/":
            return self.answer(200, {"Systems": {"@odata.id": server.elsewhere or "/redfish/v1/Systems"}})
        if server.with_session and self.headers.get("X-Auth-Token") != TOKEN:
            return self.answer(401, {})
        if self.path == "/away":
            return self.answer(302, {}, Location="http://127.0.0.1:9/redfish/v1/Systems")
        if self.path == "/redfish/v1/Systems":
            return self.answer(200, {"Members": [{"@odata.id": SYSTEM}]})
        if self.path == "/info":
            return self.answer(200, {"Parameters": [{"Name": "ResetType", "AllowableValues": server.allowed}]})
        if self.path == "/task":
            state = server.tasks.pop(0)
            return self.answer(200, {"TaskState": state, "Messages": [{"Message": "no power supply"}]})
        power = server.power
        server.power, server.pending = server.pending or power, ""
        action = {"target": f"{SYSTEM}/reset"}
        if server.in_info:
            action["@Redfish.ActionInfo"] = "/info"
        elif server.allowed is not None:
            action["ResetType@Redfish.AllowableValues"] = server.allowed
        actions = {"#ComputerSystem.Reset": action}
        return self.answer(200, {"@odata.id": SYSTEM, "Id": "1", "PowerState": power, "Actions": actions})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append(f"POST {self.path} {body.get('ResetType', '')}".strip())
        if self.path.endswith("/Sessions"):
            if body != {"UserName": "ann", "Password": "hunter-22"}:
                return self.answer(401, {})
            server.sessions += 1
            return self.answer(201, {}, **{"X-Auth-Token": TOKEN, "Location": "/redfish/v1/sessions/1"})
        kind = body["ResetType"]
        if server.allowed is not None and kind not in server.allowed:
            return self.answer(400, {"error": {"message": f"no {kind} here"}})
        server.pending = {"On": "On", "ForceOff": "Off"}.get(kind, "")
        if server.tasks:
            return self.answer(202, {}, Location="/task")
        return self.answer(204, None)

    def do_DELETE(self):
        self.server.sessions -= 1
        self.answer(204, None)

    def answer(self, code, body, **headers):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def controller():
    with Controller() as controller:
        yield controller
        controller.shutdown()


def resets(controller):
    return [one.rpartition(" ")[2] for one in controller.requests if one.startswith(f"POST {SYSTEM}/reset")]


def test_power_has_changed_when_it_returns(controller):
    switch("off", url=controller.url)
    assert controller.power == "Off"
    assert switch("status", url=controller.url) == "off"
    switch("on", url=controller.url)
    assert resets(controller) == ["ForceOff", "On"]


def test_what_is_so_already_is_not_asked_for(controller):
    switch("on", url=controller.url)
    assert resets(controller) == []


def test_a_session_is_made_and_deleted(controller):
    controller.with_session = True
    options = {"url": controller.url, "user": "ann", "password": "hunter-22", "auth": "session"}
    assert switch("status", **options) == "on"
    assert controller.sessions == 0
    with pytest.raises(RedfishError, match=r"user 'ann' is refused \(401\): see user") as caught:
        switch("status", **{**options, "auth": "basic"})
    assert "hunter" not in str(caught.value)


def test_a_task_is_waited_for(controller):
    controller.tasks = ["New", "Running", "Completed"]
    switch("cycle", url=controller.url)
    assert controller.tasks == []


def test_a_task_that_fails_says_what_it_says(controller):
    controller.tasks = ["Running", "Exception"]
    with pytest.raises(RedfishError, match=r"ForceRestart ended as Exception: no power supply$"):
        switch("cycle", url=controller.url)


def test_a_task_that_does_not_end_is_not_waited_for_without_end(controller):
    controller.tasks = ["Running"] * 1000
    with pytest.raises(RedfishError, match=r"the task ForceRestart was not over within 0\.7 s$"):
        switch("cycle", url=controller.url, limit=0.7)


@pytest.mark.parametrize("in_info", [False, True])
@pytest.mark.parametrize(
    ("allowed", "sent"),
    [
        (["On", "ForceOff", "PowerCycle", "ForceRestart"], ["PowerCycle"]),
        (["On", "ForceOff", "GracefulRestart"], ["ForceOff", "On"]),
    ],
)
def test_a_cycle_is_what_the_controller_has(controller, in_info, allowed, sent):
    controller.in_info, controller.allowed = in_info, allowed
    switch("cycle", url=controller.url)
    assert resets(controller) == sent


def test_a_controller_that_does_not_say_what_it_takes_is_asked_anyway(controller):
    controller.allowed = None
    switch("off", url=controller.url)
    assert resets(controller) == ["ForceOff"]


def test_what_it_does_not_take_is_unsupported(controller):
    controller.allowed = ["On", "GracefulShutdown"]
    with pytest.raises(Unsupported, match=r"^power\('off'\): .* takes only On, GracefulShutdown$"):
        switch("off", url=controller.url)


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/redfish/v1/Systems", "/away"])
def test_nobody_leads_the_password_elsewhere(controller, where):
    controller.elsewhere = where
    with pytest.raises(RedfishError, match=r"http://127\.0\.0\.1:9, which nobody"):
        switch("status", url=controller.url, user="ann", password="hunter-22")


@pytest.mark.parametrize("url", ["ftp://bmc", "https://ann:hunter@bmc", "https://"])
def test_an_address_that_is_none_is_refused_and_not_repeated_with_its_password(url):
    with pytest.raises(RedfishError, match="a controller is named https://host") as caught:
        switch("status", url=url)
    assert "hunter" not in str(caught.value)
