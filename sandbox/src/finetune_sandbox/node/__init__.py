"""The process node: a kubelet that runs the containers of pods as processes."""
