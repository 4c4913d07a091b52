"""Side by side with the peers: ``python -m benchmarks`` from a checkout measures, prints tables and makes a page.

The parts, in the order in which figures pass through them::

__main__.py      the command: options, what is measured, what is printed
machine.py       what this machine is, which cores are idle, what others do on it
environment.py   private virtual environments for libraries that are compared
runner.py        a child for each measure, round and peer; the sshd; the raw ping-pong between them
worker.py        the child: runs in the interpreter of its peer
peers/           an adapter for each library
measures/        what is measured; base.py has the clock, the pinning and where figures go
far/             what runs on the far side
results.py       figures as JSON: kept and merged
goals.py         what we want to reach
tables.py        figures as tables
plot.py          SVG; pictures.py says of which figures
document.py      docs/performance.md; thousand.py has its plan for more hosts than are here

``benchmarks.plugin`` and ``benchmarks.iscsi`` are commands of their own.
"""
