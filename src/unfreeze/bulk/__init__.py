"""Predictions of very many rows: cut into pieces, done by many workers, each row written once."""
