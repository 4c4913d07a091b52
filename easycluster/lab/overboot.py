"""Leases over boots: what is to be undone is kept by the host, and the locks are kept for this run."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from easycluster.errors import SessionError, Unsupported
from easycluster.lab.holders import Holder, HostBusy, LeaseError, LockRule, clock
from easycluster.lab.releases import Failure

if TYPE_CHECKING:
    from easycluster.lab.host import Host
    from easycluster.lab.lab import Lab
    from easycluster.lab.lease import Lease, Part
    from easycluster.lab.leases import Leases

__all__ = ["begin", "bring_back", "carry", "refuse_others", "resume", "take_again", "was_asked"]

# Each action has a time limit of its own.
_RECOVERY_TIME: Final = 600.0
_ANSWER_TIME: Final = 20.0
# A host whose link was cut lets go of a session after three heartbeats, and undoes what is to be undone before.
_LET_GO_TIME: Final = 60.0


def begin(leases: Leases, part: Part, question: dict[str, Any]) -> dict[str, Any]:
    """Begin the account of a lease on a host; what somebody left to be undone there is undone first.

    Raises:
        HostBusy: If that fails; nobody gets the host then.
    """
    lock = _lock_of(leases, part)
    if not lock:
        return leases._ask(part, question)
    info = {key: leases._info[key] for key in ("user", "host", "token")}
    parts = {lease.label: lease._parts.get(part.host.name) for lease in leases._open}
    label = next((label for label, one in parts.items() if one is part), "") or leases.label
    boots = any(one is not None and one.boots for one in parts.values())
    keep = {"lock": lock, "boots": boots, "info": {**info, "label": label}}
    begun = leases._ask(part, {**question, "keep": keep})
    if begun.get("pending"):
        _recover(leases, part, lock)
        begun = leases._ask(part, {**question, "keep": keep})
        if begun.get("pending"):
            raise LeaseError("something to be undone was left there, and is not to be had", part.host.name)
    return begun


def _lock_of(leases: Leases, part: Part) -> str:
    """The host's lock, ``""`` if the lease only has locks of the whole lab there."""
    rule = LockRule.of(part.host._entry)
    is_leased = rule.name in part.wanted or rule.mode == "none" or not leases.enabled
    return rule.name if is_leased else ""


def _recover(leases: Leases, part: Part, lock: str) -> None:
    name = part.host.name
    answer = leases._ask(part, {"op": "recover", "lock": lock}, _RECOVERY_TIME)
    for one in answer["undone"]:
        whose = f"{one.get('user')}@{one.get('host')} since {clock(float(one.get('since') or 0))}"
        label = f' "{one["label"]}"' if one.get("label") else ""
        leases.tell(leases._lab.inventory.mask(f"{name}: undid after {one['why']}: {one['what']} (of {whose}{label})"))
    if answer["in_the_way"]:
        raise HostBusy([Holder.from_record(name, record) for record in answer["in_the_way"]])


def refuse_others(leases: Leases, host: Host, what: str) -> None:
    """Refuse to let a host go down on which others have locks of the whole lab.

    Raises:
        LeaseError: If so.
    """
    for one in leases.holders(host):
        if one.mode in ("exclusive", "shared") and one.token != leases._info["token"] and leases.enabled:
            raise LeaseError(f"{what} would take the lock {one.name!r} from {one.who}; wait for them", host.name)


def carry(leases: Leases, host: Host, seconds: float) -> str:
    """Have a host keep what is to be undone over a reboot, and stay ours meanwhile; return its boot id.

    Args:
        leases: Those of this process.
        host: Which.
        seconds: How long, at most.

    Raises:
        LeaseError: If something that is to be undone would be lost.
        Unsupported: If the host has no boot id, so that no reboot can be proved.
    """
    boot = str(_ask(leases, host, {"op": "carry", "seconds": seconds})["boot"])
    try:
        if not boot:
            raise Unsupported("reboot()", f"{host.name} has no boot id, so it could not be told from its last boot")
        leases.keep_over_reboot(host, seconds)
    except BaseException:
        resume(leases, host)
        raise
    return boot


