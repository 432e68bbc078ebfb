"""Frozen values of the mesh, with their parsing and formatting. Standard library only."""
