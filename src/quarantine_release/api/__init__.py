"""The HTTP side: from the bytes of a request to what it asks for, and from a result to the answer's JSON."""
