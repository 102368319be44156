"""What runs in the pods: prepare, train, evaluate, publish."""
