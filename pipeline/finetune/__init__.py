"""Training of encoders with a head, and of networks from scratch, end to end."""

#: The only "layer" of models that are trained or evaluated end to end.
END_TO_END = "end to end"