def resume(leases: Leases, host: Host) -> None:
    """There is no reboot after all: everything is as before :func:`carry`."""
    try:
        _ask(leases, host, {"op": "resume"})
        leases.keep_over_reboot(host, 0)
    except (SessionError, LeaseError):
        pass  # it is gone after all; the reservation expires


def was_asked(leases: Leases, client: Any, boot: str) -> bool:
    """Whether another run, or another user, has ended that boot of a host on purpose."""
    if getattr(type(client), "_ask_keeper", None) is None:
        return False  # a dialer of somebody's own, whose clients have no keeper
    try:
        answer = client._ask_keeper({"op": "asked", "boot": boot, "directory": leases.directory}, _ANSWER_TIME)
    except (SessionError, TimeoutError):
        return False  # it is gone again
    return bool(answer.get("asked"))


def take_again(leases: Leases, host: Host) -> None:
    """Lock a host anew that was lost or has rebooted; see :meth:`easycluster.lab.Leases.take_again`."""
    client: Any = host._connection.session()
    with leases._lock:
        held = [lease for lease in leases._open if host.name in lease._parts]
        parts = [lease._parts[host.name] for lease in held]
        if all(part.client is client for part in parts):
            return
        before, owed = parts[0].client, leases._owed.get(host.name)
        try:
            for part in parts:
                part.client = client
            _adopt(leases, [part for part in parts if part.begun], owed)
            leases._owed.pop(host.name, None)
            for lease, part in zip(held, parts, strict=True):
                _take(leases, lease, part)
        except BaseException:
            # Whoever asks next tries again.
            for part in parts:
                part.client = before
            raise


def _take(leases: Leases, lease: Lease, part: Part) -> None:
    question = {"op": "take", "wanted": leases._wanted_in_all(part), "info": leases._info_of(lease)}
    end = time.monotonic() + _LET_GO_TIME
    while part.wanted:
        records = leases._ask(part, question)["in_the_way"]
        if not records:
            break
        # Our own session of before does not know yet that its link is gone.
        ours = all(record.get("token") == leases._info["token"] for record in records)
        if not ours or time.monotonic() > end:
            raise HostBusy([Holder.from_record(part.host.name, record) for record in records])
        time.sleep(0.05)
    begun = begin(leases, part, {"op": "begin", "directories": [], "alone": False})
    part.level = part.level if part.begun else begun["level"]
    part.baseline, part.begun = begun["baseline"], True


def _adopt(leases: Leases, parts: list[Part], owed: int | None) -> None:
    """Have a host's new session undo what the one before would have undone, each lease what is its own.

    Args:
        leases: Those of this process.
        parts: Of those that go on.
        owed: From where on it is of leases that have ended while the host was away: that is undone now.
    """
    if parts:
        rule = LockRule.of(parts[0].host._entry)
        question = {"op": "adopt", "lock": rule.name, "token": leases._info["token"]}
        levels = leases._ask(parts[0], question)["levels"]
        for part in parts:
            part.level = bisect_left(levels, part.level)
        if owed is not None:
            undone = leases._ask(parts[0], {"op": "undo", "level": bisect_left(levels, owed)}, _RECOVERY_TIME)
            for one in undone["failures"]:
                leases.tell(f"{rule.name}: undo failed: {one['what']}: {one['error']}")


def bring_back(lab: Lab, hosts: list[Host]) -> list[Failure]:
    """Switch hosts on that this process switched off, at the end of their lease; say what was wrong with that."""
    from easycluster.lab.power import bring_back as switch_on

    found = {host.name: switch_on(lab, host) for host in hosts}
    return [Failure(name, "power('on')", error) for name, error in found.items() if error]


def _ask(leases: Leases, host: Host, question: dict[str, Any]) -> dict[str, Any]:
    client: Any = host._connection.session()
    answer: dict[str, Any] = client._ask_keeper({**question, "directory": leases.directory}, _ANSWER_TIME)
    if "fault" in answer:
        raise LeaseError(answer["fault"], host.name)
    return answer
