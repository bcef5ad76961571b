"""Numerical core for dynamical analysis, torch only: a map is passed in, no model is imported."""
