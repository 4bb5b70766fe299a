"""Every fault of an upstream and of a client, in every phase, and what must hold whatever comes."""
