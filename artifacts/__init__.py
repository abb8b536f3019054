"""What a run leaves behind: predictions, fitted heads, tables. Written and read here alone."""
