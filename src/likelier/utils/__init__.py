"""What every room uses: errors, the console, files, strict JSON, ranks, statistics."""
