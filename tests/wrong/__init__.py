"""What goes wrong in labs, made to happen for real: ``python -m tests.wrong``, and the same rows as tests."""
