"""Records of benchmark cells, their statistics and tables; also the ground floor that the other packages stand on."""
