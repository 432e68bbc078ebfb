"""The environment and arguments of a stock ztunnel, as options of this agent; pure."""
