"""Serving: many runs on few networks, behind one HTTP interface."""
