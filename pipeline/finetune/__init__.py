"""Training an encoder and a head end to end. Alone in ``pipeline`` it knows audio and torch."""
