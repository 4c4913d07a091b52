"""What crosses the wire, without I/O: bytes in, values out, and back.  This package is shipped."""
