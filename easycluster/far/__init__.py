"""What runs on the far side.  This package is shipped: standard library of Python 3.8 only."""
