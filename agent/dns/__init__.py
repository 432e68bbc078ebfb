"""Names in the network: those that the control process looks up for workloads that have no other address."""
