"""One file for each thing that somebody wants. Reaches outside only through the ports of `releasing`."""
