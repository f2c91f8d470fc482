"""Several runs that differ in what is named and in nothing else, and what comes out of them."""
