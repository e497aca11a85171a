"""The four acts of the demo: see a pattern, know what it reaches, train under it, and what it saves at length."""
