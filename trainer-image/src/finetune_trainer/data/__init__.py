"""From the rows of a dataset to tokenized files."""
