"""Jobs over HTTP: who may ask, what may be opened, how it is answered. Computes nothing itself."""
