"""What papers and people claim of these methods, put to the test: one file a study, over one small harness."""
