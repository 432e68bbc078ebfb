"""Takes pods from an istio-cni node agent, in the place of ztunnel."""
