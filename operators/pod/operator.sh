# Runs an operator: its code from the store, if it is what was submitted. Needs a python3 of 3.10 or later, nothing else.
# The file is read once: what was hashed is what is run. Nothing is imported from the folder it lies in, nor from here.
exec python3 -c '
import sys
sys.path = [place for place in sys.path if place]
import hashlib, os
with open(os.environ["FN"], "rb") as stream:
    source = stream.read()
if hashlib.sha256(source).hexdigest() != os.environ["FN_SHA256"]:
    print("shipped code differs from what was submitted", file=sys.stderr)
    sys.exit(66)
exec(compile(source, os.environ["FN"], "exec"))
'
