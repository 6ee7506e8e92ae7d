"""The front: Docker's own API for the whole fleet, so that any docker client works on it as it is."""
