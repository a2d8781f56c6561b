"""crossent in TRL: under its chunked log-probabilities and divergences."""
