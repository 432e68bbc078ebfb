"""One connection's life: composes state, policy, identity and net. Runs in the workers."""
