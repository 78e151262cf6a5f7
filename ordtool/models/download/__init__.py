"""Models brought here: from the hub, or as a wheel of the package registry, checked and converted once."""
