"""Readers of run folders: nothing that trains imports them."""
