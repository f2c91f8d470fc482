"""A run as it goes on: the display of the terminal that trains, and of another one that looks."""
