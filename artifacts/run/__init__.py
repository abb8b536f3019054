"""The folder of a run: its files, written by recorders and read back with checks."""
