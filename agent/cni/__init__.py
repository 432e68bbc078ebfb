"""The CNI plugin, which a container runtime runs for each pod, and how it gets onto a node and off it again."""
