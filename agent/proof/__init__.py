"""Proves what the agent claims: observations at most two seconds old, link by link, never intentions."""
