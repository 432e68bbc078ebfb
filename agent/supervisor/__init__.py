"""The control process's side of the workers: starts, adopts and watches them, deals out listeners."""
