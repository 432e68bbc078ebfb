"""Which pods of this node the Kubernetes API says are to be captured, and what is said back there."""
