"""Measurements, one command each; every one prints a table and can write JSON."""
