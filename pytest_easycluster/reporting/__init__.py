"""Reports of a run that people and machines open: one page, traces, a step summary, extras for pytest-html.

recorder   hooks: takes reports as they arrive, and writes everything in the end
records    what is kept of a test: attempts, phases, verdict, hosts
evidence   what was seen on its hosts: calls, output, logs, counters, artifacts
page       puts the page together; its parts are in the folder of that name
trace      one file a test for Perfetto
summary    the step summary of GitHub
extras     what pytest-html shows of a test
targets    where it all goes: checked before the run, written in one step after it
"""
