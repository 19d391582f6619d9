"""One file a data set; its `DATA_SET` is all the commands know of it."""
