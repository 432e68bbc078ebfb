"""Making pods part of the mesh: checks who they are, then has the kernel side capture them."""
