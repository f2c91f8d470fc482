"""An audit as text, as figures, as a page."""
