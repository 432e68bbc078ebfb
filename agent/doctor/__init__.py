"""What `ztun doctor` looks at: one check for each thing that a node needs, without an agent too."""
