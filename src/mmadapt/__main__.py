"""Entry point of ``python -m mmadapt``."""

from mmadapt.app import main

if __name__ == "__main__":
    main()
