"""ztun's node proxy: mutual TLS, identity, policy and telemetry for the pods of one node."""

VERSION = "0.1.0"
