"""How far a backend is: which op next, which requirement of it, how much of the model it serves."""
