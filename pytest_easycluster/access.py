"""The lab of this run, for fixtures and hooks; or the one sentence that says how to give one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from easycluster.lab import Hosts, Lab, Need, NoHostFits

NEEDS_LAB = "needs a lab: give --ec-inventory FILE"

LAB = pytest.StashKey["Lab"]()


def find_lab(config: pytest.Config) -> Lab | None:
    """The lab, or None in a run without."""
    return config.stash.get(LAB, None)


def need_lab(config: pytest.Config) -> Lab:
    """The lab; without one the test is skipped, or an error where the ini file says that a lab must be there."""
    lab = find_lab(config)
    if lab is not None:
        return lab
    why = why_a_lab_must_be_there(config)
    if why:
        fail(f"{NEEDS_LAB} ({why})")
    pytest.skip(NEEDS_LAB)


def why_a_lab_must_be_there(config: pytest.Config) -> str:
    """What says that a run without a lab is an error, ``""`` if nothing does."""
    if config.getini("ec_require_inventory"):
        return "ec_require_inventory is set"
    from pytest_easycluster.pool import missing

    return "missing hosts are to be errors" if missing(config) == "error" else ""


def fail(message: str, cause: BaseException | None = None) -> NoReturn:
    """End the setup of a test with a sentence instead of our stack: an error of the lab, not of the test's code.

    Args:
        message: The sentence.
        cause: What it is about, for the verdict.
    """
    failure = pytest.fail.Exception(message, pytrace=False)
    failure.easycluster_cause = cause  # type: ignore[attr-defined]  # ours
    raise failure


def select(config: pytest.Config, lab: Lab, needs: list[Need], test: str, avoid: Sequence[str] = ()) -> Hosts:
    """Pick hosts; a lab that has none that fit is an error or a skip that names every candidate."""
    from easycluster.lab import LabRequestError, NoHostFits

    try:
        return lab.select(needs, test, avoid=avoid)
    except NoHostFits as exc:
        error = exc
        # What is known to be broken is no news; the list says until when it may be.
        if lab.only_quarantine(needs, test):
            pytest.skip(str(error))
    except LabRequestError as exc:
        message = str(exc)
        fail(message)
    end_without_hosts(config, error)


def end_without_hosts(config: pytest.Config, error: NoHostFits) -> NoReturn:
    """End the setup of a test that the lab has no hosts for, as ``--ec-missing`` says."""
    from pytest_easycluster.pool import missing

    # What may be a typo must not be skipped, as if it were hardware that is not there.
    if missing(config) == "skip" and not error.unknown:
        pytest.skip(str(error))
    fail(str(error))


def connect(lab: Lab, hosts: Hosts) -> Hosts:
    """Connect to hosts at once; a host that cannot be reached is an error that names it, and so is faulty role code."""
    from easycluster.errors import EasyClusterError, Unsupported
    from easycluster.lab import HostErrors
    from pytest_easycluster.tracebacks import has_users_frames

    cause: Exception
    try:
        return hosts.connect()
    except Unsupported:
        raise  # the test is skipped
    except HostErrors as exc:
        cause = exc
        faults = {name: one for name, one in exc.by_host.items() if not isinstance(one, EasyClusterError)}
        texts = [f"{name}:\n{_text_of(one)}" for name, one in faults.items()]
        message = "\n\n".join([str(exc), *texts])
    except EasyClusterError as exc:
        cause = exc
        message = str(exc)
    except Exception as exc:
        cause = exc
        # The far side's frames are the best report; without any, pytest would show its own.
        if has_users_frames(exc):
            raise
        message = f"connecting failed on {', '.join(hosts.names)}\n{_text_of(exc)}"
    fail(lab.inventory.mask(message), cause)


def _text_of(exc: Exception) -> str:
    import traceback

    from pytest_easycluster.tracebacks import leave_out_our_own

    leave_out_our_own(exc)
    return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip()
