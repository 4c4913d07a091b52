"""What runs on every host: the coordinated start."""

import time


def start_at(moment):
    """Begin at a moment of the wall clock; return when it really was."""
    time.sleep(max(0.0, moment - time.time()))
    return time.time()
