"""What an agent does on the network, for the benchmark of recording: it asks a server, and thinks about the answers.

    http_steps.py PORT REQUESTS [CASSETTE MODE]

With a cassette vcrpy records the requests (`all`) or answers them (`none`).
"""

import contextlib
import hashlib
import json
import sys
import urllib.request

port, requests, *cassette = sys.argv[1:]
recorder = contextlib.nullcontext()
if cassette:
    import vcr

    recorder = vcr.VCR().use_cassette(cassette[0], record_mode=cassette[1])
digest = ""
with recorder:
    for number in range(int(requests)):
        asked = json.dumps({"number": number, "so far": digest, "prompt": "x" * 2000}).encode()
        question = urllib.request.Request(f"http://127.0.0.1:{port}/{number}", asked)
        with urllib.request.urlopen(question, timeout=60) as answer:
            digest = hashlib.sha256(answer.read()).hexdigest()
print(digest)
