"""kopf handlers. They hold no logic: each only names the job that is to be looked at."""
