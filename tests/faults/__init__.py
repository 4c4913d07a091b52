"""The fault matrix: what we promise when something goes wrong, and what is measured.

``rows.py`` has a row for every fault.  A test proves a row by its marker, wherever the test lives, and notes
what it saw in the fixture ``outcome``::

    @pytest.mark.fault("killed")
    def test_a_killed_worker_ends_its_call(client, outcome):
        with outcome.raises(WorkerDied):
            client.kill_myself()
        outcome.cleaned("worker and its children")

``python -m tests.faults`` runs these tests and prints the matrix.  A row that no test proves is a failure.
"""
