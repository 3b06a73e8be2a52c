from __future__ import annotations

from manman_status.cli import main

if __name__ == "__main__":
    main()
