"""Studies: every encoder on every corpus, planned in one file and reported from its runs."""
