"""The same decisions on real pixels: numpy and OpenCV, no torch."""
