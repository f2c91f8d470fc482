"""From files to token groups: sources, formats, split, tokenize, packing."""
