"""Entry point of ``python -m mmadapt``."""

from mmadapt.app import main
from mmadapt.sweeps.worker import is_worker, serve

if __name__ == "__main__":
    if is_worker():
        serve(main)
    else:
        main()
