"""A model behind HTTP: one process, one machine, nothing kept."""
