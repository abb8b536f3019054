"""Export of saved models to ONNX."""
