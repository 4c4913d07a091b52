"""One data link and everything both of its ends do alike.  Shipped to the far side."""
