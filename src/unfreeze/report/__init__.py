"""The page, the model card and the terminal summary of a run, made from plain data."""
