"""Operators for deployment: forward only, with the values of active connections held by row."""
