"""Side by side with the peers: ``python -m benchmarks`` from a checkout measures and prints a table.

The parts::

__main__.py      the command: options, rounds, table, JSON
environment.py   the private virtual environment of EasyCluster 0.22.3
child.py         what runs in a child: one peer, measured beside a raw TCP ping-pong; standard library only
connects.py      what a session costs before its first call: time, memory, import
report.py        medians over the rounds, the table, the targets
"""
