"""What every suite of this repository shares; only the top-level conftest may name ``pytest_plugins``."""

from __future__ import annotations

import os

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the example runs without the test extra
    pass
else:
    # No deadline: on a busy machine an example now and then waits for a processor, which is no fault of the code.
    settings.register_profile("local", deadline=None, max_examples=50)
    settings.register_profile("ci", deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("ci" if os.environ.get("CI") else "local")

pytest_plugins = ["pytester"]
