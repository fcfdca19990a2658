"""The way of every release: vet, claim, call, confirm. Reaches outside only through `ports`."""
