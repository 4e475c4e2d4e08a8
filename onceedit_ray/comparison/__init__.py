"""Methods side by side: the paper's tables as grids of cells, one method on one target over one data set each."""
