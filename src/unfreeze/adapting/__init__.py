"""A new domain without labels: how far it is, what helps there, and whether that is sure enough to be taken."""
