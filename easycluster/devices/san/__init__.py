"""A storage target in a test: one live object, whatever stands behind it.

::

    target        what a test uses, and what a driver must do
    embedded      our own target in a process of its own: no root, no packages
    tgt           a real tgtd
    external      an array that is only logged in to
    conformance   iscsi-test-cu, its table read
"""

from __future__ import annotations
