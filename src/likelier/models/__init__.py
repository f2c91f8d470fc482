"""Models: loading them safely, adapters, their layers, generation, sharding."""
