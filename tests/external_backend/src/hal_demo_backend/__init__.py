"""A backend for glm5-hal in a package of its own; `pip install` is all it takes."""
