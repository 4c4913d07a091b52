"""Many sessions, many references, mixed work under faults: nothing is lost, done twice or left; see ``__main__``."""
