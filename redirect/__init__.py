"""The kernel side: programs, maps, namespaces, attachments. Knows kernels, not meshes; never imports agent."""
