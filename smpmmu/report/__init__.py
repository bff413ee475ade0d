"""Runs and results as text and data."""
