"""Decoding, preprocessing and labels: what predicting needs, without torch."""
