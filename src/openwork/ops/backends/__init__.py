"""Implementations of the one operation. They know neither each other nor the front door."""
