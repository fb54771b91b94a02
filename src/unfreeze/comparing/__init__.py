"""Strategies, backbones and numbers of rows beside each other: same splits, same seeds, one verdict in words."""
