"""Post-training quantization: the map to integers (affine), its range (calibration), and running the result."""
