"""Object stores behind one interface: S3 and folders."""
