"""`python -m glm5_hal` is `glm5-hal`."""

from glm5_hal.cli import main

if __name__ == "__main__":
    main()
