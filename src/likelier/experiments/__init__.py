"""Several runs that belong together: stages one after another, sweeps side by side."""
