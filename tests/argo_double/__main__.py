"""The double as a process of its own, which a test may kill: `python -m tests.argo_double ROOT STORE PORT`.

Token and Secrets come from the environment. It ends when it is killed; its pods do not.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from .server import ArgoDouble

root, store_url, port = sys.argv[1:]
token, secrets = os.environ["DOUBLE_TOKEN"], json.loads(os.environ["DOUBLE_SECRETS"])
ArgoDouble(Path(root), store_url, token=token, secrets=secrets, port=int(port)).server.serve_forever(0.05)
