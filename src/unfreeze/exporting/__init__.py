"""Export: a file that gives the same answer, or no file."""
