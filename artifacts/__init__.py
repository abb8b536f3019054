"""What is kept of a run, read back from disk: run files, saved models, ONNX files and reports."""
